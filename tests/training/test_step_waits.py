"""No step makes a device wait for the program: what it computes stays there until somebody logs it."""

import pytest
import torch
from helpers.at_work import AT_WORK
from torch.utils._python_dispatch import TorchDispatchMode

from cggm_med import registry
from cggm_med.config import OptimConfig
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.testing.problems import CPU, PROBLEMS, SEGMENTATION, make, one_step, set_up
from cggm_med.training.monitor import Monitor

STRATEGIES = sorted(set(registry.names(registry.STRATEGIES)) - {"unimodal_ensemble"})  # each member is trained as joint
# Of what no GPU computes: a draw on the CPU, and the range that one_hot checks there alone, twice a modality.
ON_CPU = {"opm": 1, ("pmr", "classification"): 6}
unbounded = pytest.mark.filterwarnings("ignore:cggm_(paper|released) mode=")


class Reads(TorchDispatchMode):
    """Counts the values that Python asks for: on a GPU, each waits until all that is queued has been computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


@unbounded
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_reads_nothing_that_it_computes(name, problem, monkeypatch):
    of = PROBLEMS[problem]
    model, strategy = of.model(), make(name, **AT_WORK.get(name, {}))
    set_up(strategy, model, problem=of)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    # As on a GPU, where the optimizer itself skips steps and scales rates by tensors; no CPU can, so none is taken.
    for group in optimizer.param_groups:
        group["fused"] = True
    monkeypatch.setattr(optimizer, "step", lambda: None)
    monitor = Monitor(len(model.modalities))
    one_step(model, strategy, optimizer, of.batch(), 0, of, monitor=monitor)
    batch = of.batch(1)
    with Reads() as reads:
        one_step(model, strategy, optimizer, batch, 1, of, monitor=monitor)
    assert reads.count == ON_CPU.get(name, ON_CPU.get((name, problem), 0))


def test_reads_are_seen():
    with Reads() as reads:
        assert torch.ones(()).item() == bool(torch.ones(()))
    assert reads.count == 2


@unbounded
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_step_on_a_gpu_does_not_wait(name):
    device = torch.device("cuda")
    model, strategy = SEGMENTATION.model().to(device), make(name, **AT_WORK.get(name, {}))
    set_up(strategy, model)
    strategy.to(device)
    optimizer = make_optimizer(model, strategy, OptimConfig(), device)
    monitor = Monitor(len(model.modalities)).to(device)
    batch = SEGMENTATION.batch().to(device)
    one_step(model, strategy, optimizer, batch, 0, monitor=monitor)
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(model, strategy, optimizer, batch, 1, monitor=monitor)
    finally:
        torch.cuda.set_sync_debug_mode("default")
