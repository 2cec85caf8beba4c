"""The laws of late fusion: a linear head on a concatenation, in which absent modalities are absent."""

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from cggm_med.errors import UnknownName
from cggm_med.models.late_fusion import FUSIONS, ConcatFusion, GatedFusion, LateFusionModel, SumFusion
from cggm_med.types import Features, Outputs

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


def model_with(fusion):
    encoders = {m: nn.Sequential(nn.Linear(INPUTS[m], 8), nn.Tanh(), nn.Linear(8, WIDTHS[m])) for m in MODALITIES}
    return LateFusionModel(encoders, WIDTHS, targets=5, fusion=fusion)


def gated_in_numpy(model, inputs, present):
    """The formula sample by sample over the modalities that it has, in float64."""

    def layer(linear, x):
        return linear.weight.detach().double().numpy() @ x + linear.bias.detach().double().numpy()

    rows = []
    for i in range(4):
        u = {}
        for m in MODALITIES:
            if present[m][i]:
                with torch.no_grad():
                    hidden = model.encoders[m](inputs[m][i : i + 1])[0].double().numpy()
                u[m] = layer(model.fusion.projections[m], hidden)
        gates = {m: np.mean([u[k] for k in u if k != m] or [np.zeros(model.fusion.width)], axis=0) for m in u}
        fused = sum(u[m] / (1 + np.exp(-gates[m])) for m in u) * len(MODALITIES) / len(u)
        rows.append(layer(model.head, fused))
    return np.stack(rows)


def test_concatenation_is_the_default_and_the_names_are_known():
    assert isinstance(model_with(FUSIONS["concat"]).fusion, ConcatFusion)
    assert list(FUSIONS) == ["concat", "sum", "gated"]
    default = LateFusionModel({"a": nn.Identity()}, {"a": 2}, targets=1)
    assert isinstance(default.fusion, ConcatFusion)
    assert [name for name, _ in default.named_parameters()] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS.keys())
@pytest.mark.parametrize("kept", SUBSETS)
def test_with_any_fusion_a_missing_modality_is_really_missing(fusion, kept, inputs):
    """Not given; marked absent, whatever stands there; and of no influence on any gradient."""
    model = model_with(fusion)
    expected = model(only(inputs, kept))
    nobody = torch.zeros(4, dtype=torch.bool)
    gone = {m: Features((torch.full((4, WIDTHS[m]), float("nan")),), nobody) for m in MODALITIES if m not in kept}
    marked = {**model.encode(only(inputs, kept)), **gone}
    logits = model.head(model.fuse(marked)[0])
    torch.testing.assert_close(logits, expected)
    model.zero_grad()
    logits.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    for m in gone:
        assert all(p.grad is None or not p.grad.any() for p in model.modality_parameters(m))


def test_sum_fusion_is_a_sum_of_layers(inputs):
    """OGM's ``fc_x(x) + fc_y(y)``, from the same weights; and drawn as layers of their own widths are."""
    model = model_with(SumFusion)
    layers = {m: nn.Linear(WIDTHS[m], 5) for m in MODALITIES}
    with torch.no_grad():
        for m, layer in layers.items():
            model.head_weight(m).copy_(layer.weight)
        model.head.bias.copy_(sum(layer.bias for layer in layers.values()))
    expected = sum(layers[m](model.encoders[m](inputs[m])) for m in MODALITIES)
    torch.testing.assert_close(model(inputs), expected)

    wide = {"a": 400, "b": 100}
    head = SumFusion(wide).new_head(300)
    for part, width in ((slice(400), 400), (slice(400, 500), 100)):
        bound = width**-0.5
        assert 0.99 * bound < head.weight[:, part].abs().max() <= bound
    assert 0.7 * (0.05 + 0.1) < head.bias.abs().max() <= 0.05 + 0.1  # two draws, up to 1 / 20 and 1 / 10


def test_sum_fusion_is_concatenation_for_every_strategy(inputs):
    """Given the same parameters: logits, shares, inputs and weights of the head."""
    summed, joined = model_with(SumFusion), model_with(ConcatFusion)
    joined.load_state_dict(summed.state_dict())
    assert torch.equal(summed(inputs), joined(inputs))
    shares, others = (model.linear_shares(model.encode(inputs)) for model in (summed, joined))
    assert all(torch.equal(shares[m], others[m]) for m in MODALITIES)
    torch.testing.assert_close(sum(shares.values()), summed(inputs))
    assert all(torch.equal(summed.head_weight(m), joined.head_weight(m)) for m in MODALITIES)


