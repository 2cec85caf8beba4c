"""Each law of ``check_metric`` can fail: a metric that breaks it is told so; those of this package break none."""

import re
from dataclasses import replace

import pytest

from cggm_med import Metric
from cggm_med.metrics.regions import METRICS
from cggm_med.testing import check_metric

SUMMARISED = {metric.key: metric for metric in METRICS if metric.statistics}


@pytest.mark.parametrize("key", sorted(set(SUMMARISED) - {"lesion_hd95_mm"}))
def test_the_metrics_of_this_package_keep_all_laws(key):
    check_metric(SUMMARISED[key])


def test_a_penalty_in_mm_does_not_grow_with_the_voxel():
    """The lesion-wise HD95 of BraTS counts 374 mm for each missed lesion, whatever the voxel's size."""
    with pytest.raises(AssertionError, match="metric 'lesion_hd95_mm' breaks the law 'it grows with the voxel"):
        check_metric(SUMMARISED["lesion_hd95_mm"])


def off(prediction, target, spacing_mm):
    return float((prediction ^ target).sum())


def overlap(prediction, target, spacing_mm):
    return float((prediction & target).sum() / target.sum())


def in_the_middle(prediction, target, spacing_mm):
    middle = tuple(slice(n // 3, n - n // 3) for n in target.shape)
    return off(prediction[middle], target[middle], spacing_mm)


def spoil(prediction, target, spacing_mm):
    found = off(prediction, target, spacing_mm)
    prediction.logical_not_()
    return found


RIGHT = Metric("off", "off", off, "voxels in one mask only", better="lower", cropped=True)
BROKEN = {
    "it is finite, also where masks are empty or full": replace(RIGHT, function=overlap, better="higher"),
    "a region equals itself best": replace(RIGHT, better="higher"),
    "the order and direction of the axes change nothing": replace(
        RIGHT, function=lambda p, t, mm: off(p, t, mm) * mm[2]
    ),
    "the place in the volume changes nothing": replace(RIGHT, function=in_the_middle, cropped=False),
    "masks are not changed": replace(RIGHT, function=spoil, both_empty=0.0),
    "it grows with the voxel as its unit says": replace(RIGHT, unit="mm"),
    "the box that holds both masks gives the same": replace(RIGHT, function=lambda p, t, mm: off(p, t, mm) / p.numel()),
}


def test_a_right_one_passes():
    check_metric(RIGHT)
    check_metric(replace(RIGHT, unit="ml", function=lambda p, t, mm: off(p, t, mm) * mm[0] * mm[1] * mm[2] / 1000))


@pytest.mark.parametrize("law", BROKEN)
def test_each_law_can_fail(law):
    with pytest.raises(AssertionError, match=re.escape(f"metric 'off' breaks the law '{law}': ")):
        check_metric(BROKEN[law])
