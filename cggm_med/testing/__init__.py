"""Laws that a plug-in must keep, callable from its own tests."""

from cggm_med.testing.encoders import check_encoder
from cggm_med.testing.fusions import check_fusion
from cggm_med.testing.metrics import check_metric
from cggm_med.testing.strategies import check_strategy
from cggm_med.testing.tasks import check_task

__all__ = ["check_encoder", "check_fusion", "check_metric", "check_strategy", "check_task"]
