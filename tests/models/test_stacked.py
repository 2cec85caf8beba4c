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
