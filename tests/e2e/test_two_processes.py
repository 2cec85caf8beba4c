"""Two processes train as one: equal bits on both, and the same update as one process with the whole batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.small_runs import quiet, small_config, small_settings

from cggm_med.runs import train as run

# One step of plain SGD each: Adam would turn differences of rounding into differences of sign.
CHANGES = {
    "optim__name": "sgd",
    "optim__lr": "0.05",
    "strategy__warmup_steps": "0",
    "train__batch_size": "4",
    "train__ema_decay": "0.5",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom, cache):
    out = tmp_path_factory.mktemp("two")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    settings = small_settings(phantom, cache, **CHANGES)
    script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
    done = subprocess.run(
        [sys.executable, *command, str(script), str(out), *settings], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_both_processes_end_with_the_same_bits(trained):
    one, two = (torch.load(trained / f"process{rank}.pt", weights_only=True) for rank in (0, 1))
    for module in ("model", "strategy"):
        assert one[module].keys() == two[module].keys()
        assert [name for name in one[module] if not torch.equal(one[module][name], two[module][name])] == []
    assert one["strategy"]["factor"].tolist() != [1, 1, 1, 1]


@pytest.mark.slow
def test_two_processes_train_what_one_does_with_the_whole_batch(trained, phantom, cache, tmp_path, monkeypatch):
    built = {}

    def keep(task, strategy, *args):
        built["model"], built["strategy"] = real_build(task, strategy, *args), strategy
        return built["model"]

    real_build = run.build
    monkeypatch.setattr(run, "build", keep)
    report = run.start(small_config(phantom, cache, **CHANGES), tmp_path / "run", quiet())
    both = torch.load(trained / "process0.pt", weights_only=True)
    for module in ("model", "strategy"):
        for name, value in built[module].state_dict().items():
            torch.testing.assert_close(both[module][name], value, rtol=1e-3, atol=1e-4, msg=name)

    rows = json.loads((trained / "run" / "results.json").read_text())["cases"]  # as the averaged weights predict
    alike = [(row["case"], row["region"], pytest.approx(row["dice"], abs=1e-3)) for row in rows]
    assert [(row["case"], row["region"], row["dice"]) for row in report.scores.cases] == alike
