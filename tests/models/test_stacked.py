from __future__ import annotations

import pytest
import torch

from cggm_med.errors import UnknownName
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.stacked import StackedModalities


def test_channels_are_the_named_modalities() -> None:
    torch.manual_seed(0)
    model = SegmentationModel(["flair", "t1", "t1ce"], regions=2, channels=(4, 8)).eval()
    image = torch.randn(1, 2, 8, 8, 8)
    expected = model({"flair": image[:, 1:2], "t1ce": image[:, :1]})
    assert torch.equal(StackedModalities(model, ["t1ce", "flair"])(image), expected)
    assert StackedModalities(model).modalities == ("flair", "t1", "t1ce")


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(UnknownName, match="adc"):
        StackedModalities(SegmentationModel(["flair", "t1"], regions=2, channels=(4, 8)), ["adc"])


def test_a_channel_of_nan_is_absent_bit_for_bit() -> None:
    torch.manual_seed(0)
    stacked = StackedModalities(SegmentationModel(["flair", "t1", "t1ce"], regions=2, channels=(4, 8))).eval()
    image = torch.randn(2, 3, 8, 8, 8)
    for lost in ([1], [0, 2]):
        given = image.clone()
        given[:, lost] = torch.nan
        held = [i for i in range(3) if i not in lost]
        expected = stacked.model({stacked.modalities[i]: image[:, i : i + 1] for i in held})
        assert torch.equal(stacked(given), expected)


def test_samples_may_lack_different_channels() -> None:
    torch.manual_seed(0)
    stacked = StackedModalities(SegmentationModel(["flair", "t1"], regions=2, channels=(4, 8))).eval()
    image = torch.randn(2, 2, 8, 8, 8)
    given = image.clone()
    given[0, 0, 3] = torch.nan  # NaN anywhere, as where a window reaches over the border
    given[1, 1] = torch.nan
    found = stacked(given)
    assert torch.equal(found[0], stacked.model({"t1": image[:, 1:]})[0])
    assert torch.equal(found[1], stacked.model({"flair": image[:, :1]})[1])
