"""The other ways to convolve give the same numbers, and stay out of what they are not meant for."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cggm_med.models.cpu_convolution import FastConvolutions, NarrowConv3d
from cggm_med.models.segmentation import SegmentationModel

LAYERS = {
    "3x3x3": {"kernel_size": 3, "padding": 1},
    "1x1x1": {"kernel_size": 1},
    "strided 1x1x1": {"kernel_size": 1, "stride": 2},
    "anisotropic": {"kernel_size": (1, 3, 3), "stride": (1, 2, 2), "padding": (0, 1, 1)},
    "no bias": {"kernel_size": 1, "bias": False},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "groups": {"kernel_size": 3, "groups": 2},
    "padding by name": {"kernel_size": 3, "padding": "same"},
}


@pytest.mark.parametrize("arguments", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_the_same_numbers(arguments, batch):
    torch.manual_seed(0)
    layer, image = nn.Conv3d(4, 6, **arguments), torch.randn(batch, 4, 9, 8, 7)
    exact = layer.double()(image.double())
    with FastConvolutions():
        found = layer.float()(image)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
    assert found.is_contiguous()


@torch.no_grad()
def test_by_hand():
    """Two voxels, two channels in and one out, kernel (2, 3), bias 1: 2 * 1 + 3 * 10 + 1 and 2 * 4 + 3 * 20 + 1."""
    image = torch.tensor([[1.0, 4.0], [10.0, 20.0]]).view(1, 2, 2, 1, 1)
    with FastConvolutions():
        found = F.conv3d(image, torch.tensor([2.0, 3.0]).view(1, 2, 1, 1, 1), torch.ones(1))
    assert found.flatten().tolist() == [33, 69]


def test_it_is_used_and_only_without_gradients(monkeypatch):
    asked = []
    real = torch.mkldnn_convolution
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda *args: asked.append(args[1].shape) or real(*args))
    model = SegmentationModel(["flair", "t1"], regions=3, channels=(4, 8)).eval()
    inputs = {m: torch.randn(1, 1, 16, 16, 16) for m in model.modalities}
    with FastConvolutions():
        trained = model(inputs)
        assert asked == []
        with torch.no_grad():
            found = model(inputs)
    spatial = [layer for layer in model.modules() if isinstance(layer, nn.Conv3d) and layer.kernel_size != (1, 1, 1)]
    assert len(asked) == len(spatial)
    torch.testing.assert_close(found, trained.detach(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_leaves_other_number_formats_alone():
    layer, image = nn.Conv3d(2, 2, 1), torch.randn(1, 2, 4, 4, 4)
    with FastConvolutions(), torch.autocast("cpu", torch.bfloat16):
        assert layer(image).dtype == torch.bfloat16
    with FastConvolutions():
        assert layer.double()(image.double()).dtype == torch.float64


NARROW_LAYERS = {
    "3x3x3": {"kernel_size": 3, "padding": 1},
    "flat along x": {"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "stride": (1, 2, 2)},
    "flat along y": {"kernel_size": (3, 1, 5), "bias": False},
    "flat along z": {"kernel_size": (3, 3, 1), "padding": (1, 1, 0), "dilation": (2, 1, 1)},
    "strided over a flat axis": {"kernel_size": (3, 3, 1), "stride": 2},
}


def _trained(layer, image):
    """What a layer gives, and the gradients of its weights and its input."""
    image = image.clone().requires_grad_()
    found = layer(image)
    found.square().sum().backward()
    gradients = [image.grad, *(weight.grad for weight in layer.parameters())]
    layer.zero_grad()
    return [found.detach(), *gradients]


@pytest.mark.parametrize("arguments", NARROW_LAYERS.values(), ids=NARROW_LAYERS)
def test_narrow_layers_learn_the_same(arguments):
    torch.manual_seed(0)
    layer, image = nn.Conv3d(4, 6, **arguments), torch.randn(2, 4, 9, 8, 7)
    exact = _trained(layer.double(), image.double())
    NarrowConv3d.take_over(layer.float())
    assert type(layer) is NarrowConv3d
    for found, expected in zip(_trained(layer, image), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-5)
        assert found.is_contiguous()


def test_flat_kernels_are_those_of_images_in_training_alone(monkeypatch):
    asked = []
    real = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda image, *rest: asked.append(tuple(image.shape)) or real(image, *rest))
    layer, image = nn.Conv3d(2, 3, (3, 3, 1)), torch.randn(2, 2, 6, 5, 4)
    NarrowConv3d.take_over(layer)
    with torch.no_grad():
        expected = layer(image)
    assert asked == []
    torch.testing.assert_close(layer(image), expected)
    assert asked == [(8, 2, 6, 5)]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(1, 8, 3),
        nn.Conv3d(16, 16, 3),
        nn.Conv3d(8, 8, 1),
        nn.Conv3d(8, 8, 3, groups=2),
        nn.Conv3d(8, 8, 3, padding="same"),
        nn.Conv3d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(8, 8, (3, 3, 1), padding=1),
        nn.ConvTranspose3d(8, 8, 3),
    ],
)
def test_other_layers_stay_what_they_are(layer):
    kind = type(layer)
    NarrowConv3d.take_over(layer)
    assert type(layer) is kind
