"""Telling from a DICOM header which modality a series shows, or why it is none to learn from."""

from __future__ import annotations

import re

from cggm_med.data.dicom.header import SECONDARY_CAPTURE, Header


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

    A T1-weighted FLAIR is a T1. A T1 is taken to be enhanced if the description says so, or if it says nothing and the
    header names a contrast agent.

    Example:
        >>> [kind_of(text) for text in ("AX T2 FLAIR", "t2_tirm_tra_dark-fluid", "AX T1 FLAIR +C", "T1 without Gd")]
        ['flair', 'flair', 't1ce', 't1']
        >>> [kind_of(text) for text in ("T1 MPRAGE post", "T1 post-op", "T2* GRE", "ep2d_diff_b1000", "T1+T2")]
        ['t1ce', 't1', 'susceptibility', 'diffusion', 'unknown']
    """
    text = re.sub(r"w/o\b", "without", description.lower())
    text = re.sub(r"[^a-z0-9+*]+", " ", text)
    for kind, pattern in _LEFT_OUT.items():
        if re.search(pattern, text):
            return kind
    t1, t2 = (re.search(rf"\b([23]d|ax|sag|cor|tra)?t{k}(?!\d)", text) for k in (1, 2))
    if t1 and t2:
        return "unknown"
    if t1 or re.search(r"mprage|\bbravo\b|spgr\b", text):
        return _t1_kind(text, contrast_agent)
    if re.search(r"flair|dark ?fluid|\bt2f\b", text):
        return "flair"
    if re.search(r"\b(stir|tirm)\b", text):
        return "inversion recovery"
    if t2:
        return "susceptibility" if re.search(r"\b(gre|ffe|fl[23]d|hemo)\b", text) else "t2"
    return "unknown"


_LEFT_OUT = {
    "localiser": r"\bloc(ali[sz]er)?s?\b|scout|survey|smart ?brain|calibration",
    "diffusion": r"\b([de]?adc|dwi|dti|diff\w*|trace\w*|tensor|b ?\d{3,4})\b",
    "perfusion": r"\b(perf\w*|pwi|dsc|dce|p?c?asl|r?cb[vf]|mtt|ttp|ktrans)\b",
    "susceptibility": r"\b(swi|swan|bold|fmri|qsm|t2 ?star)\b|\bt2w? ?\*",
    "angiography": r"\b(mra|mrv|tof|angio\w*|venogr\w*)\b",
    "spectroscopy": r"\b(mrs|csi|svs|spectro\w*)\b",
    "projection": r"\b(mip|minip|mnip|reformat\w*|rfmt)\b",
    "subtraction": r"\b(sub|subs|subtract\w*)\b",
    "map": r"\bt[12] ?map|\bmaps?\b|mp2rage|\bt1rho",
}
_AGENT = r"(contrast|kontrast\w*|gd|gad\w*|km|mdc)"
_WITHOUT = rf"\b((with and )?without|ohne|sans|non?|wo|pre) ?({_AGENT}|c)\b|\b(pre|without|nativ\w*|unenhanced|t1n)\b"
_WITH = rf"\+ ?({_AGENT}|c|ce)\b|\bc ?\+|\bt1w?c\b|\bt1w?(ce|gd|km|post)\b|\b(post(?!erior)\w*|ce|enhanced|{_AGENT})\b"


def _t1_kind(text: str, contrast_agent: bool) -> str:
    text = re.sub(r"\b(pre|post) ?op\w*", " ", text)
    rest, without = re.subn(_WITHOUT, " ", text)
    enhanced = bool(re.search(_WITH, rest)) or "with and without" in text
    if without and enhanced:
        return "unknown"
    return "t1ce" if enhanced or (contrast_agent and not without) else "t1"
