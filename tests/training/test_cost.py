import json
import time

import pytest
import torch

from cggm_med.training.cost import StepMemory, measured

CPU = torch.device("cpu")


def test_what_a_block_took(tmp_path):
    with measured(tmp_path / "cost.json", CPU):
        held = torch.ones(50_000_000)  # 200 MB that this process holds at least
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    found = json.loads((tmp_path / "cost.json").read_text())
    assert 0.3 <= found["cpu_seconds"] < 3
    assert found["seconds"] >= 0.3
    assert found["peak_memory_bytes"] > held.numel() * 4
    assert found["threads"] == torch.get_num_threads()
    assert found["device"].startswith("CPU")


def test_the_memory_of_a_step_by_hand(tmp_path):
    """Weight, gradient and momentum of 4 MB each, and what the step itself makes."""
    with measured(tmp_path / "cost.json", CPU) as memory:
        weight = torch.nn.Parameter(torch.ones(1000, 1000))
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        for number in range(3):
            with memory.watch(number, optimizer):
                optimizer.zero_grad()
                (weight * 2).sum().backward()
                optimizer.step()
    found = json.loads((tmp_path / "cost.json").read_text())
    assert (found["step_memory_bytes"], found["steps"]) == (memory.peak, 3)
    # In the second step weight and momentum, with first the product and then the gradient.
    assert 12e6 <= memory.peak < 12e6 + 100
    assert memory.overall == 0


def test_only_some_steps_are_watched(tmp_path):
    memory, weight = StepMemory(CPU), torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with memory.watch(5, optimizer):
        torch.ones(100)
    assert memory.peak == 0
    with memory.watch(10, optimizer):
        torch.ones(100)
    assert memory.peak == 4 * 103


def test_a_block_that_fails_has_no_cost(tmp_path):
    with pytest.raises(KeyError), measured(tmp_path / "cost.json", CPU):
        raise KeyError
    assert not list(tmp_path.iterdir())
