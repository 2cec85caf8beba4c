"""Scores of logits: in [0, 1], additive over batches, out of reach of gradients; hand values and NumPy references."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from cggm_med.objectives.balance_scores import (
    accuracy_sums,
    hard_dice_sums,
    mean_score,
    residual_sums,
    sign_accuracy_sums,
    soft_dice_sums,
    softmax_dice_sums,
    true_class_sums,
)
from cggm_med.objectives.targets import IGNORED, UNKNOWN


def random_pair(shape=(2, 3, 4, 4, 4)):
    return torch.randn(shape), (torch.rand(shape) > 0.5).float()


def random_label_maps():
    return torch.randn(2, 4, 4, 4, 4), torch.randint(4, (2, 1, 4, 4, 4))


def random_classes(samples=8, classes=5):
    return 3 * torch.randn(samples, classes), torch.randint(classes, (samples,))


def random_utterances(dialogues=4, classes=5):
    """Dialogues of 6, 2, 5 and 1 utterances."""
    target = torch.randint(classes, (dialogues, 6))
    behind = torch.arange(6) >= torch.tensor([6, 2, 5, 1])[:, None]
    return 3 * torch.randn(dialogues, classes, 6), target.masked_fill(behind, IGNORED)


def random_values(samples=8):
    return torch.randn(samples, 2), torch.randn(samples, 2)


KINDS = {
    "segmentation": (soft_dice_sums, random_pair),
    "label maps": (softmax_dice_sums, random_label_maps),
    "classification": (true_class_sums, random_classes),
    "utterances": (true_class_sums, random_utterances),
    "regression": (residual_sums(0.7), random_values),
    "masks": (hard_dice_sums, random_pair),
    "exclusive masks": (functools.partial(hard_dice_sums, exclusive=True), random_pair),
    "accuracy": (accuracy_sums, random_classes),
    "accuracy of utterances": (accuracy_sums, random_utterances),
    "accuracy of signs": (sign_accuracy_sums, random_values),
}
every_kind = pytest.mark.parametrize(("score_sums", "make"), KINDS.values(), ids=KINDS)


# Laws of all of them


@every_kind
def test_sums_add_up_over_any_split_of_the_batch(score_sums, make):
    logits, target = make()
    for size in (1, len(logits) // 2):
        parts = [score_sums(x, y) for x, y in zip(logits.split(size), target.split(size), strict=True)]
        torch.testing.assert_close(torch.stack(parts).sum(0), score_sums(logits, target))


@every_kind
def test_scores_lie_between_zero_and_one(score_sums, make):
    logits, target = make()
    for size in (0.0, 1.0, 1e4):
        score, usable = mean_score(score_sums(size * logits, target))
        assert usable
        assert 0 <= score <= 1


@every_kind
def test_scores_do_not_reach_the_gradient(score_sums, make):
    logits, target = make()
    assert not score_sums(logits.requires_grad_(), target).requires_grad


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_scored_in_float32(score_sums, make, dtype):
    logits, target = make()
    sums = score_sums(logits.to(dtype), target)
    assert sums.dtype == torch.float32
    assert torch.equal(sums, score_sums(logits.to(dtype).float(), target))


@every_kind
def test_logits_that_are_not_finite_make_the_step_unusable(score_sums, make):
    logits, target = make()
    logits[0, 0] = float("nan")
    assert not mean_score(score_sums(logits, target))[1]


# Segmentation


def test_soft_dice_sums_add_up_and_give_the_dice():
    logits, target = random_pair()
    whole = soft_dice_sums(logits, target)
    torch.testing.assert_close(soft_dice_sums(logits[:1], target[:1]) + soft_dice_sums(logits[1:], target[1:]), whole)
    assert torch.equal(whole[:, 2], target.sum((0, 2, 3, 4)))
    p = logits.sigmoid().transpose(0, 1).flatten(1)
    t = target.transpose(0, 1).flatten(1)
    torch.testing.assert_close(whole[:, 0] / whole[:, 1], 2 * (p * t).sum(1) / (p.sum(1) + t.sum(1)))


def test_soft_dice_by_hand():
    """Probability one half everywhere, four of eight voxels true: 2 * 2 / (4 + 4) = 1/2."""
    target = torch.zeros(1, 1, 2, 2, 2)
    target[0, 0, 0] = 1
    assert soft_dice_sums(torch.zeros(1, 1, 2, 2, 2), target).tolist() == [[4.0, 8.0, 4.0]]


def test_soft_dice_of_sure_predictions_is_the_dice_of_masks():
    prediction, target = (torch.rand(2, 2, 3, 4, 4, 4) > 0.6).float().unbind()
    sums = soft_dice_sums(200 * (2 * prediction - 1), target).double().numpy()
    a, b = prediction.numpy().astype(bool), target.numpy().astype(bool)
    for region in range(3):
        dice = 2 * (a & b)[:, region].sum() / (a[:, region].sum() + b[:, region].sum())
        assert sums[region, 0] / sums[region, 1] == pytest.approx(dice, rel=1e-5)


def test_logits_of_a_coarser_grid_are_compared_with_every_second_voxel():
    logits, target = torch.randn(2, 3, 2, 2, 2), random_pair()[1]
    p, truth = 1 / (1 + np.exp(-logits.double().numpy())), target.double().numpy()[:, :, ::2, ::2, ::2]
    axes = (0, 2, 3, 4)
    expected = [2 * (p * truth).sum(axes), p.sum(axes) + truth.sum(axes), truth.sum(axes)]
    np.testing.assert_allclose(soft_dice_sums(logits, target).numpy(), np.stack(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_dice_of_masks_is_that_of_sure_predictions(exclusive):
    """Authority: the soft Dice of logits that leave no doubt. Without a region above 0 a voxel is background."""
    logits, target = random_pair()
    if exclusive:
        best = (logits == logits.amax(1, keepdim=True)) & (logits > 0)
        target = target * (target.cumsum(1) == 1)
    else:
        best = logits > 0
    sure = 200 * (2 * best.float() - 1)
    expected = soft_dice_sums(sure, target, exclusive=exclusive)
    torch.testing.assert_close(hard_dice_sums(logits, target, exclusive=exclusive), expected)


def test_voxels_that_nobody_drew_are_in_no_mask():
    logits = torch.tensor([1.0, 1.0, -1.0]).view(1, 1, 3, 1, 1)
    target = torch.tensor([1.0, UNKNOWN, 1.0]).view(1, 1, 3, 1, 1)
    assert hard_dice_sums(logits, target).tolist() == [[2, 3, 2]]


# Classification


def test_accuracy_is_scikit_learns():
    logits, target = random_classes(samples=50)
    score, _ = mean_score(accuracy_sums(logits, target))
    assert score.item() == pytest.approx(accuracy_score(target, logits.argmax(1)))


def test_accuracy_of_utterances_by_hand():
    """Right, wrong, and after the dialogue's end."""
    logits = torch.tensor([[[2.0, 2.0, 2.0], [1.0, 1.0, 1.0]]])
    assert accuracy_sums(logits, torch.tensor([[0, 1, IGNORED]])).tolist() == [[1, 2, 2]]


