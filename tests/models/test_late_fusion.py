"""The laws of late fusion: a linear head on a concatenation, in which absent modalities are absent."""

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from cggm_med.errors import UnknownName
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.typing import Features, Outputs

WIDTHS = {"audio": 4, "text": 6, "video": 3}
INPUTS = {"audio": 2, "text": 5, "video": 7}
MODALITIES = tuple(WIDTHS)
SUBSETS = [kept for size in (1, 2) for kept in combinations(MODALITIES, size)]


@pytest.fixture
def model():
    encoders = {m: nn.Sequential(nn.Linear(INPUTS[m], 8), nn.Tanh(), nn.Linear(8, WIDTHS[m])) for m in MODALITIES}
    return LateFusionModel(encoders, WIDTHS, targets=5)


@pytest.fixture
def inputs():
    return {m: torch.randn(4, size) for m, size in INPUTS.items()}


def only(values, kept):
    return {m: values[m] for m in kept}


def in_numpy(model, inputs, present=None):
    """``M / count * sum of W_m h_m + b`` over the modalities of each sample, in float64."""
    weight, bias = (x.detach().double().numpy() for x in (model.head.weight, model.head.bias))
    some = len(next(iter(inputs.values())))
    total, count, start = np.zeros((some, 5)), np.zeros((some, 1)), 0
    for m in MODALITIES:
        if m in inputs:
            here = np.ones((some, 1)) if present is None else present[m].numpy()[:, None]
            with torch.no_grad():
                hidden = model.encoders[m](inputs[m]).double().numpy()
            total += here * (hidden @ weight[:, start : start + WIDTHS[m]].T)
            count += here
        start += WIDTHS[m]
    return total * (len(MODALITIES) / count) + bias


def test_full_fusion_is_concatenation_and_a_linear_layer(model, inputs):
    joined = torch.cat([model.encoders[m](inputs[m]) for m in MODALITIES], dim=1)
    assert torch.equal(model.fuse(model.encode(inputs))[0], joined)
    assert torch.equal(model(inputs), model.head(joined))


