"""What is to be expected of a run's masks from each subset of its modalities, as measured on its validation cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cggm_med.config import Tree
from cggm_med.errors import CheckpointError
from cggm_med.files import write_json
from cggm_med.results.rank_correlation import RankCorrelation
from cggm_med.results.results import Record
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.folder import RunFolder
from cggm_med.trees import parse_json


@dataclass(frozen=True)
class RegionExpectation:
    """What is to be expected of one region, or of the mean over the regions, from one subset.

    Attributes:
        cases: in which the region was drawn.
        dice_mean, dice_sd: over these; None of no case, or of one.
        temperature: which fits the region's probabilities best; None of the mean, and where there are no voxels.
        ece_before, ece_after: expected calibration error near the region without and with it, on the same cases.
        rank_correlation: between predicted quality and Dice.
    """

    cases: int
    dice_mean: float | None
    dice_sd: float | None
    temperature: float | None
    ece_before: float | None
    ece_after: float | None
    rank_correlation: RankCorrelation


@dataclass(frozen=True)
class SubsetExpectation:
    """What is to be expected from exactly this subset.

    Attributes:
        cases: that have all of it.
        regions: by region.
        mean: over the regions of a case, of cases in which all were drawn.
    """

    cases: int
    regions: Mapping[str, RegionExpectation]
    mean: RegionExpectation


@dataclass(frozen=True)
class Expectations:
    """What is to be expected from each subset.

    Attributes:
        run: digest of the weights that it was measured with.
        postprocessing: what the run did to masks after the network, see ``FinishedRun.postprocessing``.
        split: whose cases it was measured on.
        cases: how many these are.
        subsets: by name, such as ``flair+t1``; those that no case has are not there.
        rows: of each case, subset and region: ``dice`` and ``quality`` (None from a single modality).
    """

    run: str
    postprocessing: Tree
    split: str
    cases: int
    subsets: Mapping[str, SubsetExpectation]
    rows: Sequence[Record]

    def write(self, folder: RunFolder) -> None:
        """Put it into the run's folder, in place of what was there."""
        write_json(folder.expectations, asdict(self))


def expectations_of(run: FinishedRun) -> Expectations:
    """Those that were measured with the run as it is now.

    Raises:
        CheckpointError: if there are none, or they are damaged or belong to other weights or another postprocessing.
    """
    file, remedy = run.folder.expectations, f"measure with: cggm-med calibrate {run.path}"
    if not file.exists():
        raise CheckpointError(f"what to expect of the run's masks was not measured; {remedy}")
    try:
        found = _parse(parse_json(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the run's {file.name} is damaged ({type(error).__name__}: {error}); {remedy}"
        ) from error
    if found.run != run.digest:
        raise CheckpointError(
            f"the run's {file.name} was measured with other weights ({found.run}) than it has now ({run.digest}); "
            f"{remedy}"
        )
    if found.postprocessing != run.postprocessing:
        raise CheckpointError(f"the run's {file.name} was measured with another postprocessing of masks; {remedy}")
    return found


def _parse(stored: Mapping[str, Any]) -> Expectations:
    def region(of: Mapping[str, Any]) -> RegionExpectation:
        return RegionExpectation(**{**of, "rank_correlation": RankCorrelation(**of["rank_correlation"])})

    subsets = {
        name: SubsetExpectation(
            of["cases"], {name: region(each) for name, each in of["regions"].items()}, region(of["mean"])
        )
        for name, of in stored["subsets"].items()
    }
    return Expectations(**{**stored, "subsets": subsets})
