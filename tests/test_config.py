"""Settings: layers override in order, types are strict, every mistake names its key."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

import pytest
import yaml

from cggm_med.config import (
    OptimConfig,
    TrainConfig,
    build_section,
    differences,
    parse_overrides,
    read_file,
    resolve,
    to_tree,
)
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.settings import completed, make_config


@dataclasses.dataclass(frozen=True)
class Sample:
    text: str | None = None
    sizes: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()
    flag: bool = False
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class Derived(Sample):
    # Python 3.10 refuses the first when it is asked for all annotations of a class, every Python the second.
    plain: ClassVar = {}
    unknown: ClassVar[NoSuchName] = {}  # noqa: F821
    sizes: tuple[int, int, int] = (1, 2, 3)


SECTIONS = dict.fromkeys(["task", "data", "model", "strategy"], Sample)


def test_later_layers_win_and_leave_the_rest():
    config = resolve(SECTIONS, [{"optim": {"lr": 1, "momentum": 0.5}}, {"optim": {"lr": 2}}])
    assert (config.optim.lr, config.optim.momentum) == (2.0, 0.5)


def test_defaults_preset_file_and_command_line_in_that_order():
    default = OptimConfig().momentum
    file = {"optim": {"lr": 0.1}, "train": {"epochs": 7}}
    config = make_config("brats2021", [file, parse_overrides(["train.epochs=9"])], preset="tiny")
    assert config.optim.momentum == default
    assert config.model.channels == (8, 16, 32, 64)  # preset
    assert config.optim.lr == 0.1  # file over preset
    assert config.train.epochs == 9  # command line over file


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ("data.rate=1e-3", "rate", 0.001),
        ("data.rate=2", "rate", 2.0),
        ("data.sizes=[3, '4']", "sizes", (3, 4)),
        ("data.names=[a,b]", "names", ("a", "b")),
        ("data.names=[]", "names", ()),
        ("data.flag=true", "flag", True),
        ("data.text=null", "text", None),
        ("data.text=5", "text", "5"),
    ],
)
def test_values_become_what_their_annotation_says(given, key, expected):
    value = getattr(resolve(SECTIONS, [parse_overrides([given])]).data, key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data.rate=fast", "data.rate is 'fast', expected a number"),
        ("data.sizes=[1]", "data.sizes is [1], expected 2 values"),
        ("data.sizes=3", "data.sizes is 3, expected a list"),
        ("data.flag=1", "data.flag is 1, expected true or false"),
        ("data.rate=true", "data.rate is True, expected a number"),
        ("train.epochs=1.5", "train.epochs is 1.5, expected a whole number"),
        ("train.epochs=.inf", "train.epochs is inf, expected a whole number"),
        ("data=3", "data is 3, expected settings"),
        ("optim.lr=-1", "optim.lr is -1.0, expected more than 0"),
        ("data.rate", "expected KEY=VALUE"),
        ("train.modality_dropout=[t1]", "['t1'], expected a number, or names and values such as {a: 1}"),
        ("data.rate=[", "is not valid YAML"),
    ],
)
def test_wrong_values_are_refused_by_key(given, message):
    with pytest.raises(ConfigError) as error:
        resolve(SECTIONS, [parse_overrides([given])])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "guess"),
    [
        ("optim.learning_rate=1", "optim.lr"),
        ("optim.wd=1", "optim.weight_decay"),
        ("optim.weight=1", "optim.weight_decay"),
        ("train.lr=1", "optim.lr"),
        ("data.batch_size=1", "train.batch_size"),
        ("train.max_epochs=1", "train.epochs"),
        ("train.batchsize=1", "train.batch_size"),
        ("data.raet=1", "data.rate"),
        ("optm.lr=1", "optim"),
        ("optim.zzz=1", None),
    ],
)
def test_unknown_keys_list_the_valid_ones_and_name_what_was_meant(given, guess):
    with pytest.raises(UnknownName, match="Known: ") as error:
        resolve(SECTIONS, [parse_overrides([given])])
    assert (f"Did you mean '{guess}'?" in str(error.value)) == (guess is not None)
    assert ("Did you mean" in str(error.value)) == (guess is not None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("seed=1", r"SECTION\.KEY=VALUE, such as (train\.seed=1)$"),
        ("learning_rate=1e-2", r"SECTION\.KEY=VALUE, such as (optim\.lr=1e-2)$"),
        ("task.modalities=flair,t1", r"expected a list such as (\[flair,t1\])$"),
        ("data.patch_size=32", r"expected a list such as (\[32,32,32\])$"),
        ("train.loggers=tensorboard", r"expected a list such as (\[tensorboard\])$"),
    ],
)
def test_what_a_message_says_helps(given, message):
    with pytest.raises(ConfigError) as error:
        make_config("brats2021", [parse_overrides([given])])
    (advice,) = re.search(message, str(error.value)).groups()
    make_config("brats2021", [parse_overrides([advice if "=" in advice else f"{given.partition('=')[0]}={advice}"])])


def test_a_literal_names_its_choices():
    with pytest.raises(UnknownName, match="Did you mean 'adamw'\\? Known: adam, adamw, sgd"):
        resolve(SECTIONS, [{"optim": {"name": "adamww"}}])


def test_a_resolved_configuration_reads_back_as_itself(tmp_path):
    import yaml

    config = make_config("brats2021", [{"task": {"modalities": ["t2", "flair"]}}])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_tree(config)))
    assert make_config("brats2021", [read_file(path)]) == config


def test_differences_name_dotted_keys():
    a, b = to_tree(make_config("brats2021", [])), to_tree(make_config("brats2021", [{"train": {"seed": 3}}]))
    assert differences(a, b) == ["train.seed: 0 != 3"]
    assert differences(a, a) == []


def test_configurations_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3


def test_a_settings_file_for_another_task_is_refused():
    with pytest.raises(ConfigError, match="the settings are of task 'food101', not .* say --task food101"):
        make_config("brats2021", [{"task": {"name": "food101"}}])


def test_class_variables_are_no_settings_and_their_annotations_are_not_read():
    built = build_section(Derived, {"sizes": [4, 5, "6"], "rate": "2"}, "data")
    assert (built.sizes, built.rate) == ((4, 5, 6), 2.0)
    with pytest.raises(UnknownName, match=r"no configuration key 'data\.plain'"):
        build_section(Derived, {"plain": {}}, "data")


def test_modality_dropout_is_one_rate_or_one_a_modality():
    assert train_config({"modality_dropout": "0.25"}).modality_dropout == 0.25
    tree = parse_overrides(["train.modality_dropout={flair: 0.4, t1: 1e-1}"])
    assert train_config(tree["train"]).modality_dropout == {"flair": 0.4, "t1": 0.1}
    assert parse_overrides(["train.modality_dropout.flair=0.4"])["train"] == {"modality_dropout": {"flair": 0.4}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flair": 1.0}, "train.modality_dropout.flair is 1.0, expected at least 0, below 1"),
        ({"flair": "often"}, "train.modality_dropout.flair is 'often', expected a number"),
        ([0.4], "train.modality_dropout is [0.4], expected a number"),
        (1.5, "train.modality_dropout is 1.5, expected at least 0, below 1"),
    ],
)
def test_impossible_rates_of_modality_dropout_are_named(given, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        train_config({"modality_dropout": given})


def train_config(values):
    return build_section(TrainConfig, values, "train")


def test_a_run_from_before_a_key_keeps_what_it_was_trained_with(tmp_path):
    """Its preset may say something else by now; the default of the new key is what the run did."""
    written = to_tree(make_config("mosi", [], preset="paper"))
    for key in ("schedule", "plateau_by", "heads_lr"):
        del written["optim"][key]
    written["optim"]["lr"] = 0.5
    optim = completed(written)["optim"]
    assert (optim["schedule"], optim["heads_lr"], optim["lr"]) == ("cosine", None, 0.5)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    assert RunFolder(tmp_path).settings_with({"train": {"log_every": 3}}).optim.schedule == "cosine"
    assert make_config("mosi", [], preset="paper").optim.schedule == "plateau"
