"""A network may start from the regions' shares: what its last layers then say, and that a run does so."""

import pytest
import torch
from helpers.small_runs import quiet, small_config

from cggm_med.models.fusion import MaskedFusion, ResidualFusion
from cggm_med.objectives.activation import activation, prior_logits
from cggm_med.runs import train as run
from cggm_med.testing.problems import MODALITIES, small_batch, small_heads, small_model
from cggm_med.training import checkpoint

SHARES = torch.tensor([0.2, 0.05])


@pytest.mark.parametrize("exclusive", [True, False])
def test_probabilities_of_the_logits_are_the_shares(exclusive):
    torch.testing.assert_close(activation(exclusive)(prior_logits(SHARES, exclusive)[None])[0], SHARES)


@pytest.mark.parametrize("fusion", [MaskedFusion, ResidualFusion])
def test_prediction_and_heads_start_there(fusion):
    """With weights of 0 in the last layers, every prediction is the shares; a decoder over heads then adds nothing."""
    model = small_model(fusion=fusion, deep_supervision=True)
    heads = small_heads() if model.heads is None else model.heads
    model.predict_at_first(prior_logits(SHARES, False))
    heads.predict_at_first(prior_logits(SHARES, False))
    for layer in (model.head.conv.conv, *(heads.heads[m].last for m in MODALITIES), model.deep_heads[0].conv.conv):
        torch.nn.init.zeros_(layer.weight)
    features = model.encode(small_batch().inputs)
    (outputs,) = model.predict([features])
    for logits in (outputs.logits, *outputs.deep_logits, *(x.logits for x in heads(features).values())):
        found = torch.sigmoid(logits).transpose(0, 1).flatten(1)
        torch.testing.assert_close(found, SHARES[:, None].expand_as(found))


def test_a_run_starts_with_the_shares_of_its_training_patches(tmp_path, phantom, cache, monkeypatch):
    """Authority: the mean of the targets, drawn anew. A step with a learning rate of next to nothing moves nothing."""
    from cggm_med.task.segmentation import SegmentationTask

    tasks = []
    prepare = SegmentationTask.prepare
    monkeypatch.setattr(SegmentationTask, "prepare", lambda self, *given: tasks.append(self) or prepare(self, *given))
    still = {"train__epochs": "1", "train__steps_per_epoch": "1", "optim__lr": "1e-30", "data__test": "0"}
    config = small_config(phantom, cache, model__prior_bias="true", data__validation="0", **still)
    run.start(config, tmp_path / "run", quiet())
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt", torch.device("cpu"))
    targets = torch.cat([batch.target for batch in tasks[0].evaluation_batches(tasks[0].splits.train)]).float()
    expected = torch.logit(targets.mean((0, 2, 3, 4)))
    assert (expected < -1).all()
    torch.testing.assert_close(state.model["head.conv.conv.bias"], expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(state.strategy["heads.heads.t1.last.bias"], expected, rtol=1e-3, atol=1e-3)
