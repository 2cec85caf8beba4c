"""Laws that every fusion of 3-D maps keeps, however it weighs the modalities."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from cggm_med import registry
from cggm_med.errors import PluginError
from cggm_med.models.fusion import Fusion
from cggm_med.testing.feature_maps import finite_maps, same
from cggm_med.testing.laws import Laws, check, expect
from cggm_med.types import Features

MODALITIES = ("flair", "t1", "t2")
GRID = (4, 6, 8)  # of the finest maps
NOBODY, EVERYBODY = torch.tensor([False, False]), torch.tensor([True, True])
FIRST, SECOND = torch.tensor([True, False]), torch.tensor([False, True])

View = Mapping[str, Features]
Maps = tuple[Tensor, ...]


def check_fusion(fusion: str | type[Fusion], *, channels: Sequence[int] = (4, 6)) -> None:
    """Try a fusion on small maps of three modalities and require what every fusion promises; takes a second.

    Args:
        fusion: registered name, or the class.
        channels: of each scale, finest first.

    Raises:
        AssertionError: says which law is broken, and how.

    Example:
        >>> check_fusion("masked_mean")
    """
    cls: type[Fusion] = registry.load(registry.FUSIONS, fusion) if isinstance(fusion, str) else fusion
    laws = fusion_laws(lambda: cls(MODALITIES, channels), channels)
    with torch.random.fork_rng(devices=[]):
        check(laws, f"fusion {fusion if isinstance(fusion, str) else cls.__name__}")


def fusion_laws(make: Callable[[], Fusion], channels: Sequence[int]) -> Laws:
    """The laws, by what they say.

    Args:
        make: a new fusion of ``MODALITIES`` with random weights.
        channels: of each scale.
    """

    def seeded(seed: int = 0) -> Fusion:
        torch.manual_seed(seed)
        return make()

    def features(seed: int = 0) -> dict[str, Features]:
        draw = torch.Generator().manual_seed(seed)
        shapes = [(2, c, *(n // 2**scale for n in GRID)) for scale, c in enumerate(channels)]
        return {m: Features(tuple(torch.randn(s, generator=draw) for s in shapes)) for m in MODALITIES}

    def fused(view: View, fusion: Fusion | None = None) -> Maps:
        return (fusion or seeded().eval())([view])[0]

    def maps_as_large() -> None:
        for view in (features(), _only(features(), "t1")):
            expected = [tuple(m.shape) for m in view["t1"].maps]
            found = [tuple(m.shape) for m in fused(view)]
            expect(found == expected, f"of {len(view)} modalities expected maps {expected}, found {found}")

    def always_finite() -> None:
        for kept in ((m,) for m in MODALITIES):
            expect(finite_maps(fused(_only(features(), *kept))), f"a map is not finite when only {kept[0]} is there")
        with torch.autocast("cpu", torch.bfloat16):
            expect(finite_maps(fused(features())), "under autocast to bfloat16 a map is not finite")

    def nothing_there() -> None:
        fusion = seeded().train()
        found = fused({m: f._replace(present=SECOND) for m, f in features().items()}, fusion)
        expect(finite_maps(found), "a map is not finite where a sample lacks every modality")
        _backward(found)
        broken = [n for n, p in fusion.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        expect(not broken, f"where a sample lacks every modality, the gradient of {', '.join(broken)} is not finite")

    def absent_is_not_loaded() -> None:
        everything = features()
        for m in MODALITIES:
            expected = fused(_without(everything, m))
            junk = tuple(x * torch.nan for x in everything[m].maps)
            for maps in (everything[m].maps, junk):
                found = fused({**everything, m: Features(maps, NOBODY)})
                expect(same(found, expected), f"{m} marked absent in every sample is not {m} left out, bit for bit")

    def absent_in_one_sample() -> None:
        everything = features()
        for m in MODALITIES:
            found = fused({**everything, m: everything[m]._replace(present=FIRST)})
            for row, view in enumerate((everything, _without(everything, m))):
                near = [torch.allclose(a[row], b[row], atol=1e-5) for a, b in zip(found, fused(view), strict=True)]
                has = "has" if row == 0 else "lacks"
                expect(all(near), f"when one of two samples lacks {m}, what is made of the one that {has} it changes")

    def samples_apart() -> None:
        everything, other = features(), features(1)
        mixed = {
            m: Features(tuple(torch.cat([x[:1], 100 * y[1:]]) for x, y in zip(f.maps, other[m].maps, strict=True)))
            for m, f in everything.items()
        }
        for training in (False, True):
            found = []
            for view in (everything, mixed):
                fusion = seeded().train(training)
                found.append(tuple(m[:1] for m in fused(view, fusion)))
            when = "training" if training else "evaluation"
            expect(same(*found), f"in {when} mode what is made of a sample depends on the other samples of the batch")

    def order_is_free() -> None:
        expect(
            same(fused(dict(reversed(features().items()))), fused(features())), "given in another order, maps differ"
        )

    def views_apart() -> None:
        everything = features()
        before = {m: [x.clone() for x in f.maps] for m, f in everything.items()}
        views: list[View] = [
            everything,
            _without(everything, "flair"),
            {m: f._replace(present=FIRST if m == "t1" else EVERYBODY) for m, f in everything.items()},
            everything,
        ]
        fusion = seeded().eval()
        for together, view in zip(fusion(views), views, strict=True):
            expect(same(together, fused(view, fusion)), "several views at once are not the views one by one")
        kept = all(same(before[m], f.maps) for m, f in everything.items())
        expect(kept, "it changes the maps that it is given, which others still read")

    def in_turn() -> None:
        for view in (features(), _without(features(), "t1")):
            found = seeded().eval().fuse_in_turn(iter(view.items()))
            expect(same(found, fused(view)), "modalities fused in turn are not the modalities fused at once")

    def empty_is_refused() -> None:
        for what, fuse in (("a view", lambda: fused({})), ("a turn", lambda: seeded().fuse_in_turn(iter(())))):
            try:
                fuse()
            except ValueError:
                continue
            expect(False, f"{what} without any modality is fused; expected a ValueError")

    def every_parameter_has_an_owner() -> None:
        fusion = seeded()
        try:
            fusion.require_owners()
        except PluginError as error:
            expect(False, str(error))
        names = {p: name for name, p in fusion.named_parameters()}
        claims = {m: [p for part in fusion.modality_modules(m) for p in part.parameters()] for m in MODALITIES}
        for a, b in itertools.combinations(MODALITIES, 2):
            both = [names[p] for p in claims[a] if p in set(claims[b])]
            expect(not both, f"{', '.join(both)} belongs to {a} and to {b}")

    def owners_are_true() -> None:
        fusion = seeded().train()
        _backward(fused(features(), fusion))
        moving = {name for name, p in fusion.named_parameters() if p.grad is not None}
        asleep = [name for name, p in fusion.named_parameters() if p.requires_grad and name not in moving]
        expect(not asleep, f"no gradient reaches {', '.join(asleep)}")
        still: dict[str, set[str]] = {}  # by modality, what has no gradient without it
        for m in MODALITIES:
            fusion.zero_grad()
            _backward(fused(_without(features(), m), fusion))
            still[m] = {name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.any()}
        for m in MODALITIES:
            own = {id(p) for part in fusion.modality_modules(m) for p in part.parameters()}
            claimed = {name for name, p in fusion.named_parameters() if id(p) in own}
            expect(claimed <= still[m], f"{', '.join(sorted(claimed - still[m]))} learns without {m}, which claims it")
            elsewhere = {name for other in MODALITIES if other != m for name in still[other]}
            hidden = sorted(still[m] - elsewhere - claimed)
            expect(not hidden, f"{', '.join(hidden)} learns from {m} only, whose modality_modules leaves it out")

    def repeatable() -> None:
        fusion = seeded().eval()
        expect(same(fused(features(), fusion), fused(features(), fusion)), "the same maps were fused otherwise")

    def state_is_everything() -> None:
        fusion, other = seeded().train(), seeded(1)
        fused(features(), fusion)
        other.load_state_dict(fusion.state_dict())
        both = (fused(features(), one.eval()) for one in (fusion, other))
        expect(same(*both), "with the same state, another one fused otherwise")

    def shapes_without_content() -> None:
        view = {m: Features(tuple(x.to("meta") for x in f.maps)) for m, f in features().items()}
        found = [m.shape for m in fused(view, seeded().to("meta"))]
        expect(found == [m.shape for m in fused(features())], f"on the meta device its maps are {found}")

    return {
        "fused maps are as large as a modality's": maps_as_large,
        "fused maps are finite": always_finite,
        "in evaluation mode it repeats itself": repeatable,
        "a sample without any modality does no harm": nothing_there,
        "an absent modality was never loaded": absent_is_not_loaded,
        "samples may differ in what they lack": absent_in_one_sample,
        "samples do not touch one another": samples_apart,
        "the order of the modalities does not matter": order_is_free,
        "views do not touch one another": views_apart,
        "fused in turn is fused at once": in_turn,
        "nothing to fuse is an error": empty_is_refused,
        "every parameter has an owner": every_parameter_has_an_owner,
        "owners are those that train": owners_are_true,
        "the state dictionary is all its state": state_is_everything,
        "it has shapes on the meta device": shapes_without_content,
    }


def _only(view: View, *modalities: str) -> dict[str, Features]:
    return {m: view[m] for m in modalities}


def _without(view: View, modality: str) -> dict[str, Features]:
    return {m: f for m, f in view.items() if m != modality}


def _backward(maps: Maps) -> None:
    draw = torch.Generator().manual_seed(2)
    torch.stack([(m * torch.randn(m.shape, generator=draw)).sum() for m in maps]).sum().backward()
