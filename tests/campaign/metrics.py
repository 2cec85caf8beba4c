"""Every metric of regions, classes and values equals an independent computation to 1e-6: 1,000 drawn cases."""

import math
from collections import Counter

import numpy as np
import SimpleITK
from helpers import reference_metrics
from scipy import stats

from campaign.tries import campaign
from cggm_med.metrics.classification_regression import CLASS_METRICS, VALUE_METRICS, Predicted
from cggm_med.metrics.regions import region_metrics, score_region

TOLERANCE = 1e-6
PENALTY_MM = 374.0
SHAPES = ("both empty", "missed", "false", "full", "flat", "voxels", "lesions", "coarse")


def masks(rng, shape):
    """A predicted and a true mask with their voxel size, of a kind that goes wrong in its own way."""
    prediction, target, spacing, rules = reference_metrics.random_masks(rng)
    if shape in ("both empty", "false"):
        target = np.zeros_like(target)
    if shape in ("both empty", "missed"):
        prediction = np.zeros_like(prediction)
    if shape == "full":
        target = np.ones_like(target[:6, :6, :6])
        prediction = prediction[:6, :6, :6]
    if shape == "flat":
        prediction, target = prediction[:, :, :1], target[:, :, :1]
    if shape == "voxels":
        prediction, target = (rng.random((7, 6, 5)) < rng.uniform(0.02, 0.9) for _ in range(2))
    if shape == "coarse":
        spacing = tuple(rng.uniform(0.2, 12, size=3).tolist())
    return prediction, target, spacing, rules


def expected_row(prediction, target, spacing, rules, tolerance_mm):
    """Each metric of a region as (least, greatest): the same unless rounding decides between two distances."""
    voxels, true, common = (int(mask.sum()) for mask in (prediction, target, prediction & target))
    outside = target.size - true
    values = {
        "sensitivity": common / true if true else float(not voxels),
        "specificity": int((~prediction & ~target).sum()) / outside if outside else 1.0,
        "volume_error_ml": (voxels - true) * math.prod(spacing) / 1000,
    }
    if voxels and true:
        overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (prediction, target)))
        values["dice"] = overlap.GetDiceCoefficient()
        values["hd95_mm"] = reference_metrics.hausdorff95(prediction, target, spacing)
        values["surface_dice"] = reference_metrics.surface_dice(prediction, target, spacing, tolerance_mm)
    else:
        alike = not (voxels or true)
        values |= {"dice": float(alike), "surface_dice": float(alike), "hd95_mm": 0.0 if alike else PENALTY_MM}
    (dice, least, greatest), counts = reference_metrics.lesion_reference(
        prediction, target, spacing, rules, PENALTY_MM, Counter()
    )
    values |= dict(zip(("lesions", "missed_lesions", "false_lesions"), counts, strict=True), lesion_dice=dice)
    return {key: (value, value) for key, value in values.items()} | {"lesion_hd95_mm": (least, greatest)}


def wrong(found, expected):
    """What lies outside its bounds."""
    return [
        f"{key} is {found[key]}, expected {least} to {greatest}"
        for key, (least, greatest) in expected.items()
        if not least - TOLERANCE <= found[key] <= greatest + TOLERANCE
    ]


def try_region(rng):
    shape = str(rng.choice(SHAPES))
    prediction, target, spacing, rules = masks(rng, shape)
    tolerance_mm = float(rng.uniform(0.1, 6))  # no distance of a grid, where rounding would decide
    metrics = region_metrics(PENALTY_MM, tolerance_mm, rules)
    row = score_region("case", "region", prediction, target, spacing, metrics)
    return shape, wrong(row, expected_row(prediction, target, spacing, rules, tolerance_mm))


def average_precision(relevant, score):
    """Mean over the relevant samples of the precision among all that score at least as high."""
    return np.mean([relevant[score >= score[i]].mean() for i in np.flatnonzero(relevant)])


def try_classes(rng):
    number, count = rng.integers(1, 40), rng.integers(2, 6)
    true = rng.integers(0, count, number)
    probability = rng.integers(0, 5, (number, count)) / 4  # with ties
    said = probability.argmax(1)
    f1 = recall = precision = 0.0
    occurring = np.unique(true)
    for c in occurring:
        hits, those, claimed = ((true == c) & (said == c)).sum(), (true == c).sum(), (said == c).sum()
        f1 += 2 * hits / (those + claimed) * those / number
        recall += hits / those / len(occurring)
        precision += average_precision(true == c, probability[:, c]) / len(occurring)
    expected = {"accuracy": (true == said).mean(), "weighted F1": f1, "UAR": recall, "mAP": precision}
    found = {name: metric(Predicted(true, said, probability)) for name, metric in CLASS_METRICS.items()}
    return "classes", wrong(found, {name: (value, value) for name, value in expected.items()})


def try_values(rng):
    number = rng.integers(3, 40)
    true = rng.normal(size=number) * 10 ** rng.uniform(-3, 3)
    said = true + rng.normal(size=number) * rng.uniform(0, 3)
    expected = {"MAE": math.fsum(abs(true - said)) / number, "Corr": stats.pearsonr(true, said).statistic}
    found = {name: metric(Predicted(true, said)) for name, metric in VALUE_METRICS.items()}
    return "values", wrong(found, {name: (value, value) for name, value in expected.items()})


def attempt(rng):
    """One case: masks more often than classes, classes more often than values."""
    return (try_region, try_classes, try_values)[rng.choice(3, p=[0.8, 0.15, 0.05])](rng)


if __name__ == "__main__":
    campaign("metrics", 1000, lambda folder: attempt)
