"""Training on subsets of the modalities, so that a network copes with a missing scan.

Two options that work with every strategy: modality dropout leaves modalities out of the fusion; the subset view keeps
the full fusion and adds a second one, of a subset of the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from cggm_med.config import TrainConfig
from cggm_med.errors import ConfigError
from cggm_med.randomness import Step, Stream
from cggm_med.types import Features

MAX_MODALITIES = 12  # above that, a table of all subsets is too long
GUIDED_SHARE = 2 / 3  # how often a guided subset lacks the strongest modality


def modality_dropout(features: Mapping[str, Features], settings: TrainConfig, step: Step) -> Mapping[str, Features]:
    """The features, with modality dropout if this step has any."""
    left = _left(settings.modality_dropout_schedule, step)
    rate = settings.modality_dropout
    if not isinstance(rate, Mapping):
        if rate * left == 0:
            return features
        if settings.modality_dropout_draw == "subset":
            return drop_to_subset(features, rate * left, step)
        return drop_modalities(features, rate * left, step, Stream.MODALITY_DROPOUT)
    rates = torch.tensor([rate.get(m, 0.0) * left for m in features])
    if not rates.any():
        return features
    device = next(iter(features.values())).maps[0].device
    return drop_modalities(features, rates.to(device, non_blocking=True), step, Stream.MODALITY_DROPOUT)


def subset_view(
    features: Mapping[str, Features], settings: TrainConfig, step: Step, scores: Tensor | None
) -> dict[str, Features] | None:
    """Features of a random subset, or None if this step has no subset view.

    Args:
        features: of each present modality.
        settings: whether and how often.
        step: where training stands.
        scores: ``(modality,)`` balance scores of the modalities of the whole batch, if they are known.

    Raises:
        ConfigError: if the view is guided and there are no scores.
    """
    few = len(step.modalities(features)) < 2
    if settings.subset_view == 0 or step.number % settings.subset_view_every or few:
        return None
    require_guidable(settings, scores is not None)
    return draw_subset(features, step, scores if settings.subset_view_guided else None)


def require_guidable(settings: TrainConfig, scored: bool) -> None:
    """Refuse a subset view that is guided by scores which there are not.

    Args:
        settings: whether it is guided.
        scored: whether there are classifier heads, by whose scores it would be.

    Raises:
        ConfigError: says what to set.
    """
    if settings.subset_view and settings.subset_view_guided and not scored:
        raise ConfigError(
            "train.subset_view_guided is true and there are no classifier heads to guide; set strategy.heads=true"
        )


def subset_view_weight(settings: TrainConfig, step: Step) -> float:
    """Weight of the loss of this step's subset view."""
    return settings.subset_view * _left(settings.subset_view_schedule, step)


def drop_modalities(
    features: Mapping[str, Features], rates: float | Tensor, step: Step, purpose: Stream | str
) -> dict[str, Features]:
    """Leave whole modalities out of single samples, at all scales alike; every sample keeps at least one that it has.

    Rescaling is left to the fusion: every fusion here is a mean over the present modalities, so that their weights
    always sum to the number of modalities, as the OPM paper requires on average.

    Args:
        features: of each present modality.
        rates: probability of being left out, one for all or ``(modality,)`` in the order of ``features``.
        step: for the random numbers.
        purpose: which stream of random numbers.
    """
    drawn = step.modalities(features)
    if len(drawn) < 2:
        return dict(features)
    eligible = _present(features)
    chance = step.uniform(purpose, len(eligible), len(drawn), eligible.device)
    if len(features) < len(drawn):  # samples of other parts have more
        chance = chance[:, [drawn.index(m) for m in features]]
    keep = eligible & (chance >= rates)
    last = torch.where(eligible, chance, -1).argmax(1, keepdim=True)
    last_resort = torch.zeros_like(keep).scatter_(1, last, True) & eligible
    return _restrict(features, torch.where(keep.any(1, keepdim=True), keep, last_resort))


