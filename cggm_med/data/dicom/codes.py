"""Codes that say what a segment of a DICOM segmentation shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cggm_med.errors import UnknownName

KEYS = ("category", "type", "modifier")
MAX_SCHEME, MAX_MEANING = 16, 64  # letters: value representations SH and LO of DICOM PS3.5


class Code(NamedTuple):
    """A concept of a coding scheme.

    Attributes:
        scheme: such as ``SCT`` (SNOMED CT), ``DCM``, ``NCIt``; private ones begin with ``99`` (DICOM PS3.16, 8.2).
        value: of the scheme, such as ``6574001``.
        meaning: in words, such as ``Necrosis``.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class SegmentCodes:
    """What one region is, in the attributes of a segment (DICOM PS3.3, C.8.20.4).

    Attributes:
        category: Segmented Property Category, from DICOM PS3.16, CID 7150.
        type: Segmented Property Type.
        modifier: of the type, such as its side.

    Example:
        >>> codes = {"category": ["SCT", "91723000", "Anatomical Structure"], "type": ["SCT", "64033007", "Kidney"]}
        >>> SegmentCodes.from_json({**codes, "modifier": ["SCT", "7771000", "Left"]}, "kidney").modifier.meaning
        'Left'
    """

    category: Code
    type: Code
    modifier: Code | None = None

    @classmethod
    def from_json(cls, content: Any, region: str) -> SegmentCodes:
        """The codes in a JSON object: ``[scheme, value, meaning]`` by ``category``, ``type``, perhaps ``modifier``.

        Raises:
            UnknownName: for another key.
            ValueError: for anything else.
        """
        if not (isinstance(content, dict) and {"category", "type"} <= set(content)):
            raise ValueError(f"codes of {region} are {content!r}; expected an object with category and type")
        for key in content:
            if key not in KEYS:
                raise UnknownName(f"code of {region}", str(key), KEYS)
        return cls(**{key: _code(code, f"{key} of {region}") for key, code in content.items()})

    def to_json(self) -> dict[str, list[str]]:
        """Plain values, which ``from_json`` reads."""
        return {key: list(code) for key, code in vars(self).items() if code is not None}


# What is right of anything in a body: both stand in the standard's lists, CID 7150 and CID 7191.
TISSUE = Code("SCT", "85756007", "Tissue")
UNDECLARED = SegmentCodes(TISSUE, TISSUE)


def _code(given: Any, what: str) -> Code:
    if not (isinstance(given, list) and len(given) == 3 and all(isinstance(part, str) and part for part in given)):
        raise ValueError(f'{what} is {given!r}; expected [scheme, value, meaning], such as ["SCT", "4147007", "Mass"]')
    code = Code(*given)
    for part, most in ((code.scheme, MAX_SCHEME), (code.meaning, MAX_MEANING)):
        if len(part) > most:
            raise ValueError(f"{what}: {part!r} has {len(part)} letters; DICOM allows {most}")
    return code