@pytest.mark.parametrize("kept", [*SUBSETS, MODALITIES])
def test_any_subset_is_the_sum_of_its_slices_times_all_over_present(model, inputs, kept):
    logits = model(only(inputs, kept)).detach().numpy()
    np.testing.assert_allclose(logits, in_numpy(model, only(inputs, kept)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept", SUBSETS)
def test_a_missing_modality_equals_never_having_had_it_up_to_the_scale(model, inputs, kept):
    """Not given; marked absent in every sample; and a smaller model, whose features are not scaled."""
    expected = model(only(inputs, kept))
    features = model.encode(inputs)
    nobody = torch.zeros(4, dtype=torch.bool)
    marked = {m: f if m in kept else Features(f.maps, nobody) for m, f in features.items()}
    assert torch.equal(model.head(model.fuse(marked)[0]), expected)
    assert torch.equal(model.head(model.fuse(only(features, kept))[0]), expected)

    smaller = LateFusionModel({m: copy.deepcopy(model.encoders[m]) for m in kept}, WIDTHS, targets=5)
    with torch.no_grad():
        smaller.head.weight.copy_(torch.cat([model.head_weight(m) for m in kept], dim=1))
        smaller.head.bias.zero_()
    scaled = smaller(only(inputs, kept)) * (3 / len(kept)) + model.head.bias
    torch.testing.assert_close(scaled, expected)


def test_samples_may_lack_different_modalities(model, inputs):
    present = {
        "audio": torch.tensor([True, False, True, False]),
        "text": torch.tensor([True, True, False, False]),
        "video": torch.tensor([True, True, True, True]),
    }
    features = {m: Features(f.maps, present[m]) for m, f in model.encode(inputs).items()}
    logits = model.head(model.fuse(features)[0])
    np.testing.assert_allclose(logits.detach().numpy(), in_numpy(model, inputs, present), rtol=1e-4, atol=1e-5)
    for i in range(4):
        alone = {m: x[i : i + 1] for m, x in inputs.items() if present[m][i]}
        torch.testing.assert_close(logits[i : i + 1], model(alone))


def test_scales_by_hand():
    """Features 1, 2, 4, weights 1, bias 10: 7 + 10; without the second 5 * 3/2 + 10; the last alone 4 * 3 + 10."""
    model = LateFusionModel({m: nn.Identity() for m in MODALITIES}, dict.fromkeys(MODALITIES, 1), targets=1)
    nn.init.ones_(model.head.weight)
    nn.init.constant_(model.head.bias, 10.0)
    inputs = {m: torch.full((1, 1), value) for m, value in zip(MODALITIES, (1.0, 2.0, 4.0), strict=True)}
    assert model(inputs).item() == 17
    assert model(only(inputs, ("audio", "video"))).item() == 17.5
    assert model(only(inputs, ("video",))).item() == 22


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_stands_in_an_absent_sample_does_not_matter(model, inputs, bad):
    present = torch.tensor([True, False, True, True])
    found = []
    for filler in (0.0, bad):
        features = model.encode(inputs)
        here = torch.where(present[:, None], features["text"].maps[0], filler)
        features["text"] = Features((here,), present)
        logits = model.head(model.fuse(features)[0])
        model.zero_grad()
        logits.sum().backward()
        found.append([logits, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.isfinite(x).all() for x in found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_sample_that_lacks_everything_gets_the_bias(model, inputs):
    nobody = torch.zeros(4, dtype=torch.bool)
    features = {m: Features(f.maps, nobody) for m, f in model.encode(inputs).items()}
    assert torch.equal(model.head(model.fuse(features)[0]), model.head.bias.expand(4, 5))


def test_the_order_in_which_modalities_are_given_does_not_matter(model, inputs):
    turned = dict(reversed(inputs.items()))
    assert torch.equal(model(turned), model(inputs))
    shares, others = (model.linear_shares(model.encode(x)) for x in (inputs, turned))
    assert list(shares) == list(others) == list(MODALITIES)


def test_shares_sum_to_the_logits(model, inputs):
    shares = model.linear_shares(model.encode(inputs))
    torch.testing.assert_close(sum(shares.values()), model(inputs))
    # By its own definition: what a modality adds does not depend on the others.
    alone = model.linear_shares(model.encode(only(inputs, ("text",))))
    assert torch.equal(alone["text"], shares["text"])
    weight = model.head.weight[:, 4:10]
    expected = model.encoders["text"](inputs["text"]) @ weight.T + model.head.bias / 3
    torch.testing.assert_close(shares["text"], expected)


@pytest.mark.parametrize("kept", [*SUBSETS, MODALITIES])
def test_slices_of_the_heads_input_and_weight_reproduce_the_logits(model, inputs, kept):
    features = model.encode(only(inputs, kept))
    outputs = model.predict([features])[0]
    total = model.head.bias
    for m in MODALITIES:
        x, weight = model.head_input(m, outputs), model.head_weight(m)
        assert x.shape == (4, WIDTHS[m])
        assert weight.shape == (5, WIDTHS[m])
        assert m in kept or not x.any()
        total = total + x @ weight.T
    torch.testing.assert_close(total, outputs.logits)
    assert isinstance(outputs, Outputs)
    assert outputs.deep_logits == ()


def test_slices_of_the_weight_are_views_of_all_of_it(model):
    joined = torch.cat([model.head_weight(m) for m in MODALITIES], dim=1)
    assert torch.equal(joined, model.head.weight)
    assert {model.head_weight(m).data_ptr() for m in MODALITIES} == {
        model.head.weight[:, start].data_ptr() for start in (0, 4, 10)
    }


def test_a_modality_trains_its_encoder_and_nothing_else(model, inputs):
    """By name, and by what has a gradient when the other modalities' inputs are given as constants."""
    names = {id(p): name for name, p in model.named_parameters()}
    for m in MODALITIES:
        own = [names[id(p)] for p in model.modality_parameters(m)]
        assert own == [f"encoders.{m}.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
        model.zero_grad()
        model(only(inputs, (m,))).sum().backward()
        touched = {names[id(p)] for p in model.parameters() if p.grad is not None and p.grad.any()}
        assert touched - {"head.weight", "head.bias"} == set(own)


def test_views_share_features_and_are_predicted_one_by_one(model, inputs):
    features = model.encode(inputs)
    views = [features, only(features, ("audio", "video"))]
    for outputs, kept in zip(model.predict(views), (MODALITIES, ("audio", "video")), strict=True):
        assert torch.equal(outputs.logits, model(only(inputs, kept)))
        assert tuple(outputs.features) == kept


def test_no_modality_or_an_unknown_one_is_an_error(model, inputs):
    with pytest.raises(ValueError, match="no modality to fuse: give at least one of audio, text, video"):
        model({})
    with pytest.raises(UnknownName, match="smell"):
        model({"smell": inputs["audio"]})
