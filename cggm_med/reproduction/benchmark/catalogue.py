"""Every benchmark by name: its data, the figures that were published on it, and how its literature scores."""

from __future__ import annotations

from dataclasses import dataclass

from cggm_med.errors import UnknownName
from cggm_med.reproduction.paper_table import DataSet

MODALITIES = ("flair", "t1", "t1ce", "t2")
REGIONS = ("WT", "TC", "ET")
# As tables of the field have them: the masks in github.com/dyh127/RFNet@6938e79 train.py, and in
# github.com/YaoZhang93/mmFormer@64b0cdc mmformer/test.py.
SUBSETS = (
    ("t2",),
    ("t1ce",),
    ("t1",),
    ("flair",),
    ("t1ce", "t2"),
    ("t1", "t1ce"),
    ("flair", "t1"),
    ("t1", "t2"),
    ("flair", "t2"),
    ("flair", "t1ce"),
    ("flair", "t1", "t1ce"),
    ("flair", "t1", "t2"),
    ("flair", "t1ce", "t2"),
    ("t1", "t1ce", "t2"),
    MODALITIES,
)

SELF_REPORTED = "self-reported"
TO_BE_CHECKED = "from a secondary note, to be checked in the paper"


@dataclass(frozen=True)
class Published:
    """Dice in percent as it was published, the mean over the 15 subsets.

    Attributes:
        method: its name, and where it was published.
        regions: of WT, TC and ET; None where only their mean is known.
        mean: of the three.
        standing: how far it can be trusted; empty if nothing is to be said.
        note: of how it differs.
    """

    method: str
    regions: tuple[str, str, str] | None
    mean: str
    standing: str = ""
    note: str = ""


@dataclass(frozen=True)
class Convention:
    """What HD95 counts as where a mask has no voxel.

    Attributes:
        name: in the table.
        both_mm: where neither the true nor the predicted region has a voxel; None: such a case is left out.
        one_mm: where only one of them has none.
        seen: where; empty if in no code that was read.
    """

    name: str
    both_mm: float | None
    one_mm: float | None
    seen: str = ""


CONVENTIONS = (
    Convention("0", 0.0, 0.0),
    Convention("0 or 373.13", 0.0, 373.12866, "github.com/AImageLab-zip/IM-Fuse@fbbd48e D2Net/predict.py"),
    Convention("0 or 393", 0.0, 393.0),
    Convention("393", 393.0, 393.0),
    Convention("0 or 1", 0.0, 1.0, "github.com/Jun-Jie-Shi/M2FTrans@03a0b28 M2FTrans_v1/predict.py"),
    Convention("left out", None, None, "github.com/kk42yy/DeMoSeg@73cd4bb DeMoSeg/evaluation/Metric.py"),
)

# What every table here has to be read with.
DIFFERS = (
    "The checkpoint is the best one by the validation cases of the list; RFNet's release takes the last epoch, and no "
    "validation (its README.md at 1030aeb).",
    "No prediction is changed before it is scored. DeMoSeg empties ET where fewer than 500 voxels are predicted "
    "(github.com/kk42yy/DeMoSeg@73cd4bb DeMoSeg/evaluation/BraTS20_Eval.py); the test code of RFNet, M2FTrans and "
    "IM-Fuse prints ET with and without that step, and papers do not always say which they report.",
    "A modality that is not given is left out before the scan is cropped; M2FTrans, for one, crops by all four when it "
    "prepares the data (github.com/Jun-Jie-Shi/M2FTrans@03a0b28 M2FTrans_v1/preprocess.py).",
)


@dataclass(frozen=True)
class Benchmark:
    """A named division of a public data set.

    Attributes:
        name: of the command, and of its file of cases.
        shows: what it is, in a few words.
        data: what it needs.
        layout: name of the task's layout that the files of the cases have.
        published: figures of others.
    """

    name: str
    shows: str
    data: DataSet
    layout: str
    published: tuple[Published, ...]


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "brats2018-3fold",
            "BraTS 2018 in the three splits of RFNet: 199, 29 and 57 of 285 cases each",
            DataSet(
                "the training data of BraTS 2018",
                "https://www.med.upenn.edu/sbia/brats2018/data.html, after registration; see there for its licence",
                (
                    "{HGG,LGG}/Brats18_2013_0_1/Brats18_2013_0_1_{flair,t1,t1ce,t2,seg}.nii.gz",
                    "with or without the folders of grades",
                ),
            ),
            "BraTS 2021",
            (Published("DeMoSeg", ("87.96", "79.79", "64.90"), "77.6", SELF_REPORTED),),
        ),
        Benchmark(
            "brats2020-rfnet",
            "BraTS 2020 in the splits of RFNet: 219, 50 and 100 of 369 cases",
            DataSet(
                "the training data of BraTS 2020",
                "https://www.med.upenn.edu/cbica/brats2020/data.html, after registration; see there for its licence",
                ("BraTS20_Training_001/BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii.gz",),
            ),
            "BraTS 2021",
            (
                Published("DeMoSeg", ("88.90", "81.58", "69.71"), "80.1", SELF_REPORTED),
                Published("RFNet", None, "75.6", SELF_REPORTED),
                Published(
                    "CLoE (CVPR 2026)",
                    ("88.09", "80.23", "65.06"),
                    "77.8",
                    TO_BE_CHECKED,
                    "on BraTS 2020; whether by this list is not known here",
                ),
            ),
        ),
        Benchmark(
            "brats2023-im-fuse",
            "BraTS 2023, adult glioma, in the splits of IM-Fuse: 875, 125 and 251 of 1,251 cases",
            DataSet(
                "the training data of BraTS 2023, adult glioma",
                "https://www.synapse.org/Synapse:syn51156910, after registration; see there for its licence",
                ("BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t2f,t1n,t1c,t2w,seg}.nii.gz",),
            ),
            "BraTS 2023",
            (
                Published("IM-Fuse (MICCAI 2025)", ("90.2", "85.5", "74.3"), "83.3"),
                Published("mmFormer", None, "82.8", note="run again by IM-Fuse"),
                Published("M3AE", None, "82.6", note="run again by IM-Fuse"),
                Published("U-HVED", None, "72.3", note="run again by IM-Fuse"),
                Published(
                    "UniME (CVPR 2026)",
                    ("90.38", "84.51", "75.59"),
                    "83.5",
                    TO_BE_CHECKED,
                    "70, 10 and 20 % of the same cases; whether by this list is not known here",
                ),
            ),
        ),
    )
}


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        UnknownName: if there is none; names the nearest.
    """
    if name not in BENCHMARKS:
        raise UnknownName("benchmark", name, BENCHMARKS, "'cggm-med benchmark --list' says what each is")
    return BENCHMARKS[name]


def listing() -> list[str]:
    """A line for each: its name, what it is, and how many published figures stand beside it."""
    width = max(map(len, BENCHMARKS))
    return [
        f"{of.name:{width}} {of.shows}  [{len(of.published)} published figure{'s' * (len(of.published) > 1)}]"
        for of in BENCHMARKS.values()
    ]
