"""Run by torchrun: train through the real entry and leave each process's weights behind."""

import sys
from pathlib import Path

import torch
from rich.console import Console

from cggm_med import distributed
from cggm_med.config import parse_overrides
from cggm_med.runs import train as run
from cggm_med.runs.settings import make_config

out, *settings = sys.argv[1:]
config = make_config("brats2021", [parse_overrides(settings)], preset="tiny")
torch.set_num_threads(1)
built = {}


def keep(task, strategy, *args):
    built["model"], built["strategy"] = real_build(task, strategy, *args), strategy
    return built["model"]


real_build, run.build = run.build, keep
with distributed.processes(torch.device("cpu")):
    run.start(config, Path(out) / "run", Console(quiet=True))
    states = {name: module.state_dict() for name, module in built.items()}
    torch.save(states, Path(out) / f"process{distributed.rank()}.pt")
