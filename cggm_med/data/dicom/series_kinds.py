"""Telling from a DICOM header which modality a series shows, or why it is none to learn from."""

from __future__ import annotations

from cggm_med.data.dicom.header import SECONDARY_CAPTURE, Header
from cggm_med.data.folders.vocabulary import sequence_of


def kind_of_header(header: Header) -> str:
    """What a series shows: as `kind_of` tells it from its description, or why it is not even an original MR image."""
    types = {part.strip() for part in header.text("ImageType").upper().split("\\")}
    if header.text("Modality") != "MR":
        return "not MR"
    if header.text("SOPClassUID").startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if "LOCALIZER" in types:
        return "localiser"
    agent = header.text("ContrastBolusAgent").lower() not in ("", "no", "none", "without", "ohne")
    kind = kind_of(header.text("SeriesDescription") or header.text("ProtocolName"), agent)
    return f"derived {kind}" if types & {"DERIVED", "SECONDARY"} else kind


def kind_of(description: str, contrast_agent: bool = False) -> str:
    """What a series shows, as far as its description tells: flair, t1, t1ce, t2, or why it is none of them.

    Example:
        >>> [kind_of(text) for text in ("AX T2 FLAIR", "t2_tirm_tra_dark-fluid", "AX T1 FLAIR +C", "T1 without Gd")]
        ['flair', 'flair', 't1ce', 't1']
        >>> [kind_of(text) for text in ("T1 MPRAGE post", "T1 post-op", "T2* GRE", "ep2d_diff_b1000", "T1+T2")]
        ['t1ce', 't1', 'susceptibility', 'diffusion', 'unknown']
    """
    sequence = sequence_of(description, contrast_agent)
    return _FAMILIES.get(sequence, sequence)


_FAMILIES = {
    **dict.fromkeys(("adc", "dwi", "dti", "b0", "fa", "md"), "diffusion"),
    **dict.fromkeys(("cbf", "cbv", "mtt", "tmax", "ttp", "ktrans", "asl", "perfusion"), "perfusion"),
    **dict.fromkeys(("swi", "qsm", "t2star", "functional"), "susceptibility"),
    **dict.fromkeys(("quantitative map", "mp2rage", "mtr"), "map"),
    **dict.fromkeys(("pd", "bssfp", "lge", "mt", "ct", "pet"), "unknown"),
    **dict.fromkeys(("t1 in phase", "t1 opposed phase"), "t1"),
    "stir": "inversion recovery",
}