def test_gated_fusion_by_hand():
    """u = 2 and -1 with unit projections: sigmoid(-1) 2 - sigmoid(2) = 0.5379 - 0.8808; alone, half open: 2 / 2 * 2."""
    names = ("audio", "video")
    model = LateFusionModel({m: nn.Identity() for m in names}, dict.fromkeys(names, 1), targets=1, fusion=GatedFusion)
    with torch.no_grad():
        for layer in (model.head, *model.fusion.projections.values()):
            layer.weight.fill_(1)
            layer.bias.fill_(0)
    inputs = {"audio": torch.tensor([[2.0]]), "video": torch.tensor([[-1.0]])}
    assert model(inputs).item() == pytest.approx(-0.3429, abs=1e-4)
    assert model(only(inputs, ("audio",))).item() == pytest.approx(2)
    assert model(only(inputs, ("video",))).item() == pytest.approx(-1)


def test_gated_fusion_is_its_formula_where_samples_lack_different_modalities(inputs):
    model = model_with(lambda widths: GatedFusion(widths, width=7))
    present = {
        "audio": torch.tensor([True, False, True, False]),
        "text": torch.tensor([True, True, False, False]),
        "video": torch.tensor([True, True, True, True]),
    }
    features = {m: Features(f.maps, present[m]) for m, f in model.encode(inputs).items()}
    logits = model.head(model.fuse(features)[0]).detach().numpy()
    np.testing.assert_allclose(logits, gated_in_numpy(model, inputs, present), rtol=1e-4, atol=1e-5)
    everyone = {m: torch.ones(4, dtype=torch.bool) for m in MODALITIES}
    np.testing.assert_allclose(
        model(inputs).detach().numpy(), gated_in_numpy(model, inputs, everyone), rtol=1e-4, atol=1e-5
    )


def test_gated_fusion_of_two_is_ogms_gate_in_both_directions(inputs):
    kept = ("audio", "text")
    fusion = GatedFusion(only(WIDTHS, kept))
    vectors = {m: torch.randn(4, WIDTHS[m]) for m in kept}
    present = {m: torch.ones(4, dtype=torch.bool) for m in kept}
    x, y = (fusion.projections[m](vectors[m]) for m in kept)
    torch.testing.assert_close(fusion(vectors, present), torch.sigmoid(x) * y + torch.sigmoid(y) * x)


def test_gated_fusion_has_no_shares_and_its_head_reads_everything(inputs):
    model = model_with(GatedFusion)
    features = model.encode(inputs)
    outputs = model.predict([features])[0]
    assert model.fusion.width == 6  # as wide as the widest modality
    assert model.linear_shares(features) is None
    for m in MODALITIES:
        assert model.head_input(m, outputs) is outputs.fused[0]
        assert model.head_weight(m) is model.head.weight
    torch.testing.assert_close(outputs.fused[0] @ model.head.weight.T + model.head.bias, outputs.logits)


def test_with_gated_fusion_a_modality_trains_its_encoder_and_its_projection(inputs):
    model = model_with(GatedFusion)
    names = {id(p): name for name, p in model.named_parameters()}
    for m in MODALITIES:
        own = {names[id(p)] for p in model.modality_parameters(m)}
        model.zero_grad()
        model(only(inputs, (m,))).sum().backward()
        touched = {names[id(p)] for p in model.parameters() if p.grad is not None and p.grad.any()}
        assert touched == own | {"head.weight", "head.bias"}
        assert {f"fusion.projections.{m}.weight", f"fusion.projections.{m}.bias"} < own


@pytest.mark.parametrize("fusion", FUSIONS.values(), ids=FUSIONS.keys())
def test_a_sample_that_lacks_everything_gets_the_bias_with_any_fusion(fusion, inputs):
    model = model_with(fusion)
    nobody = torch.zeros(4, dtype=torch.bool)
    features = {m: Features(f.maps, nobody) for m, f in model.encode(inputs).items()}
    assert torch.equal(model.head(model.fuse(features)[0]), model.head.bias.expand(4, 5))
