"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import cggm_med
import cggm_med_tasks

MODULES = [
    module.name
    for package in (cggm_med, cggm_med_tasks)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]


@pytest.mark.parametrize("name", ["cggm_med", *MODULES])
def test_examples(name):
    torch.manual_seed(0)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS, extraglobs={"torch": torch})
    assert failed == 0
    assert module.__doc__
