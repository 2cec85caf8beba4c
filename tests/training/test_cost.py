import json
import time

import pytest
import torch

from cggm_med.training.cost import measured

CPU = torch.device("cpu")


def test_what_a_block_took(tmp_path):
    with measured(tmp_path / "cost.json", CPU, steps=7):
        held = torch.ones(50_000_000)  # 200 MB that this process holds at least
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["steps"] == 7
    assert 0.3 <= found["cpu_seconds"] < 3
    assert found["seconds"] >= 0.3
    assert found["peak_memory_bytes"] > held.numel() * 4
    assert found["threads"] == torch.get_num_threads()
    assert found["device"].startswith("CPU")


def test_a_block_that_fails_has_no_cost(tmp_path):
    with pytest.raises(KeyError), measured(tmp_path / "cost.json", CPU, steps=1):
        raise KeyError
    assert not list(tmp_path.iterdir())
