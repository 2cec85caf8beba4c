"""The network of a plan has the plan's grids and widths, and nnU-Net's own network is the authority."""

import copy
from functools import partial

import pytest
import torch
from helpers.plans import PATCH, PLAIN, RESIDUAL, architecture, residual
from torch import nn

from cggm_med.errors import ConfigError, DataError, NonFiniteLoss
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.heads import VoxelwiseHead
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.nnunet.network import PlannedNetwork, channel_modalities, initialise, network_from_plan
from cggm_med.types import Features

MODALITIES = ("FLAIR", "T1")


@pytest.fixture
def network():
    return network_from_plan(PLAIN, architecture(), MODALITIES, 3)


def convolutions(module):
    return [(m.kernel_size, m.stride, m.out_channels) for m in module.modules() if isinstance(m, nn.Conv3d)]


def test_encoder_and_decoder_have_the_kernels_strides_and_widths_of_the_plan(network):
    k1, k3, s1, s2 = (1, 3, 3), (3, 3, 3), (1, 1, 1), (2, 2, 2)
    for modality in MODALITIES:
        assert convolutions(network.model.encoders[modality]) == [
            (k1, s1, 4), (k1, s1, 4), (k3, (1, 2, 2), 6), (k3, s1, 6),
            (k3, s2, 8), (k3, s1, 8), (k3, s2, 8), (k3, s1, 8),
        ]  # fmt: skip
    up = [m for m in network.model.decoder.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert [(m.kernel_size, m.stride, m.out_channels) for m in up] == [
        ((1, 2, 2),) * 2 + (4,),
        (s2, s2, 6),
        (s2, s2, 8),
    ]
    assert convolutions(network.model.decoder) == [(k1, s1, 4)] * 2 + [(k3, s1, 6)] * 2 + [(k3, s1, 8)] * 2


def test_nnunet_own_network_answers_on_the_same_grids(network):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    kinds = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    theirs = get_network_from_plans(PLAIN, architecture(), kinds, len(MODALITIES), 3, deep_supervision=True)
    image = torch.randn(1, 2, *PATCH)
    expected = [x.shape for x in theirs(image)]
    # nnU-Net computes a last output as well, and gives it no weight.
    assert [x.shape for x in network(image)] == expected[:-1]
    with torch.no_grad():
        for mine, encoder in zip(network.model.encoders["T1"](image[:, 1:]), theirs.encoder(image), strict=True):
            assert mine.shape == encoder.shape


def test_a_residual_plan_of_one_modality_is_the_network_of_nnunet():
    """With its weights and a fusion that passes maps on, it gives the same numbers."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    kinds = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    theirs = get_network_from_plans(RESIDUAL, residual(), kinds, 1, 3, deep_supervision=True)
    ours = network_from_plan(RESIDUAL, residual(), ["FLAIR"], 3).model
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.InstanceNorm3d):
                module.weight.uniform_(0.5, 1.5)  # else the residual blocks would add nothing
                module.bias.normal_()
            elif isinstance(module, nn.ConvTranspose3d):
                module.bias.zero_()  # ours has none
        ours.encoders["FLAIR"].scales.load_state_dict(theirs.encoder.state_dict())
        up = theirs.decoder
        for mine, transposed, stage in zip(reversed(ours.decoder.scales), up.transpconvs, up.stages, strict=True):
            mine.transp_conv.conv.weight.copy_(transposed.weight)
            mine.conv_block.conv.weight.copy_(stage.convs[0].conv.weight)  # a norm follows, so its bias has no effect
            mine.conv_block.adn.N.load_state_dict(stage.convs[0].norm.state_dict())
        for mine, output in zip((ours.head, *ours.deep_heads), reversed(up.seg_layers), strict=False):
            mine.conv.conv.load_state_dict(output.state_dict())
        for projection in ours.fusion.projections["FLAIR"]:
            nn.init.dirac_(projection.weight)
        image = torch.randn(1, 1, *PATCH)
        for mine, expected in zip(PlannedNetwork(ours)(image), theirs(image)[:-1], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_residual_blocks_add_nothing_at_first_as_in_nnunet():
    network = network_from_plan(RESIDUAL, residual(), MODALITIES, 3)
    last = [block.conv2.norm for block in network.modules() if type(block).__name__ == "BasicBlockD"]
    assert len(last) == 5 * len(MODALITIES)
    assert not any(norm.weight.any() or norm.bias.any() for norm in last)


def test_initial_weights_are_drawn_as_nnunet_draws_them(network):
    from dynamic_network_architectures.initialization.weight_init import InitWeights_He

    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            torch.manual_seed(1)
            initialise(module)
            ours = copy.deepcopy(module.state_dict())
            torch.manual_seed(1)
            InitWeights_He(1e-2)(module)
            torch.testing.assert_close(dict(module.state_dict()), dict(ours), rtol=0, atol=0)


def test_the_network_of_a_plan_has_such_weights(network):
    weight = network.model.encoders["T1"].scales[3].conv2.conv.weight  # 8 channels of 27 voxels: sd sqrt(2 / 216)
    assert weight.std().item() == pytest.approx(0.0962, rel=0.1)


def test_modalities_are_the_channels_in_their_order(network):
    network.eval()
    network.deep_supervision = False
    image = torch.randn(1, 2, *PATCH)
    expected = network.model({"T1": image[:, 1:], "FLAIR": image[:, :1]})
    torch.testing.assert_close(network(image), expected, rtol=0, atol=0)


def test_without_deep_supervision_the_weights_have_the_same_names(network):
    image = torch.randn(1, 2, *PATCH)
    first, *_ = network(image)
    other = network_from_plan(PLAIN, architecture(), MODALITIES, 3)
    other.deep_supervision = False
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(image), first, rtol=0, atol=0)


def test_the_defaults_are_the_isotropic_network_bit_for_bit():
    image = {"a": torch.randn(1, 1, 16, 16, 16)}
    kernels, strides = [[3, 3, 3]] * 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
    encoder = partial(UNetEncoder, kernels=kernels, strides=strides)
    steps = {"encoder": encoder, "decoder_kernels": kernels, "deep_scales": 1}
    found = []
    for settings in ({}, steps):
        torch.manual_seed(1)
        model = SegmentationModel(["a"], 2, (4, 6, 8), True, **settings)
        found.append((list(model.state_dict()), model(image)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_heads_follow_an_anisotropic_pyramid(network):
    maps = network.model.encoders["T1"](torch.randn(1, 1, *PATCH))
    assert VoxelwiseHead(network.model.channels, 3)(Features(maps)).logits.shape == (1, 3, 8, 16, 8)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (RESIDUAL, {}),
        (PLAIN, {"conv_op": "torch.nn.modules.conv.Conv2d"}),
        (PLAIN, {"n_conv_per_stage": [1, 2, 2, 2]}),
    ],
)
def test_another_network_is_refused_in_one_line(kind, changes):
    with pytest.raises(ConfigError, match="choose configuration 3d_fullres") as error:
        network_from_plan(kind, architecture(**changes), MODALITIES, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [{"0": "CT", "1": "CT"}, {"0": "T1.ce"}, {"0": "values"}, {}])
def test_names_that_cannot_be_modalities_are_refused(names):
    with pytest.raises(DataError, match="channel_names of dataset.json are"):
        channel_modalities({"channel_names": names})


def test_channels_count_as_numbers():
    names = {str(i): f"m{i}" for i in reversed(range(11))}
    assert channel_modalities({"modality": names}) == tuple(f"m{i}" for i in range(11))


def test_only_a_network_that_is_told_takes_nan_for_an_absent_channel(network):
    network = copy.deepcopy(network).eval()
    network.deep_supervision = False
    image = torch.randn(1, 2, *PATCH)
    image[:, 0] = torch.nan
    with pytest.raises(NonFiniteLoss, match="the prediction is NaN or infinite"):
        network(image)
    network.may_lack = True
    torch.testing.assert_close(network(image), network.model({"T1": image[:, 1:]}), rtol=0, atol=0)


def test_logits_that_are_not_finite_are_refused_when_predicting(network):
    network = copy.deepcopy(network).eval()
    network.deep_supervision = False
    next(network.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="the prediction is NaN or infinite"):
        network(torch.randn(1, 2, *PATCH))
