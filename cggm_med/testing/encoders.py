"""Laws that every 3-D encoder keeps, whatever its architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cggm_med import registry
from cggm_med.models.encoders import Encoder
from cggm_med.testing.feature_maps import finite_maps, same
from cggm_med.testing.laws import Laws, check, expect

VOXELS = (2, 3, 4)  # of the coarsest map along x, y, z; 2 is the least that training allows


def check_encoder(encoder: str | type[Encoder], *, channels: Sequence[int] = (4, 6, 8)) -> None:
    """Try an encoder on small images and require what every encoder promises; takes a second.

    Args:
        encoder: registered name, or the class.
        channels: from which it is made, as in ``model.channels``.

    Raises:
        AssertionError: says which law is broken, and how.

    Example:
        >>> check_encoder("unet", channels=(4, 8))
    """
    cls: type[Encoder] = registry.load(registry.ENCODERS, encoder) if isinstance(encoder, str) else encoder
    with torch.random.fork_rng(devices=[]):
        check(encoder_laws(lambda: cls(channels)), f"encoder {encoder if isinstance(encoder, str) else cls.__name__}")


def encoder_laws(make: Callable[[], Encoder]) -> Laws:
    """The laws, by what they say.

    Args:
        make: a new encoder with random weights.
    """

    def seeded(seed: int = 0) -> Encoder:
        torch.manual_seed(seed)
        return make()

    def image(seed: int = 0) -> Tensor:
        reduction = seeded().reduction
        size = [n * voxels for n, voxels in zip(reduction, VOXELS, strict=True)]
        return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(seed))

    def maps_as_declared() -> None:
        encoder, x = seeded(), image()
        maps = encoder(x)
        expect(isinstance(maps, tuple), f"expected a tuple of maps, not a {type(maps).__name__}")
        grid = tuple(x.shape[2:])
        expected = []
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True):
            steps = (stride,) * 3 if isinstance(stride, int) else stride
            grid = tuple(n // step for n, step in zip(grid, steps, strict=True))
            expected.append((len(x), channels, *grid))
        found = [tuple(m.shape) for m in maps]
        expect(found == expected, f"of an image {tuple(x.shape)} expected maps {expected}, found {found}")

    def always_finite() -> None:
        for name, x in (("noise", image()), ("an empty image", image() * 0), ("bright noise", image() * 1e4)):
            expect(finite_maps(seeded()(x)), f"of {name} a map is not finite")

    def finite_in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            expect(finite_maps(seeded()(image())), "a map is not finite")

    def every_parameter_learns() -> None:
        encoder = seeded().train()
        torch.stack([(m * torch.randn_like(m)).sum() for m in encoder(image())]).sum().backward()
        asleep = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
        expect(not asleep, f"no gradient reaches {', '.join(asleep)}")
        broken = [n for n, p in encoder.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        expect(not broken, f"the gradient of {', '.join(broken)} is not finite")

    def repeatable() -> None:
        x, encoder = image(), seeded().eval()
        expect(same(encoder(x), encoder(x)), "the same image gave other maps the second time")

    def samples_apart() -> None:
        alone, other = image(), image(1)
        mixed = torch.cat([alone[:1], 100 * other[1:]])
        for encoder in (seeded().eval(), seeded().train()):
            found = []
            for x in (alone, mixed):
                torch.manual_seed(1)
                found.append(tuple(m[:1] for m in copy.deepcopy(encoder)(x)))
            when = "training" if encoder.training else "evaluation"
            expect(same(*found), f"in {when} mode the maps of a sample depend on the other samples of the batch")

    def apart() -> None:
        both = zip(seeded().parameters(), seeded().parameters(), strict=True)
        expect(all(a is not b for a, b in both), "two encoders share a parameter, so neither can be balanced")

    def seed_decides() -> None:
        a, b = seeded().state_dict(), seeded().state_dict()
        other = [name for name in a if not torch.equal(a[name], b[name])]
        expect(not other, f"with the same seed, {', '.join(other)} began with other values")

    def state_is_everything() -> None:
        encoder, other = seeded().train(), seeded(1)
        encoder(image())
        other.load_state_dict(encoder.state_dict())
        expect(same(encoder.eval()(image()), other.eval()(image())), "with the same state, another one gave other maps")

    def shapes_without_content() -> None:
        x = image()
        expected = [(m.shape, m.dtype) for m in seeded()(x)]
        found = [(m.shape, m.dtype) for m in seeded().to("meta")(x.to("meta"))]
        expect(found == expected, f"on the meta device its maps are {found}, expected {expected}")

    return {
        "maps have the declared channels and grids, finest first": maps_as_declared,
        "maps are finite": always_finite,
        "it computes under autocast to bfloat16": finite_in_bfloat16,
        "a gradient reaches every parameter": every_parameter_learns,
        "in evaluation mode it repeats itself": repeatable,
        "samples do not touch one another": samples_apart,
        "two encoders share nothing": apart,
        "the seed decides the initial weights": seed_decides,
        "the state dictionary is all its state": state_is_everything,
        "it has shapes on the meta device": shapes_without_content,
    }
