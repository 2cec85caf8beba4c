"""Every registered strategy keeps the laws of ``check_strategy``, third-party ones included."""

import pytest

from cggm_med import registry
from cggm_med.testing.strategies import strategy_laws

NAMES = registry.names(registry.STRATEGIES)
# Built-in strategies whose rule depends on the step are tried where it is at work.
AT_WORK = {
    "cggm": {"warmup_steps": 0},
    "opm": {"warmup": 0.0, "probability": 1.0},
    "dgs": {"every": 1},
    "pmr": {"early": 1.0},
    "gblending": {"super_epoch": 1},
}
# Settings under which a strategy must train the same bits as joint; the others are never joint.
NEUTRAL = {
    "joint": {},
    "uniform": {"unimodal_weight": 0.0},
    "cggm": {"unimodal_weight": 0.0, "strength": 0.0, "warmup_steps": 0},
    "ogm": {"alpha": 0.0},
    "opm": {"drop_base": 0.0, "warmup": 0.0, "probability": 1.0},
    "agm": {"alpha": 0.0},
    "pmr": {"alpha": 0.0, "mu": 0.0},
    "inforeg": {"beta": 0.0, "unimodal_weight": 0.0},
    "modality_dropout": {},
    "subset_view": {},
}
DRAW_BY_ORDER = {"ogm_ge", "opm"}
# Noise, another way to combine gradients, weights that differ from 1, encoders that see no fused loss, other networks,
# and teachers
MAY_DIFFER = {"ogm_ge", "mmpareto", "dgs", "gblending", "dgl", "unimodal_ensemble", "umt"}


def every_law():
    for name in NAMES:
        laws = strategy_laws(
            name, settings=AT_WORK.get(name), neutral=NEUTRAL.get(name), draws_by_order=name in DRAW_BY_ORDER
        )
        for words, law in laws.items():
            yield pytest.param(law, id=f"{name}: {words}")


@pytest.mark.parametrize("law", list(every_law()))
def test_it_keeps_the_law(law):
    law()


def test_every_built_in_strategy_can_be_switched_off_or_is_known_to_differ():
    built_in = {n for n in NAMES if registry.load(registry.STRATEGIES, n).__module__.startswith("cggm_med.")}
    assert built_in == {*NEUTRAL, *MAY_DIFFER}
