"""The page of all settings says what the code says."""

import re
from pathlib import Path

from cggm_med.config import to_tree
from cggm_med.settings import make_config

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
PRESETS = ("tiny", "base", "full")


def shown(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_key_stands_there_with_its_value_in_each_preset():
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.+?) \| (.+?) \|", PAGE.read_text(), re.M)
    written = {key: tuple(values) for key, *values in rows}
    trees = [to_tree(make_config("brats2021", [], preset=preset)) for preset in PRESETS]
    keys = [f"{section}.{key}" for section, part in trees[0].items() if isinstance(part, dict) for key in part]
    expected = {key: tuple(shown(tree[key.split(".")[0]][key.split(".")[1]]) for tree in trees) for key in keys}
    assert written == expected
