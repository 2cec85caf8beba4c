"""Shapley values of the modalities: how much each adds to the fused prediction, on average over all orders.

Shapley, 1953: ``phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.balance_scores import ScoreSums
from cggm_med.types import Features

MAX_EXACT = 4  # modalities up to which all 2^M coalitions are valued


def exact_plan(players: int) -> tuple[Tensor, Tensor]:
    """All coalitions and the weights that turn their values into Shapley values.

    Returns:
        Coalitions ``(2^M, M)`` booleans, from the empty to the full one, and weights ``(M, 2^M)``.

    Example:
        >>> coalitions, weights = exact_plan(2)
        >>> weights @ torch.tensor([0.0, 1.0, 3.0, 4.0])  # nobody, the second, the first, both
        tensor([3., 1.])
    """
    coalitions = torch.tensor(list(product((False, True), repeat=players)))
    weights = torch.zeros(players, len(coalitions))
    for index, members in enumerate(coalitions.tolist()):
        size = sum(members)
        for player in range(players):
            others = size - members[player]
            weight = math.factorial(others) * math.factorial(players - others - 1) / math.factorial(players)
            weights[player, index] = weight if members[player] else -weight
    return coalitions, weights


def sampled_plan(players: int, orders: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same from ``orders`` random orders in which the players join; values still sum to v(all) - v(none)."""
    if math.factorial(players) <= orders:
        drawn = [list(order) for order in permutations(range(players))]
    else:
        drawn = [torch.randperm(players, generator=generator).tolist() for _ in range(orders)]
    seen: dict[tuple[bool, ...], int] = {}
    entries: list[tuple[int, int, float]] = []
    for order in drawn:
        members = [False] * players
        before = seen.setdefault(tuple(members), len(seen))
        for player in order:
            members[player] = True
            after = seen.setdefault(tuple(members), len(seen))
            entries += [(player, after, 1 / len(drawn)), (player, before, -1 / len(drawn))]
            before = after
    weights = torch.zeros(players, len(seen))
    for player, coalition, weight in entries:
        weights[player, coalition] += weight
    return torch.tensor(list(seen)), weights


def shapley_plan(players: int, orders: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Exact up to four players, sampled above."""
    return exact_plan(players) if players <= MAX_EXACT else sampled_plan(players, orders, generator)


@torch.no_grad()
def coalition_sums(
    model: MultimodalModel,
    features: Mapping[str, Features],
    target: Tensor,
    score_sums: ScoreSums,
    coalitions: Tensor,
    players: Sequence[str] | None = None,
) -> Tensor:
    """Score sums of the fused prediction from each coalition of the given modalities.

    The others are absent, as if they had never been loaded. The network is in evaluation mode: without dropout, and
    without changing running statistics. The empty coalition predicts as for a sample that lacks every modality.

    Args:
        model: fuses and predicts.
        features: of each present modality.
        target: what should be predicted.
        score_sums: see ``cggm_med.objectives.balance_scores``.
        coalitions: ``(coalition, modality)`` booleans.
        players: the modality of each column, which these samples may lack; default: those of ``features``.

    Returns:
        ``(coalition, target, 3)``.
    """
    nobody = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    sums = []
    with _evaluation_mode(model):
        for members in coalitions.tolist():
            joined = {m for m, member in zip(players or features, members, strict=True) if member}
            given = {m: f for m, f in features.items() if m in joined}
            if not given:
                given = {m: f._replace(present=nobody) for m, f in features.items()}
            sums.append(score_sums(model.head(model.fuse(given)[0]), target))
    return torch.stack(sums)


@torch.no_grad()
def shapley_responses(
    model: MultimodalModel,
    features: Mapping[str, Features],
    players: Sequence[str],
    orders: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Each modality's part of the fused logits: its Shapley value, logit by logit, where others' features are zeros.

    Nobody's logits count as zeros, so the responses sum to the logits of all (Li et al., ICCV 2023, as in AGM). Where
    the head is linear in the concatenated features they are its shares, and nothing is predicted. Otherwise the network
    is in evaluation mode, and predicts once for each coalition.

    Args:
        model: fuses and predicts.
        features: of each modality that these samples have.
        players: the modalities among which the logits are shared out, which these samples may lack.
        orders: see ``shapley_plan``.
        generator: see ``shapley_plan``.

    Returns:
        ``(batch, target, ...)`` in float32, for each modality of ``features``.
    """
    shares = model.linear_shares(features)
    if shares is not None:
        return {m: share.float() for m, share in shares.items()}
    coalitions, weights = shapley_plan(len(players), orders, generator)
    responses: dict[str, Tensor] = {}
    with _evaluation_mode(model):
        for members, column in zip(coalitions.tolist(), weights.T.tolist(), strict=True):
            joined = {m for m, member in zip(players, members, strict=True) if member and m in features}
            if not joined:
                continue
            given = {m: f if m in joined else _zeros(f) for m, f in features.items()}
            logits = model.head(model.fuse(given)[0]).float()
            for m, weight in zip(players, column, strict=True):
                if m in features:
                    responses[m] = weight * logits + responses[m] if m in responses else weight * logits
    return responses


def _zeros(features: Features) -> Features:
    return features._replace(maps=tuple(torch.zeros_like(x) for x in features.maps))


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout and without changing running statistics; each module is afterwards in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def shapley_shares(values: Tensor) -> Tensor:
    """Shapley values as shares of their total magnitude; equal shares where all are almost 0.

    Example:
        >>> shapley_shares(torch.tensor([0.3, -0.1]))
        tensor([ 0.7500, -0.2500])
    """
    total = values.abs().sum()
    return torch.where(total > 1e-8, values / total.clamp_min(1e-8), 1 / len(values))
