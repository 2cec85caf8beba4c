import pytest

from cggm_med.comparison.variants import Variant, parse_variants
from cggm_med.errors import ConfigError, UnknownName


def labels(*words):
    return [v.name for v in parse_variants(*words)]


def test_plain_names_and_settings_in_brackets():
    assert labels("joint, cggm[strategy.rho=1.3,train.epochs=5]") == ["joint", "cggm, rho=1.3, epochs=5"]
    assert labels("joint,\ncggm[strategy.rho=1.3,\ntrain.epochs=5]") == ["joint", "cggm, rho=1.3, epochs=5"]


def test_a_list_keeps_its_commas():
    (variant,) = parse_variants("joint[model.channels=[8,16]]")
    assert variant.overrides() == {"model": {"channels": [8, 16]}}


def test_a_grid_is_a_product_and_leaves_alone_what_has_no_such_setting():
    found = labels("joint,cggm", ["strategy.rho=1.0,1.3", "train.epochs=1,2"])
    assert found[:2] == ["joint, epochs=1", "joint, epochs=2"]
    assert len(found) == 2 + 4


def test_the_same_variant_twice_is_one():
    assert labels("joint,cggm,joint") == ["joint", "cggm"]


def test_folders_are_plain_names():
    variant = Variant("uniform", (("model.channels", "[8, 16]"), ("train.device", "cuda:0")))
    assert variant.folder == "uniform,channels=_8,16_,device=cuda_0"
    assert "/" not in Variant("joint", (("train.device", "../x"),)).folder


def test_keys_that_end_alike_are_written_in_full():
    assert Variant("cggm", (("strategy.name", "a"), ("optim.name", "b"))).name == "cggm, strategy.name=a, optim.name=b"


@pytest.mark.parametrize(
    ("strategies", "grid", "says"),
    [
        ("", [], "names nothing"),
        ("joint[", [], "brackets"),
        ("joint]x[", [], "brackets"),
        ("joint[rho=1]", [], "expected SECTION.KEY=VALUE"),
        ("joint[data.path=x]", [], "with a section of strategy, train, optim, model"),
        ("joint", ["strategy.rho=1,2"], "no strategy of --strategies has such a setting"),
        ("cggm", ["strategy.rho"], "--grid strategy.rho"),
        ("cggm", ["strategy.rho=,"], "at least one value"),
        ("joint x", [], "expected NAME"),
    ],
)
def test_words_that_say_nothing(strategies, grid, says):
    with pytest.raises(ConfigError, match=says):
        parse_variants(strategies, grid)


def test_an_unknown_strategy():
    with pytest.raises(UnknownName, match="Did you mean 'uniform'"):
        parse_variants("unifrom")


def test_unimodal_is_joint_training_on_each_modality():
    assert [v.assignments for v in parse_variants("unimodal[optim.lr=1e-2]", modalities=("flair", "t1"))] == [
        ["task.modalities=[flair]", "optim.lr=1e-2"],
        ["task.modalities=[t1]", "optim.lr=1e-2"],
    ]
