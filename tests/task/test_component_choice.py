"""The component filter that validation chooses: the best by mean Dice, if most cases gain by it, and nothing else."""

import numpy as np
import pytest
import torch

from cggm_med.data.volumes.components import ComponentFilter
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid
from cggm_med.metrics.overlap import dice
from cggm_med.task.component_choice import CANDIDATES, choose, try_candidates
from cggm_med.task.scan_to_mask import SegmentedScan

NESTED = LabelConvention("two", {1: "inner", 2: "outer"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})


def findings(*dice, components=(9, 5, 2, 1, 1, 1, 1)):
    return {"WT": {"dice": [*dice, *dice[-1:] * (7 - len(dice))], "components": [*map(float, components)]}}


def test_the_best_is_taken_if_more_than_half_of_the_cases_gain_enough():
    gains, loses, stays = findings(0.5, 0.55, 0.6), findings(0.5, 0.5, 0.45), findings(0.5, 0.5004, 0.5008)
    chosen = choose([gains, gains, loses], ["WT"])
    assert chosen["kept"] == {"WT": 30.0}  # equal ones after it are stricter
    assert chosen["validation"]["WT"] == {
        "cases": 3,
        "best": 30.0,
        "gaining": 2,
        "dice": pytest.approx([0.5, 0.55]),
        "components": [9.0, 2.0],
    }
    assert choose([gains, loses], ["WT"])["kept"] == {}  # half of them is not more than half
    assert choose([gains, stays, stays], ["WT"])["kept"] == {}  # a gain below .001 does not count
    worse = choose([loses, loses], ["WT"])
    assert worse["kept"] == {}
    assert worse["validation"]["WT"]["best"] is None


def test_a_region_that_no_case_scores_keeps_everything():
    assert choose([findings(0.5, 0.6)], ["WT", "TC"])["kept"] == {"WT": 10.0}


def test_candidates_are_scored_as_the_filter_would_be():
    """Brute force; the outer region's candidates take the inner one along."""
    random = np.random.default_rng(3)
    probability = (random.random((2, 12, 13, 14)) < 0.06).astype(np.float32)
    scan = SegmentedScan(probability, NativeGrid.whole(np.diag([2.0, 2, 2, 1]), (12, 13, 14)))
    truth = scan.regions(NESTED) & (random.random((12, 13, 14)) < 0.5)

    def dice_of(masks):
        return {
            name: dice(*map(torch.from_numpy, (p, t))) for name, p, t in zip(("WT", "TC"), masks, truth, strict=True)
        }

    found = try_candidates(scan, NESTED, dice_of)
    masks = scan.regions(NESTED)
    for region, changed in (("WT", ("WT", "TC")), ("TC", ("TC",))):
        every = [dice_of(masks), *(dice_of(ComponentFilter({region: c})(masks, NESTED, 8.0)) for c in CANDIDATES)]
        assert found[region]["dice"] == pytest.approx([np.mean([of[name] for name in changed]) for of in every])
        assert len(set(found[region]["dice"])) > 2
    only_inner = try_candidates(scan, NESTED, lambda masks: {"TC": dice_of(masks)["TC"]})
    assert only_inner["TC"] == found["TC"]