def test_the_score_of_classes_is_the_mean_probability_of_the_true_one():
    logits, target = random_classes(samples=50)
    x = logits.double().numpy()
    probability = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = sum(probability[i, y] for i, y in enumerate(target.tolist()))
    assert true_class_sums(logits, target)[0].tolist() == pytest.approx([expected, 50, 50], rel=1e-5)
    score, _ = mean_score(true_class_sums(logits, target))
    # The authority: the likelihood that torch's own cross-entropy takes the logarithm of.
    entropy = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(score, torch.exp(-entropy).mean())


def test_class_scores_by_hand():
    """Odds of 3 to 1 for the true class of the first sample and against that of the second: 3/4 + 1/4."""
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    assert true_class_sums(logits, torch.tensor([0, 1]))[0].tolist() == pytest.approx([1, 2, 2])


def test_class_scores_of_utterances_by_hand():
    """As above, in one dialogue; what is predicted after its end does not count, be it NaN."""
    nan = float("nan")
    logits = torch.tensor([[[math.log(3), math.log(3), nan], [0.0, 0.0, nan]]])
    target = torch.tensor([[0, 1, IGNORED]])
    assert true_class_sums(logits, target)[0].tolist() == pytest.approx([1, 2, 2])
    assert not mean_score(true_class_sums(logits, torch.full_like(target, IGNORED)))[1]


def test_utterances_are_scored_as_the_samples_of_one_batch():
    logits, target = random_utterances()
    counts = target != IGNORED
    packed = true_class_sums(logits.transpose(1, 2)[counts], target[counts])
    torch.testing.assert_close(true_class_sums(logits, target), packed)
    assert packed[0, 1] == 6 + 2 + 5 + 1


