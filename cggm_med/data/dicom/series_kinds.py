"""Telling from a DICOM header which modality a series shows, or why it is none to learn from."""

from __future__ import annotations

import re

from cggm_med.data.dicom.header import SECONDARY_CAPTURE, Header
from cggm_med.data.folders.vocabulary import sequence_of, spelled


def kind_of_header(header: Header) -> str:
    """What a series shows: as `kind_of` tells it from its description, or why it is not even an original MR image."""
    types = {part.strip() for part in header.text("ImageType").upper().split("\\")}
    if header.text("Modality") != "MR":
        return "not MR"
    if header.text("SOPClassUID").startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if "LOCALIZER" in types:
        return "localiser"
    agent = header.text("ContrastBolusAgent").lower() not in _NO_AGENT
    kind = kind_of(header.text("SeriesDescription") or header.text("ProtocolName"), agent)
    if kind in _OF_THE_HEAD:
        kind = _other_region(header.text("BodyPartExamined")) or kind
    return f"derived {kind}" if types & {"DERIVED", "SECONDARY"} else kind


def kind_of(description: str, contrast_agent: bool = False) -> str:
    """What a series shows, as far as its description tells: flair, t1, t1ce, t2, or why it is none of them.

    Series of the spine, or of a part of the head or neck, are none, because those that a network of heads learned from
    show whole heads.

    Example:
        >>> [kind_of(text) for text in ("AX T2 FLAIR", "t2_tirm_tra_dark-fluid", "AX T1 FLAIR +C", "T1 without Gd")]
        ['flair', 'flair', 't1ce', 't1']
        >>> [kind_of(text) for text in ("T1 MPRAGE post", "T1 post-op", "T2* GRE", "ep2d_diff_b1000", "T1+T2")]
        ['t1ce', 't1', 'susceptibility', 'diffusion', 'unknown']
        >>> [kind_of(text) for text in ("T2 sag HWS", "T1 lumbar +C", "gre_field_mapping", "T1 vor KM", "T1 KM-")]
        ['spine', 'spine', 'calibration', 't1', 't1']
    """
    sequence = sequence_of(description, contrast_agent)
    kind = _FAMILIES.get(sequence, sequence)
    return _other_region(description) or kind if kind in _OF_THE_HEAD else kind


def _other_region(text: str) -> str:
    """The region that a description names, if it is not the whole head; else empty."""
    return next((region for region, words in _REGIONS.items() if re.search(words, spelled(text))), "")


# What people write where no contrast agent was given.
_NONE = "0 - n na n/a no none non nein nee nie without ohne sans sin senza sem zonder bez nativ native"
_NO_AGENT = frozenset(("", *_NONE.split()))
_OF_THE_HEAD = ("flair", "t1", "t1ce", "t2")
_SPINE = (
    r"\w*spine spina[el]\w* [hblg]w[sk] cerv tl \w*wirbel\w* lenden\w* rachis vertebr\w* col(umna|onna|una)"
    r" cervi[ck]\w* thora[ck]\w* tora[ck]\w* dorsal\w* dorsolumb\w* l[uo]mb[ao]\w* sa[ck]r\w* myel\w* medul\w*"
    r" midollo kregos\w* odc [clt]wk rygg\w* ruggenmerg neuroaxis [ctl]sp szyj\w* позвоноч\w*"
)
_PART = (
    r"orbit\w* sella\w* selar hypophy\w* [hi]pofi[sz]\w* pituit\w* przysad\w* iac khbw kbw innenohr inner.ear"
    r" felsenbein\w* nnh tmj kiefer\w* neck hals cou collo cuello pescoco nek laryn\w* parot\w*"
)
_REGIONS = {
    region: rf"\b({'|'.join(words.split())})\b"
    for region, words in {"spine": _SPINE, "part of the head or neck": _PART}.items()
}


_FAMILIES = {
    **dict.fromkeys(("adc", "dwi", "dti", "b0", "fa", "md"), "diffusion"),
    **dict.fromkeys(("cbf", "cbv", "mtt", "tmax", "ttp", "ktrans", "asl", "perfusion"), "perfusion"),
    **dict.fromkeys(("swi", "qsm", "t2star", "functional"), "susceptibility"),
    **dict.fromkeys(("quantitative map", "mp2rage", "mtr"), "map"),
    **dict.fromkeys(("pd", "bssfp", "lge", "mt", "ct", "pet"), "unknown"),
    "dir": "inversion recovery",
    **dict.fromkeys(("t1 in phase", "t1 opposed phase"), "t1"),
    "stir": "inversion recovery",
}
