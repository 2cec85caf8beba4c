"""A prediction over the heads is their mean plus what the decoder adds, and its heads are the strategy's."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.fusion import ResidualFusion
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.parts.last_layer import last_layer_gradients
from cggm_med.task.footprint import Network, footprint
from cggm_med.testing.problems import (
    CPU,
    MODALITIES,
    SEGMENTATION,
    finite_state,
    lacking,
    make,
    one_step,
    set_up,
    small_batch,
    small_model,
    trained,
)
from cggm_med.types import Features

RESIDUAL = dataclasses.replace(
    SEGMENTATION,
    model=lambda modalities=MODALITIES, seed=0: small_model(
        modalities, seed, fusion=ResidualFusion, deep_supervision=True
    ),
)
STILL = OptimConfig(name="sgd", lr=1e-30, momentum=0, weight_decay=0)  # an update that rounds to none


def test_all_other_weights_are_those_of_a_network_without():
    plain, model = small_model(deep_supervision=True).state_dict(), RESIDUAL.model().state_dict()
    assert {name.split(".")[0] for name in model.keys() - plain.keys()} == {"heads"}
    assert all(torch.equal(model[name], value) for name, value in plain.items())


def says(model, **values):
    """Heads and decoder that predict the same number everywhere."""
    for part, value in [(model.head.conv.conv, values.pop("decoder"))] + [
        (model.heads.heads[m].last, value) for m, value in values.items()
    ]:
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.constant_(part.bias, value)


def test_of_constant_heads_by_hand():
    """Heads that say 2 and 5, and a decoder that adds 0.5: 4.0 with both, 5.5 with the second alone."""
    model = SegmentationModel(["a", "b"], regions=1, channels=(2, 4), fusion=ResidualFusion).eval()
    says(model, a=2.0, b=5.0, decoder=0.5)
    inputs = {m: torch.randn(3, 1, 8, 8, 8) for m in "ab"}
    assert (model(inputs) == 4.0).all()
    assert (model({"b": inputs["b"]}) == 5.5).all()
    features = model.encode(inputs, {"a": torch.tensor([True, False, False]), "b": torch.tensor([True, True, False])})
    logits = model.head(model.fuse(features)[0])
    assert [set(sample.flatten().tolist()) for sample in logits] == [{4.0}, {5.5}, {0.5}]


def test_heads_are_brought_to_the_grid_by_linear_interpolation():
    """Authority: SciPy, at the places where voxels of an anisotropic grid lie on that of the heads."""
    encoder = lambda channels: UNetEncoder(channels, strides=[(1, 1, 1), (1, 2, 2), (2, 2, 2)])  # noqa: E731
    model = SegmentationModel(["a", "b"], 1, (2, 3, 4), fusion=ResidualFusion, encoder=encoder).eval()
    says(model, decoder=0.25)
    features = model.encode({m: torch.randn(1, 1, 4, 8, 12) for m in "ab"})
    coarse = torch.stack([model.heads.logits(m, f) for m, f in features.items()]).mean(0)[0, 0].detach().numpy()
    assert coarse.shape == (4, 4, 6)
    places = np.meshgrid(np.arange(4), (np.arange(8) + 0.5) / 2 - 0.5, (np.arange(12) + 0.5) / 2 - 0.5, indexing="ij")
    expected = map_coordinates(coarse, places, order=1, mode="nearest") + 0.25
    found = model.head(model.fuse(features)[0])[0, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_coarser_predictions_build_on_the_heads_as_well():
    """The first of them is on the heads' own grid: their mean, and what the coarser maps add."""
    model = RESIDUAL.model().train()
    features = model.encode(small_batch().inputs)
    (outputs,) = model.predict([features])
    mean = torch.stack([x.logits for x in model.heads(features).values()]).mean(0)
    (deep,), maps = outputs.deep_logits, outputs.fused[1][:, : model.channels[1]]
    torch.testing.assert_close(deep, mean + model.deep_heads[0].conv(maps))


