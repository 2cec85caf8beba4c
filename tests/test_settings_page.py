"""The page of all settings says what the code says."""

import dataclasses
import re
from pathlib import Path

from cggm_med import registry
from cggm_med.config import to_tree
from cggm_med.runs.settings import make_config

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
PRESETS = ("tiny", "base", "full", "paper")


def shown(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_key_stands_there_with_its_value_in_each_preset():
    rows = re.findall(r"^\| `([\w.]+)`" + r" \| ([^|]+?)" * len(PRESETS) + r" \| [^|]+ \|$", PAGE.read_text(), re.M)
    written = {key: tuple(values) for key, *values in rows}
    trees = [to_tree(make_config("brats2021", [], preset=preset)) for preset in PRESETS]
    keys = [f"{section}.{key}" for section, part in trees[0].items() if isinstance(part, dict) for key in part]
    expected = {key: tuple(shown(tree[key.split(".")[0]][key.split(".")[1]]) for tree in trees) for key in keys}
    assert written == expected


def test_every_strategy_has_its_keys_and_defaults_there():
    """Those of the default strategy stand in the columns of the presets."""
    for name in set(registry.names(registry.STRATEGIES)) - {"cggm"}:
        config = registry.load(registry.STRATEGIES, name).Config(name)
        expected = {f"strategy.{f.name}": shown(getattr(config, f.name)) for f in dataclasses.fields(config)}
        del expected["strategy.name"]
        found = re.search(rf"^With .*`strategy\.name={name}`.*:\n\n((?:\|.*\n)+)", PAGE.read_text(), re.M)
        table = found[1] if found else ""
        assert dict(re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \| [^|]+ \|$", table, re.M)) == expected, name