@given(st.floats(-50, 50, width=32), st.integers(0, 3))
def test_only_differences_of_logits_count(shift, label):
    logits, target = torch.tensor([[0.3, -1.0, 2.0, 0.0]]), torch.tensor([label])
    torch.testing.assert_close(
        true_class_sums(logits + shift, target), true_class_sums(logits, target), rtol=1e-4, atol=1e-6
    )


# Regression


def test_a_sign_is_right_or_wrong_and_zero_is_not_above_zero():
    prediction, target = torch.tensor([[0.1], [-0.1], [2.0], [0.0]]), torch.tensor([[3.0], [0.0], [-1.0], [0.0]])
    assert sign_accuracy_sums(prediction, target).tolist() == [[3, 4, 4]]


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=6), st.floats(0.1, 10))
def test_residuals_against_their_formula(pairs, scale):
    expected = sum(math.exp(-abs(a - b) / scale) for a, b in pairs)
    prediction, target = torch.tensor(pairs).unbind(1)
    sums = residual_sums(scale)(prediction[:, None], target[:, None])
    assert sums.shape == (1, 3)
    assert sums[0].tolist() == pytest.approx([expected, len(pairs), len(pairs)], rel=1e-4, abs=1e-6)


def test_a_residual_of_one_scale_scores_one_over_e_on_either_side():
    sums = residual_sums(2.0)(torch.tensor([[3.0], [-1.0]]), torch.tensor([[1.0], [1.0]]))
    assert mean_score(sums)[0].item() == pytest.approx(1 / math.e)


def test_a_smaller_residual_scores_higher_since_the_scale_is_a_constant():
    target = torch.zeros(5, 1)
    scores = [mean_score(residual_sums(1.0)(torch.full((5, 1), size), target))[0] for size in (4.0, 2.0, 1.0, 0.0)]
    assert scores == sorted(scores)
    assert scores[-1] == 1


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_scale_is_named(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}, expected a finite residual above 0"):
        residual_sums(scale)


# Means


def test_regions_that_did_not_occur_are_left_out_of_the_mean():
    """Scores 2/4 and 1/10 of what occurred; the region between them did not, whatever was predicted there."""
    sums = torch.tensor([[2.0, 4.0, 3.0], [0.0, 7.0, 0.0], [1.0, 10.0, 5.0]])
    score, usable = mean_score(sums)
    assert score.item() == pytest.approx((0.5 + 0.1) / 2)
    assert usable
    score, _ = mean_score(torch.stack([sums, 2 * sums, sums.flip(0)]))
    assert score.tolist() == pytest.approx([0.3] * 3)


def test_where_nothing_occurred_there_is_no_score():
    logits = torch.randn(2, 3, 4, 4, 4)
    score, usable = mean_score(soft_dice_sums(logits, torch.zeros(2, 3, 4, 4, 4)))
    assert score == 0
    assert not usable


def test_one_modality_whose_score_is_not_finite_makes_the_step_unusable():
    sums = torch.tensor([[[1.0, 2.0, 1.0]], [[float("inf"), 2.0, 1.0]]])
    assert not mean_score(sums)[1]


def test_residuals_of_other_shapes_are_refused():
    """Broadcast, four values against four would be sixteen residuals."""
    with pytest.raises(ValueError, match=r"shape \(4, 1\) and targets \(4,\)"):
        residual_sums(1.0)(torch.zeros(4, 1), torch.zeros(4))


def test_softmax_of_two_classes_is_the_sigmoid_of_their_difference():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4, 4, 4), torch.randint(0, 2, (2, 1, 8, 8, 8))
    expected = soft_dice_sums(logits[:, 1:] - logits[:, :1], target)
    torch.testing.assert_close(softmax_dice_sums(logits, target), expected)


def test_a_class_without_a_logit_does_not_count():
    """Of four voxels the last two are ignored: they hold neither truth nor prediction."""
    logits = torch.tensor([[0.0, 0.0, 9.0, -9.0], [0.0, 50.0, 0.0, 9.0]]).view(1, 2, 4, 1, 1)
    target = torch.tensor([1, 1, 2, 2]).view(1, 1, 4, 1, 1)
    torch.testing.assert_close(softmax_dice_sums(logits, target), torch.tensor([[2 * 1.5, 1.5 + 2, 2]]))
