"""The laws of the convolutional encoders: the original ResNet-18, means over frames, places kept apart."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cggm_med.models.resnet import ConvEncoder, ResNetEncoder


def batch_norm(x, layer):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def by_the_paper(net, x):
    """ResNet-18 as He et al. write it, in functions, with the weights of ``net``."""
    x = F.relu(batch_norm(F.conv2d(x, net.conv1.weight, stride=2, padding=3), net.bn1))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for number, stage in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
        for place, block in enumerate(stage):
            stride = 2 if number and not place else 1
            y = F.relu(batch_norm(F.conv2d(x, block.conv1.weight, stride=stride, padding=1), block.bn1))
            y = batch_norm(F.conv2d(y, block.conv2.weight, padding=1), block.bn2)
            if stride == 2:
                x = batch_norm(F.conv2d(x, block.downsample[0].weight, stride=2), block.downsample[1])
            x = F.relu(x + y)
    return x.mean(dim=(2, 3))


def small(channels=3):
    return ResNetEncoder(channels, width=32, blocks=(1, 1, 1, 1))


@pytest.mark.parametrize(("channels", "parameters"), [(3, 11_176_512), (1, 11_170_240)])
def test_the_number_of_parameters_is_that_of_resnet_18(channels, parameters):
    """11,689,512 as published, less the last layer's 513,000; a channel of the stem has 7 * 7 * 64 = 3,136."""
    assert sum(p.numel() for p in ResNetEncoder(channels).parameters()) == parameters


@pytest.mark.parametrize("blocks", [(2, 2, 2, 2), (1, 1, 1, 1)])
def test_it_computes_what_the_paper_says(blocks):
    encoder = ResNetEncoder(3, width=64, blocks=blocks)
    x = torch.randn(2, 3, 70, 61)
    with torch.no_grad():
        encoder(x)  # moves the running statistics away from where they start
        encoder.eval()
        torch.testing.assert_close(encoder(x), by_the_paper(encoder.net, x))


def test_weights_are_drawn_by_fan_out():
    """Standard deviation sqrt(2 / (3 * 3 * 512)) in the last convolution, known to 0.1 % from 2.4 million weights."""
    weight = ResNetEncoder(3).net.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)


def test_frames_are_averaged_and_their_order_does_not_matter():
    encoder = small().eval()
    x = torch.randn(2, 5, 3, 32, 40)
    with torch.no_grad():
        vectors = encoder(x)
        torch.testing.assert_close(vectors, torch.stack([encoder(x[:, i]) for i in range(5)]).mean(0))
        torch.testing.assert_close(encoder(x.flip(1)), vectors)
        torch.testing.assert_close(encoder(x[:, :1]), encoder(x[:, 0]))
    assert vectors.shape == (2, encoder.width)


def test_spectrograms_of_any_size_pass():
    for shape in ((257, 188), (129, 63), (33, 300)):
        assert small(1)(torch.randn(2, 1, *shape)).shape == (2, 32)


@pytest.mark.parametrize("width", [0, 4, 100])
def test_a_width_that_cannot_be_halved_three_times_is_an_error(width):
    with pytest.raises(ValueError, match=f"width is {width}; expected a multiple of 8"):
        ResNetEncoder(3, width=width)


def test_every_weight_of_either_encoder_learns():
    for encoder in (small(1), ConvEncoder(1, (8, 16), grid=(2, 2))):
        (encoder(torch.randn(3, 1, 32, 32)) ** 2).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_cells_of_the_coarse_grid_are_means_of_the_last_convolution():
    """Two strides bring 16 x 8 to 4 x 2, of which each cell of a 2 x 2 grid has two rows and one column."""
    encoder = ConvEncoder(1, (4, 6), grid=(2, 2)).eval()
    x = torch.randn(3, 1, 16, 8)
    with torch.no_grad():
        maps = nn.Sequential(*list(encoder.layers)[:-2])(x)
        assert maps.shape == (3, 6, 4, 2)
        cells = torch.stack([maps[:, :, :2].mean(2), maps[:, :, 2:].mean(2)], dim=2)
        torch.testing.assert_close(encoder(x), cells.reshape(3, 24))
    assert encoder.width == 24


def test_one_cell_forgets_where_something_is_and_a_grid_does_not():
    """A spot in the upper or the lower half, moved by as many places as all strides: equal maps, moved."""
    upper, lower = torch.zeros(1, 1, 64, 16), torch.zeros(1, 1, 64, 16)
    upper[..., 16, 8] = lower[..., 48, 8] = 1
    whole = ConvEncoder(1, (4, 4)).eval()
    halves = ConvEncoder(1, (4, 4), grid=(2, 1)).eval()
    halves.load_state_dict(copy.deepcopy(whole.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(whole(upper), whole(lower))
        assert not torch.allclose(halves(upper), halves(lower))
        torch.testing.assert_close(halves(upper).view(4, 2).mean(1), whole(upper)[0])


def test_digits_and_spectrograms_give_the_width_that_is_said():
    for shape, grid in (((8, 8), (1, 1)), ((8, 8), (2, 2)), ((129, 63), (4, 4))):
        encoder = ConvEncoder(1, (8, 16), grid)
        assert encoder(torch.randn(4, 1, *shape)).shape == (4, encoder.width)
