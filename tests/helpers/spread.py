"""Train every strategy on every problem with this process's share of each batch; also run by torchrun, as a script."""

import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.optim.exchange import GradientExchange
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.testing.problems import CPU, PROBLEMS, lacking, make, one_step, set_up
from cggm_med.training.monitor import ModalityComparison
from cggm_med.types import Batch

AT_WORK = {
    "cggm": {"warmup_steps": 0},
    "opm": {"warmup": 0.0, "probability": 1.0},
    "dgs": {"every": 1},
    "pmr": {"early": 1.0},
}
# Settings of built-in strategies that bring another rule into play.
VARIANTS = {
    "cggm with direction": ("cggm", {"warmup_steps": 0, "guidance_weight": 0.5}),
    "cggm as in the paper": ("cggm", {"mode": "paper"}),
    "cggm as released": ("cggm", {"mode": "released"}),
    "dgs with noise": ("dgs", {"every": 1, "noise": True}),
}
# Strategies that exchange more than scores and gradients, where the samples of the first of two processes lack t1.
LACKING = ("pmr", "inforeg")
OVERLAPPED = "classification"  # the problem that is also trained with gradients exchanged in buckets
SEEING = TrainConfig(modality_dropout=0.3, subset_view=0.5, subset_view_guided=True)


def labels() -> dict[str, tuple[str, dict]]:
    """Every registered strategy, and the variants."""
    names = registry.names(registry.STRATEGIES)
    complete = {name: (name, AT_WORK.get(name, {})) for name in names} | VARIANTS
    return complete | {f"{name}, lacking": complete[name] for name in LACKING}


def share(batch: Batch, rank: int, processes: int) -> Batch:
    """The samples of one process, as the loader spreads them."""
    mine = slice(rank, None, processes)
    present = None if batch.present is None else {m: has[mine] for m, has in batch.present.items()}
    return Batch({m: x[mine] for m, x in batch.inputs.items()}, batch.target[mine], batch.ids[mine], present)


def train_all(
    rank: int, processes: int, kinds: Collection[str] = PROBLEMS, **exchange: Any
) -> dict[str, dict[str, torch.Tensor]]:
    """State of model, strategy and log after two steps of SGD, by problem and strategy.

    Two steps and not more, since rounding differs between one batch and two halves, and here and there switches a ReLU.
    """
    states = {}
    for label, (name, settings) in labels().items():
        for kind, problem in ((kind, PROBLEMS[kind]) for kind in kinds):
            strategy, model = make(name, **settings), problem.model()
            set_up(strategy, model, problem=problem)
            strategy.exchange = GradientExchange([*model.parameters(), *strategy.parameters()], **exchange)
            optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd"), CPU)
            for number in range(2):
                batch = problem.batch(number, samples=4)
                batch = share(lacking(batch, {"t1": [0, 2]}) if "lacking" in label else batch, rank, processes)
                comparison = ModalityComparison(shapley=True)
                one_step(
                    model,
                    strategy,
                    optimizer,
                    batch,
                    number,
                    problem,
                    settings=SEEING,
                    comparison=comparison,
                    clip_norm=100,
                )
            parts = {"model": model.state_dict(), "strategy": strategy.state_dict(), "log": comparison.values()}
            states[f"{kind}, {label}"] = {f"{p} {k}": v for p, part in parts.items() for k, v in part.items()}
    return states


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "cggm.* mode=")
    distributed.init_process_group("gloo")
    rank, processes, folder = distributed.get_rank(), distributed.get_world_size(), Path(sys.argv[1])
    torch.save(train_all(rank, processes, overlap=False), folder / f"process{rank}.pt")
    torch.save(train_all(rank, processes, [OVERLAPPED], bucket_bytes=100), folder / f"buckets{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
