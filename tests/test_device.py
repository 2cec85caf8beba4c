"""Devices by name, and number formats."""

import pytest
import torch

from cggm_med import distributed
from cggm_med.device import precision, select_device
from cggm_med.errors import ConfigError
from cggm_med.testing.problems import CPU


def test_devices_are_checked():
    assert select_device("cpu") == CPU
    for wrong in ("tpu", "cpu:x", "cuda:"):
        with pytest.raises(ConfigError, match=rf"device is {wrong}, expected auto, cpu, cuda"):
            select_device(wrong)
    if not torch.cuda.is_available():
        assert select_device("auto") == CPU
        with pytest.raises(ConfigError, match="device is cuda, and torch sees none here"):
            select_device("cuda")


def test_autocast_is_bfloat16_only_where_asked_for():
    with precision("bfloat16", CPU)():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    with precision("auto", CPU)():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32


def test_several_processes_on_a_gpu_of_apple_are_refused_before_they_wait_for_one_another(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="device is mps, and 2 processes were started"):
        distributed.processes(torch.device("mps")).__enter__()
