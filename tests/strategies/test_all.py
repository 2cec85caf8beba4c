"""Every registered strategy keeps the laws of ``check_strategy``, third-party ones included."""

import pytest
from helpers.at_work import AT_WORK

from cggm_med import registry
from cggm_med.testing.strategies import strategy_laws

NAMES = registry.names(registry.STRATEGIES)
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
    "residual_dropout": {"unimodal_weight": 0.0},
}
DRAW_BY_ORDER = {"ogm_ge", "opm"}
MAY_DIFFER = {
    "ogm_ge",  # noise
    *("mmpareto", "mmpareto_paper", "mmpareto_unscaled", "dgs"),  # another way to combine gradients
    *("cggm_paper", "cggm_released"),  # factors that no setting makes one
    "uniform_full",
    *("gblending", "dgl"),  # weights that differ from 1, encoders that see no fused loss
    *("unimodal_ensemble", "umt"),  # other networks, and teachers
}
# What the rule of a release breaks, because it has no bound and no safeguard.
BROKEN = {"cggm_released": ("one modality trains as if there were nothing to balance",)}


def every_law(broken=False):
    for name in NAMES:
        laws = strategy_laws(
            name, settings=AT_WORK.get(name), neutral=NEUTRAL.get(name), draws_by_order=name in DRAW_BY_ORDER
        )
        for words, law in laws.items():
            if words.startswith(BROKEN.get(name, ())) == broken:
                yield pytest.param(law, id=f"{name}: {words}")


unbounded = pytest.mark.filterwarnings("ignore:cggm_(paper|released) mode=")


@unbounded
@pytest.mark.parametrize("law", list(every_law()))
def test_it_keeps_the_law(law):
    law()


@unbounded
@pytest.mark.parametrize("law", list(every_law(broken=True)))
def test_it_breaks_the_law_as_its_release_does(law):
    with pytest.raises(AssertionError):
        law()


def test_every_built_in_strategy_can_be_switched_off_or_is_known_to_differ():
    built_in = {n for n in NAMES if registry.load(registry.STRATEGIES, n).__module__.startswith("cggm_med.")}
    assert built_in == {*NEUTRAL, *MAY_DIFFER}


@pytest.mark.parametrize("name", NAMES)
def test_controls_are_other_registered_strategies(name):
    controls = registry.load(registry.STRATEGIES, name).controls
    assert {*controls} <= {*NAMES} - {name}
    assert controls
