"""Modalities of channels, as far as the names tell that a list gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cggm_med.data.declaration import NORMALISATIONS, Modality
from cggm_med.data.folders.declared import CASE_KEYS
from cggm_med.data.folders.vocabulary import shown_by

# What nnU-Net calls ways to normalise, any of which may stand where the name of a channel is expected
# (its documentation/explanation_normalization.md; "CT" is both).
_WAYS = {
    "nonorm": Modality("map", "keep_scale"),
    "zscore": Modality("mri", "z_score"),
    "rescale_to_0_1": Modality("mri", "z_score"),
    "rgb_to_0_1": Modality("mri", "z_score"),
}
_KIND_ALONE = {"mr": Modality(), "mri": Modality()}


@dataclass(frozen=True)
class Channels:
    """Modalities in the order of the channels, by names that differ.

    Attributes:
        modalities: one for each channel.
        questions: what the names leave open.
        notes: what was taken for granted.
    """

    modalities: dict[str, Modality]
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def channels_of(names: Sequence[str], source: str) -> Channels:
    """Modalities of channels with these names.

    Args:
        names: as the list has them; one name may stand several times.
        source: of the names, for messages.

    Example:
        >>> found = channels_of(["CT", "CT", "noNorm"], "dataset.json")
        >>> {name: modality.kind for name, modality in found.modalities.items()}
        {'CT 1': 'ct', 'CT 2': 'ct', 'noNorm': 'map'}
        >>> len(found.questions)
        2
    """
    modalities: dict[str, Modality] = {}
    questions, unknown = [], []
    numbered = [[k for k, other in enumerate(names) if other == name] for name in names]
    for channel, (name, places) in enumerate(zip(names, numbered, strict=True)):
        own = name_of(name) or f"channel {channel}"
        if len(places) > 1:
            own = f"{own} {places.index(channel) + 1}"
            if places[0] == channel:
                questions.append(
                    f"names for channels {', '.join(map(str, places))}: {source} calls each of them {name!r}; say what "
                    "each shows, and of which kind it is"
                )
        while own in modalities:
            own += " again"
        way = _WAYS.get(name.casefold())
        if way is not None:
            questions.append(
                f"what the channel {name!r} shows: the name says how to normalise it, not which modality it is; "
                "proposed is the kind that is normalised so"
            )
        shown = way or _KIND_ALONE.get(name.casefold()) or shown_by(name)
        if shown is None:
            unknown.append(name)
        modalities[own] = shown or Modality("mri", NORMALISATIONS["mri"])
    notes = [f"nothing tells of which kind {', '.join(unknown)} is: taken for MRI"] if unknown else []
    return Channels(modalities, tuple(questions), tuple(notes))


def name_of(text: str) -> str:
    """A text as the name of a modality, which begins with a letter; empty if nothing is left.

    Example:
        >>> [name_of(text) for text in ("T1 (post-contrast)", "2D FLAIR", "label", "01")]
        ['T1 post-contrast', 'D FLAIR', 'label image', '']
    """
    words = re.sub(r"[^\w.+-]+", " ", text).strip()
    name = re.sub(r"^[\W\d_]+", "", words)
    return f"{name} image" if name.lower() in CASE_KEYS else name