def drop_to_subset(features: Mapping[str, Features], rate: float, step: Step) -> dict[str, Features]:
    """Leave single samples a random proper subset of the modalities that they have, each as likely, at all scales.

    Args:
        features: of each present modality.
        rate: probability that a sample is left a subset.
        step: for the random numbers.
    """
    if len(step.modalities(features)) < 2:
        return dict(features)
    present = _present(features)
    chance = step.uniform(Stream.MODALITY_DROPOUT, len(present), 1, present.device)
    subset = _present(draw_subset(features, step, stream=Stream.DROPPED_TO_SUBSET))
    return _restrict(features, torch.where(chance < rate, subset, present))


def draw_subset(
    features: Mapping[str, Features], step: Step, scores: Tensor | None = None, stream: Stream = Stream.SUBSET_VIEW
) -> dict[str, Features]:
    """A random proper subset of the modalities that each sample has; of a single one, that one.

    Args:
        features: of each present modality.
        step: for the random numbers.
        scores: ``(modality,)`` of the modalities of the whole batch, at least two; if given, the strongest is left out
            two times in three (guided).
        stream: of random numbers.
    """
    drawn = step.modalities(features)
    present = _present(features)
    table = subsets(len(drawn)).to(present.device)
    probability = subset_probabilities(table, scores)
    chance = step.uniform(stream, len(present), 1, present.device)
    if step.counts is None:
        chosen = torch.searchsorted(probability.cumsum(0), chance[:, 0], right=True).clamp_max(len(table) - 1)
        keep = table[chosen] & present
    else:
        here = table[:, [drawn.index(m) for m in features]]
        outside = table.sum(1) > here.sum(1)
        possible = ~outside & ~(here & ~present[:, None]).any(2) & (here != present[:, None]).any(2)
        reached = (probability * possible).cumsum(1)
        chosen = torch.searchsorted(reached, chance * reached[:, -1:], right=True).clamp_max(len(table) - 1)
        keep = here[chosen[:, 0]] & present
    # A sample with a single modality has no proper subset, and keeps what it has.
    return _restrict(features, torch.where(keep.any(1, keepdim=True), keep, present))


def subsets(modalities: int) -> Tensor:
    """All subsets but the empty and the full one, ``(2^M - 2, M)`` booleans.

    Raises:
        ValueError: for too many modalities.

    Example:
        >>> subsets(2).tolist()
        [[False, True], [True, False]]
    """
    if modalities > MAX_MODALITIES:
        raise ValueError(f"a subset is drawn among those of at most {MAX_MODALITIES} modalities, {modalities} given")
    return torch.tensor(list(product((False, True), repeat=modalities))[1:-1])


def subset_probabilities(table: Tensor, scores: Tensor | None) -> Tensor:
    """Probability of each subset: equal, or such that two thirds lack the modality with the highest score.

    Example:
        >>> subset_probabilities(subsets(2), torch.tensor([0.9, 0.1]))
        tensor([0.6667, 0.3333])
    """
    uniform = torch.full((len(table),), 1 / len(table), device=table.device)
    if scores is None:
        return uniform
    has_strongest = table[:, scores.argmax()]
    count = has_strongest.sum()
    guided = torch.where(has_strongest, (1 - GUIDED_SHARE) / count, GUIDED_SHARE / (len(table) - count))
    # Where all are equal, as before the first score, none is strongest.
    return torch.where(scores.max() > scores.min(), guided, uniform)


def _left(schedule: str, step: Step) -> float:
    """Share of its first value that something has in this step."""
    return 1 - step.progress if schedule == "annealed" else 1.0


def _present(features: Mapping[str, Features]) -> Tensor:
    """Which sample has which modality, ``(batch, modality)``."""
    some = next(iter(features.values())).maps[0]
    everyone = torch.ones(len(some), dtype=torch.bool, device=some.device)
    return torch.stack([everyone if f.present is None else f.present for f in features.values()], dim=1)


def _restrict(features: Mapping[str, Features], keep: Tensor) -> dict[str, Features]:
    return {m: f._replace(present=column) for (m, f), column in zip(features.items(), keep.unbind(1), strict=True)}
