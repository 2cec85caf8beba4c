"""What a bundle takes along of its run: for the checks of scans, and for what is said of masks."""

from __future__ import annotations

from collections.abc import Sequence

from cggm_med.config import Tree
from cggm_med.inference.predictor import NOT_FROM_THESE, Predictor
from cggm_med.inference.side_car import expected_record, run_record


def run_facts(predictor: Predictor, modalities: Sequence[str]) -> Tree:
    """Plain values for ``transforms.PrepareCheckedScand`` and ``transforms.DescribeMaskd``.

    Nobody's id is among them, since bundles are passed on: of training cases digests of voxels, and what is usual
    among them; of validation cases means.

    Args:
        predictor: the run.
        modalities: of the bundle.
    """
    facts, known = predictor.run.facts, predictor.expectations
    voxels = sorted({digest for of in facts.get("voxels", {}).values() for digest in of})
    subsets = [] if known is None else [name.split("+") for name in known.subsets]
    not_measured = "what to expect of the run's masks was not measured"
    otherwise = not_measured if known is None else NOT_FROM_THESE.format(split=known.split)
    return {
        **run_record(predictor),
        "facts": {**{name: facts[name] for name in ("signatures", "usual") if name in facts}, "voxels": {"": voxels}},
        "expected": {
            "+".join(subset): expected_record(*predictor.expectation(subset))
            for subset in subsets
            if set(subset) <= set(modalities)
        },
        "expected_otherwise": expected_record(None, otherwise),
    }