def test_the_fused_loss_teaches_heads_and_encoders_through_the_mean():
    """With a decoder that adds nothing, whatever learns learns from the mean of the heads."""
    model = RESIDUAL.model()
    says(model, decoder=0.0)
    model(small_batch().inputs).square().mean().backward()
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"encoders", "heads", "head"}


@pytest.mark.parametrize("held", [None, 0.0, float("nan")])
def test_an_absent_modality_is_not_there(held):
    """Neither its encoder nor its head learns from samples without it, whatever stands in its place."""
    model, strategy = RESIDUAL.model(), make("uniform")
    set_up(strategy, model, problem=RESIDUAL)
    batch = lacking(small_batch(), {"t1": [0, 1]}, held)
    losses = one_step(model, strategy, make_optimizer(model, strategy, STILL, CPU), batch, 0, RESIDUAL)
    of_t1 = [*model.modality_parameters("t1"), *model.heads.heads["t1"].parameters()]
    assert all(p.grad is None or not p.grad.any() for p in of_t1)
    without = {m: f for m, f in model.encode(small_batch().inputs).items() if m != "t1"}
    expected = strategy.losses(model, model.predict([without])[0], batch.target, RESIDUAL.criterion, None)["task"]
    assert torch.equal(losses["task"], expected.detach())


def test_gradient_of_the_last_layer_is_that_of_autograd():
    model = RESIDUAL.model()
    batch = small_batch()
    features = model.encode(batch.inputs)
    outputs = dataclasses.replace(model.predict([features])[0], unimodal=model.heads(features))
    pairs = last_layer_gradients(model, outputs, batch.target, RESIDUAL.criterion)
    (expected,) = torch.autograd.grad(RESIDUAL.criterion(outputs.logits, batch.target), model.head.conv.conv.weight)
    assert list(pairs) == list(MODALITIES)
    for fused, _ in pairs.values():
        torch.testing.assert_close(fused, expected.flatten(1), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.* is for comparison")
@pytest.mark.parametrize("name", registry.names(registry.STRATEGIES))
def test_it_trains_with_every_strategy(name):
    """One with heads shares the network's; every parameter is in one group; both views of a step are trained."""
    strategy = make(name)
    model = type(strategy).network(MODALITIES, RESIDUAL.model, RESIDUAL.average)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    options = TrainConfig(modality_dropout=0.5, modality_dropout_draw="subset", subset_view=0.5)
    trained(strategy, steps=2, model=model, problem=RESIDUAL, settings=options)
    assert finite_state(model)
    assert all(not torch.equal(value, before[key]) for key, value in model.state_dict().items() if "heads" in key)
    if strategy.heads is not None:
        assert strategy.heads is model.heads
    groups = make_optimizer(model, strategy, OptimConfig(), CPU).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for module in (model, strategy) for p in module.parameters()})


def test_without_heads_of_the_strategy_the_network_has_its_own():
    model, strategy = RESIDUAL.model(), make("joint", heads=False)
    set_up(strategy, model, problem=RESIDUAL)
    assert strategy.heads is None
    *_, last = make_optimizer(model, strategy, OptimConfig(), CPU).param_groups
    assert last["heads"]
    assert last["params"] == list(model.heads.parameters())


def test_the_footprint_counts_the_heads_once():
    network = Network(2, 1, False, (4, 8), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3), (3, 3, 3)))
    plain, over_heads = (
        footprint(dataclasses.replace(network, fusion=name), (16, 16, 16), 1, low_precision=False)
        for name in ("masked_mean", "residual")
    )
    assert over_heads.parameters == plain.parameters
    assert over_heads.activations > plain.activations


def test_a_head_is_asked_once_for_several_views(monkeypatch):
    model = RESIDUAL.model()
    features: dict[str, Features] = model.encode(small_batch().inputs)
    asked = []
    real = model.heads.logits
    monkeypatch.setattr(model.heads, "logits", lambda m, f: asked.append(m) or real(m, f))
    model.predict([features, {"t1": features["t1"]}])
    assert asked == list(MODALITIES)
