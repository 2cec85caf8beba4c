"""DGL: which loss reaches which parameter, against the authors' step written out."""

import pytest
import torch

from cggm_med import ConfigError
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.dgl import DGLConfig
from cggm_med.testing.problems import CLASSIFICATION, CPU, PROBLEMS, SEGMENTATION, make, one_step, set_up

STILL = OptimConfig(name="sgd", lr=1e-30, momentum=0, weight_decay=0)  # an update that rounds to none
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def stepped(problem, names=("flair", "t1", "t1ce"), **settings):
    model = problem.model(names)
    strategy = set_up(make("dgl", **settings), model, problem=problem)
    optimizer = make_optimizer(model, strategy, STILL, CPU)
    one_step(model, strategy, optimizer, problem.batch(0, names), 0, problem, clip_norm=1e9)
    return model, strategy


def released_step(model, heads, batch, criterion, alpha):
    """shicaiwei123/ICCV2025-GDL at b72a55f, main_dgl.py: two backward passes, the first of which spares the fusion."""
    features = model.encode(batch.inputs)
    own = heads(features)
    (sum(criterion(x.logits, batch.target) for x in own.values()) * alpha).backward()
    encoders = set(map(id, model.encoders.parameters()))
    for parameter in model.parameters():
        if id(parameter) not in encoders:
            parameter.grad = None
    detached = {m: f._replace(maps=tuple(x.detach() for x in f.maps)) for m, f in features.items()}
    (outputs,) = model.predict([detached])
    criterion(outputs.logits, batch.target).backward()


@every_problem
@pytest.mark.parametrize("names", [("flair", "t1"), ("flair", "t1", "t1ce")], ids=len)
def test_it_does_what_the_release_does(problem, names):
    """Meant difference: a modality predicts through its head, not through the fusion with zeros for the others."""
    model, strategy = stepped(problem, names, alpha=3.0)
    other = problem.model(names)
    released_step(other, strategy.heads, problem.batch(0, names), problem.criterion, 3.0)
    for (name, parameter), expected in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


@every_problem
def test_no_gradient_of_the_fused_loss_reaches_an_encoder(problem):
    """With heads that are cut off, nothing is left for an encoder, and fusion and head learn as in joint training.

    Nor does that of a second prediction, from a subset.
    """
    model = problem.model()
    strategy = set_up(make("dgl"), model, problem=problem)
    strategy.unimodal = lambda features: strategy.heads(features, encoder_weight=0.0)
    optimizer = make_optimizer(model, strategy, STILL, CPU)
    one_step(model, strategy, optimizer, problem.batch(), 0, problem, clip_norm=1e9)
    viewed = TrainConfig(subset_view=1.0)
    other = problem.model()
    other_optimizer = make_optimizer(other, set_up(strategy, other, problem=problem), STILL, CPU)
    one_step(other, strategy, other_optimizer, problem.batch(), 0, problem, clip_norm=1e9, settings=viewed)
    assert all(p.grad is None for p in other.encoders.parameters())
    joint = problem.model()
    problem.criterion(joint(problem.batch().inputs), problem.batch().target).backward()
    encoders = set(map(id, model.encoders.parameters()))
    for parameter, expected in zip(model.parameters(), joint.parameters(), strict=True):
        if id(parameter) in encoders:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_alpha_is_the_encoders_alone():
    """Twice alpha is twice the encoders' gradient, and the same of everything else."""
    (one, heads), (two, other_heads) = (stepped(SEGMENTATION, alpha=alpha) for alpha in (1.0, 2.0))
    encoders = set(map(id, one.encoders.parameters()))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(b.grad, (2 if id(a) in encoders else 1) * a.grad, rtol=1e-3, atol=1e-7)
    for a, b in zip(heads.parameters(), other_heads.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_features_of_the_heads_are_not_detached():
    model = CLASSIFICATION.model()
    strategy = set_up(make("dgl"), model, problem=CLASSIFICATION)
    features = model.encode(CLASSIFICATION.batch().inputs)
    seen = strategy.adapt_features(features, None)
    assert all(not x.requires_grad for f in seen.values() for x in f.maps)
    assert all(x.requires_grad for f in features.values() for x in f.maps)


def test_an_impossible_alpha_is_named():
    with pytest.raises(ConfigError, match=r"strategy\.alpha is 0"):
        DGLConfig("dgl", alpha=0)
