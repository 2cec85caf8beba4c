"""The laws of the multimodal U-Net: absent modalities are really absent, and fusion is a concatenation in disguise."""

import copy

import pytest
import torch
from torch.nn import functional as F

from cggm_med.errors import UnknownName
from cggm_med.models.fusion import MaskedFusion, ResidualFusion
from cggm_med.models.heads import UnimodalHeads, VoxelwiseHead, scale_gradient
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.types import Features

MODALITIES = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(params=[MaskedFusion, ResidualFusion])
def model(request):
    return SegmentationModel(MODALITIES, regions=3, channels=(4, 6, 8), fusion=request.param).eval()


@pytest.fixture
def inputs():
    return {m: torch.randn(2, 1, 16, 16, 16) for m in MODALITIES}


def without(inputs, *dropped):
    return {m: x for m, x in inputs.items() if m not in dropped}


@pytest.mark.parametrize("dropped", [(), ("flair",), ("t1", "t2"), ("flair", "t1", "t1ce")])
def test_dropping_a_modality_equals_never_having_loaded_it(model, inputs, dropped):
    """Bit for bit: not given; features discarded; marked absent in every sample; and a model that never had it."""
    expected = model(without(inputs, *dropped))
    features = model.encode(inputs)
    kept = {m: f for m, f in features.items() if m not in dropped}
    assert torch.equal(model.head(model.fuse(kept)[0]), expected)

    nobody = torch.zeros(2, dtype=torch.bool)
    marked = {m: Features(f.maps, nobody) if m in dropped else f for m, f in features.items()}
    assert torch.equal(model.head(model.fuse(marked)[0]), expected)

    kept = [m for m in MODALITIES if m not in dropped]
    smaller = SegmentationModel(kept, regions=3, channels=(4, 6, 8), fusion=type(model.fusion)).eval()
    state = model.state_dict()
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    assert torch.equal(smaller(without(inputs, *dropped)), expected)


