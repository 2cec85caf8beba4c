"""The laws of encoders hold for the built-in one, and each of them fails for an encoder that breaks it."""

import itertools

import pytest
import torch
from torch import nn

from cggm_med import Encoder, registry
from cggm_med.models.encoders import UNetEncoder
from cggm_med.testing import check_encoder

COUNT = itertools.count()


@pytest.mark.parametrize("name", registry.names(registry.ENCODERS))
def test_the_laws_hold(name):
    check_encoder(name)


def test_the_laws_hold_for_other_strides():
    class Flat(UNetEncoder):
        def __init__(self, channels):
            super().__init__(channels, strides=[1, (2, 2, 1), (2, 2, 2)])

    assert Flat((4, 6, 8)).reduction == (4, 4, 2)
    check_encoder(Flat)


def test_the_finest_map_has_the_grid_of_the_image():
    with pytest.raises(ValueError, match=r"strides are \[2, 2\], expected one for each of 2 scales, the first 1"):
        UNetEncoder((4, 8), strides=[2, 2])
    with pytest.raises(ValueError, match=r"strides are \[1, 2\], expected one for each of 3 scales"):
        UNetEncoder((4, 8, 8), strides=[1, 2])


class Small(Encoder):
    """Keeps all laws; those below break one each."""

    def __init__(self, channels):
        super().__init__(channels)
        before = [1, *channels[:-1]]
        self.scales = nn.ModuleList(
            nn.Conv3d(c_in, c_out, 3, stride, padding=1)
            for c_in, c_out, stride in zip(before, channels, self.strides, strict=True)
        )

    def forward(self, image):
        maps = []
        for scale in self.scales:
            image = scale(image)
            maps.append(image)
        return tuple(maps)


class CoarsestFirst(Small):
    def forward(self, image):
        return super().forward(image)[::-1]


class AListOfMaps(Small):
    def forward(self, image):
        return list(super().forward(image))


class MoreChannels(Small):
    def __init__(self, channels):
        super().__init__([2 * c for c in channels])
        self.channels = tuple(channels)


class Transposed(Small):
    def forward(self, image):
        return super().forward(image.mT)


class DividesByTheSpread(Small):
    def forward(self, image):
        return super().forward(image / image.std())


class OnlyFloat32(Small):
    def forward(self, image):
        return tuple(x / (x.dtype == torch.float32) for x in super().forward(image))


class Idle(Small):
    def __init__(self, channels):
        super().__init__(channels)
        self.idle = nn.Conv3d(1, 1, 1)


class Infinite(Small):
    def forward(self, image):
        return tuple(x + 0 * (x * 0).sqrt() for x in super().forward(image))


class AlwaysDropping(Small):
    def forward(self, image):
        return super().forward(nn.functional.dropout(image))


class BatchNorm(Small):
    def __init__(self, channels):
        super().__init__(channels)
        self.norm = nn.BatchNorm3d(1)

    def forward(self, image):
        return super().forward(self.norm(image))


class MeanOverTheBatch(Small):
    def forward(self, image):
        return super().forward(image - image.mean(0))


class OneForAll(Small):
    layers = nn.Conv3d(1, 1, 1)

    def __init__(self, channels):
        super().__init__(channels)
        self.common = self.layers

    def forward(self, image):
        return super().forward(self.common(image))


class Unseeded(Small):
    def __init__(self, channels):
        super().__init__(channels)
        nn.init.constant_(self.scales[0].bias, next(COUNT))


class HiddenState(Small):
    def __init__(self, channels):
        super().__init__(channels)
        self.shift = float(torch.rand(()))

    def forward(self, image):
        return super().forward(image + self.shift)


class LooksAtTheImage(Small):
    def forward(self, image):
        return () if image.isnan().any() else super().forward(image)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (CoarsestFirst, r"'maps have the declared channels and grids, finest first': of an image \(2, 1, 8, 12, 16\)"),
        (AListOfMaps, "expected a tuple of maps, not a list"),
        (MoreChannels, r"expected maps \[\(2, 4, 8, 12, 16\), .* found \[\(2, 8, 8, 12, 16\)"),
        (Transposed, r"found \[\(2, 4, 8, 16, 12\)"),
        (DividesByTheSpread, "'maps are finite': of an empty image"),
        (OnlyFloat32, "'it computes under autocast to bfloat16': a map is not finite"),
        (Idle, r"'a gradient reaches every parameter': no gradient reaches idle\.weight, idle\.bias"),
        (Infinite, r"the gradient of scales\.0\.weight, .* is not finite"),
        (AlwaysDropping, "'in evaluation mode it repeats itself'"),
        (BatchNorm, "'samples do not touch one another': in training mode"),
        (MeanOverTheBatch, "'samples do not touch one another': in evaluation mode"),
        (OneForAll, "'two encoders share nothing': two encoders share a parameter"),
        (Unseeded, r"'the seed decides the initial weights': with the same seed, scales\.0\.bias"),
        (HiddenState, "'the state dictionary is all its state'"),
        (LooksAtTheImage, "'it has shapes on the meta device': "),
    ],
)
def test_each_law_can_fail(encoder, message):
    with pytest.raises(AssertionError, match=f"encoder {encoder.__name__} breaks the law .*{message}"):
        check_encoder(encoder)


def test_what_keeps_all_laws_passes():
    check_encoder(Small)