def test_a_sample_that_lacks_a_modality_does_not_touch_its_neighbours(model, inputs):
    features = model.encode(inputs)
    features["t2"] = Features(features["t2"].maps, torch.tensor([True, False]))
    logits = model.head(model.fuse(features)[0])
    alone = {m: x[1:] for m, x in without(inputs, "t2").items()}
    torch.testing.assert_close(logits[1:], model(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits[:1], model({m: x[:1] for m, x in inputs.items()}), rtol=1e-4, atol=1e-5)


def test_what_stands_in_an_absent_sample_does_not_matter_even_if_it_is_nan(model, inputs):
    present = torch.tensor([True, False])
    features = model.encode(inputs)
    spoilt = tuple(torch.cat([x[:1], torch.full_like(x[1:], float("nan"))]) for x in features["t2"].maps)
    clean = {**features, "t2": Features(features["t2"].maps, present)}
    dirty = {**features, "t2": Features(spoilt, present)}
    assert torch.equal(model.fuse(dirty)[0], model.fuse(clean)[0])


def test_leaving_a_modality_out_is_not_the_same_as_zeros(model, inputs):
    zeros = {**inputs, "t1": torch.zeros_like(inputs["t1"])}
    assert not torch.allclose(model(zeros), model(without(inputs, "t1")))


def test_full_fusion_is_a_concatenation_and_a_convolution():
    """Independent authority: torch's own convolution on concatenated channels."""
    fusion = MaskedFusion(("a", "b"), (3,))
    maps = {m: torch.randn(2, 3, 4, 4, 4) for m in "ab"}
    weight = torch.cat([fusion.projections[m][0].weight for m in "ab"], dim=1) / 2
    bias = sum(fusion.projections[m][0].bias for m in "ab") / 2
    expected = F.conv3d(torch.cat([maps["a"], maps["b"]], dim=1), weight, bias)
    torch.testing.assert_close(fusion([{m: Features((x,)) for m, x in maps.items()}])[0][0], expected)


def test_fusion_of_two_constant_maps_by_hand():
    """Projections 2x + 1 and 3x - 1 of the value 5: (11 + 14) / 2 with both, 14 with the second alone."""
    fusion = MaskedFusion(("a", "b"), (1,))
    for modality, weight, bias in (("a", 2.0, 1.0), ("b", 3.0, -1.0)):
        fusion.projections[modality][0].weight.data.fill_(weight)
        fusion.projections[modality][0].bias.data.fill_(bias)
    five = Features((torch.full((1, 1, 1, 1, 1), 5.0),))
    assert fusion([{"a": five, "b": five}])[0][0].item() == 12.5
    assert fusion([{"b": five}])[0][0].item() == 14


def test_several_views_at_once_are_the_views_one_by_one(model, inputs):
    features = model.encode(inputs)
    nobody = torch.tensor([True, False])
    views = [
        features,
        {m: f for m, f in features.items() if m != "flair"},
        {m: Features(f.maps, nobody) if m in ("flair", "t2") else f for m, f in features.items()},
        {"t1": features["t1"]},
    ]
    before = {m: [x.clone() for x in f.maps] for m, f in features.items()}
    for together, view in zip(model.predict(views), views, strict=True):
        assert torch.equal(together.logits, model.head(model.fuse(view)[0]))
        assert together.features == view
    assert all(torch.equal(a, b) for m in MODALITIES for a, b in zip(before[m], features[m].maps, strict=True))


def test_gradients_through_several_views_add_up(model, inputs):
    def gradient(predict) -> list[torch.Tensor]:
        model.zero_grad()
        features = model.encode(inputs)
        views = [features, {m: features[m] for m in ("t1", "t2")}]
        sum(x.square().mean() for x in predict(views)).backward()
        return [p.grad.clone() for p in model.parameters()]

    together = gradient(lambda views: [x.logits for x in model.predict(views)])
    apart = gradient(lambda views: [model.head(model.fuse(view)[0]) for view in views])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


def test_the_order_in_which_modalities_are_given_does_not_matter(model, inputs):
    assert torch.equal(model(dict(reversed(inputs.items()))), model(inputs))


def test_modality_parameters_cover_everything_that_only_one_modality_trains(model, inputs):
    """Authority: autograd. With one modality given, the others' parameters and heads, and only theirs, get no gradient.

    Heads are not balanced, whether the network or the strategy has them.
    """
    for modality in MODALITIES:
        model.zero_grad()
        model({modality: inputs[modality]}).sum().backward()
        without_gradient = {id(p) for p in model.parameters() if p.grad is None}
        others = {id(p) for m in MODALITIES if m != modality for p in model.modality_parameters(m)}
        heads = {} if model.heads is None else model.heads.heads
        assert without_gradient == others | {id(p) for m in heads if m != modality for p in heads[m].parameters()}


def test_no_modality_and_unknown_modality_are_errors(model, inputs):
    with pytest.raises(ValueError, match="no modality to fuse"):
        model({})
    with pytest.raises(UnknownName, match="no modality in this model 'dwi'"):
        model({"dwi": inputs["t1"]})
    with pytest.raises(UnknownName, match="no modality in this model 'dwi'"):
        model.modality_parameters("dwi")


def test_deep_supervision_predicts_coarser_only_while_training(inputs):
    model = SegmentationModel(MODALITIES, regions=3, channels=(4, 6, 8, 8), deep_supervision=True)
    fused = model.fuse(model.encode(inputs))
    assert [tuple(x.shape[1:]) for x in model.deep_logits(fused)] == [(3, 8, 8, 8), (3, 4, 4, 4)]
    assert model.eval().deep_logits(fused) == ()


def test_heads_predict_at_half_the_grid_and_follow_missing_modalities(model, inputs):
    heads = UnimodalHeads({m: VoxelwiseHead((4, 6, 8), regions=3) for m in MODALITIES})
    found = heads(model.encode(without(inputs, "t1")))
    assert list(found) == ["flair", "t1ce", "t2"]
    assert found["t2"].logits.shape == (2, 3, 8, 8, 8)
    assert found["t2"].hidden.shape[1] == model.head_weight("t2").shape[1]


def test_a_head_reads_only_its_own_modality(model, inputs):
    heads = UnimodalHeads({m: VoxelwiseHead((4, 6, 8), regions=3) for m in MODALITIES})
    before = heads(model.encode(inputs))["flair"].logits
    changed = {m: x if m == "flair" else x + 1 for m, x in inputs.items()}
    assert torch.equal(heads(model.encode(changed))["flair"].logits, before)


@pytest.mark.parametrize(("weight", "expected"), [(0.3, 0.6), (1.0, 2.0), (0.0, 0.0)])
def test_scaling_a_gradient_leaves_the_value_alone(weight, expected):
    x = torch.tensor([3.0], requires_grad=True)
    y = scale_gradient(x, weight) * 2 + x * 0
    assert y.item() == 6
    y.backward()
    assert x.grad.item() == pytest.approx(expected)


def test_all_parameters_learn(model, inputs):
    trained = copy.deepcopy(model).train()
    trained(inputs).square().mean().backward()
    assert [name for name, p in trained.named_parameters() if p.grad is None] == []
