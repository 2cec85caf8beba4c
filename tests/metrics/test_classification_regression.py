"""Scores of classes and values: by hand, against their definitions written out, and against another library."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import classification_report

from cggm_med.metrics.classification_regression import (
    CLASS_METRICS,
    FUSED,
    VALUE_METRICS,
    Predicted,
    accuracy,
    class_table,
    correlation,
    label_scores,
    mean_absolute_difference,
    mean_average_precision,
    unweighted_average_recall,
    weighted_f1,
)
from cggm_med.torchvision_repair import repair_torchvision

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def classes(pairs):
    return Predicted(*map(np.array, zip(*pairs, strict=True)))


def drawn(seed, samples=60, count=5):
    """Predictions that are right more often than chance, of which class 4 does not occur."""
    random = np.random.default_rng(seed)
    true = random.integers(0, count - 1, samples)
    logits = random.normal(size=(samples, count)) + 1.5 * np.eye(count)[true]
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Predicted(true, probability.argmax(1), probability)


def counts(pairs, c):
    """True positives, true and predicted samples of a class."""
    return (
        sum(t == p == c for t, p in pairs),
        sum(t == c for t, _ in pairs),
        sum(p == c for _, p in pairs),
    )


@given(labels)
def test_scores_of_classes_are_their_definitions(pairs):
    """Independent authority: counting."""
    predicted = classes(pairs)
    assert accuracy(predicted) == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    f1 = recall = 0.0
    occurring = {t for t, _ in pairs}
    for c in occurring:
        hits, true, said = counts(pairs, c)
        f1 += 2 * hits / (true + said) * true / len(pairs)
        recall += hits / true / len(occurring)
    assert weighted_f1(predicted) == pytest.approx(f1)
    assert unweighted_average_recall(predicted) == pytest.approx(recall)


@given(labels, st.randoms())
def test_neither_the_order_of_samples_nor_the_numbers_of_classes_matter(pairs, random):
    other, numbers = list(pairs), list(range(4))
    random.shuffle(other)
    random.shuffle(numbers)
    renamed = [(numbers[t], numbers[p]) for t, p in other]
    for measure in (accuracy, weighted_f1, unweighted_average_recall):
        assert measure(classes(renamed)) == pytest.approx(measure(classes(pairs)))


def test_numbers_by_hand():
    """Four of class 0, one of class 1, none of class 2, which is said once."""
    predicted = classes([(0, 0), (0, 0), (0, 1), (0, 2), (1, 1)])
    assert accuracy(predicted) == pytest.approx(3 / 5)
    assert weighted_f1(predicted) == pytest.approx(4 / 5 * (2 / 3) + 1 / 5 * (2 / 3))
    assert unweighted_average_recall(predicted) == pytest.approx((1 / 2 + 1) / 2)


def test_a_constant_answer_has_the_recall_of_chance():
    predicted = classes([(0, 0)] * 90 + [(1, 0)] * 10)
    assert accuracy(predicted) == pytest.approx(0.9)
    assert unweighted_average_recall(predicted) == pytest.approx(0.5)
    assert weighted_f1(predicted) == pytest.approx(0.9 * 2 * 0.9 / 1.9)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_classes_agree_with_torchmetrics(seed):
    repair_torchvision()  # which torchmetrics imports where it is installed
    functional = pytest.importorskip("torchmetrics.functional.classification")
    predicted = drawn(seed)
    true, guess = torch.tensor(predicted.true), torch.tensor(predicted.predicted)
    shared = {"num_classes": 5}
    theirs = {
        "accuracy": functional.multiclass_accuracy(guess, true, average="micro", **shared),
        "weighted F1": functional.multiclass_f1_score(guess, true, average="weighted", **shared),
    }
    for name, value in theirs.items():
        assert CLASS_METRICS[name](predicted) == pytest.approx(value.item(), abs=1e-6), name
    recall = functional.multiclass_recall(guess, true, average=None, **shared)[:4]
    assert unweighted_average_recall(predicted) == pytest.approx(recall.mean().item(), abs=1e-6)
    probability = torch.tensor(predicted.probability)
    precision = functional.multiclass_average_precision(probability, true, average=None, **shared)[:4]
    assert mean_average_precision(predicted) == pytest.approx(precision.mean().item(), abs=1e-6)


def average_precision(relevant, score):
    """Mean over the relevant samples of the precision among all that score at least as high."""
    return np.mean([relevant[score >= score[i]].mean() for i in np.flatnonzero(relevant)])


@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 4)] * 3), min_size=1, max_size=25))
def test_average_precision_is_its_definition_also_with_ties(rows):
    table = np.array(rows)
    true, score = table[:, 0], table[:, 1:] / 4
    expected = np.mean([average_precision(true == c, score[:, c]) for c in np.unique(true)])
    assert mean_average_precision(Predicted(true, true, score)) == pytest.approx(expected)


def test_average_precision_by_hand():
    """Ranked: right, wrong, right; the precisions at the right ones are 1 and 2/3. The other class: 1/2."""
    score = np.array([0.9, 0.8, 0.7])
    predicted = Predicted(np.array([1, 0, 1]), np.array([1, 1, 1]), np.stack([1 - score, score], axis=1))
    assert mean_average_precision(predicted) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


values = st.lists(st.tuples(st.floats(-3, 3, width=16), st.floats(-3, 3, width=16)), min_size=2, max_size=30).filter(
    lambda rows: all(len(set(column)) > 1 for column in zip(*rows, strict=True))
)


@given(values)
def test_scores_of_values_agree_with_scipy_and_the_sum(rows):
    predicted = classes(rows)
    assert mean_absolute_difference(predicted) == pytest.approx(math.fsum(abs(t - p) for t, p in rows) / len(rows))
    assert correlation(predicted) == pytest.approx(stats.pearsonr(*zip(*rows, strict=True)).statistic, abs=1e-9)


@given(values, st.floats(0.1, 5), st.floats(-5, 5))
def test_correlation_knows_neither_scale_nor_shift(rows, scale, shift):
    predicted = classes(rows)
    moved = Predicted(predicted.true, predicted.predicted * scale + shift)
    turned = Predicted(predicted.true, -predicted.predicted)
    assert correlation(moved) == pytest.approx(correlation(predicted), abs=1e-6)
    assert correlation(turned) == pytest.approx(-correlation(predicted), abs=1e-9)


@pytest.mark.parametrize(
    ("true", "guess"), [([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0]), ([0.5, 0.5], [1.0, 2.0]), ([1, 2, 4], [0.1] * 3)]
)
def test_correlation_is_undefined_where_one_side_is_constant(true, guess):
    assert correlation(Predicted(np.array(true), np.array(guess))) is None


def test_every_metric_has_its_rule_and_stands_one_sample():
    for name, metric in (CLASS_METRICS | VALUE_METRICS).items():
        assert metric.name == name
        assert metric.rule
    one = Predicted(np.array([1]), np.array([0]), np.array([[0.6, 0.4]]))
    assert {name: metric(one) for name, metric in CLASS_METRICS.items()} == {
        "accuracy": 0,
        "weighted F1": 0,
        "UAR": 0,
        "mAP": 1,  # alone, the sample is its class's first
    }
    assert {name: metric(one) for name, metric in VALUE_METRICS.items()} == {"MAE": 1, "Corr": None}


def test_the_table_of_classes_agrees_with_scikit_learns_report():
    predicted = drawn(0)
    names = [f"class {c}" for c in range(5)]
    table = class_table(predicted, names)
    theirs = classification_report(
        predicted.true, predicted.predicted, labels=range(5), target_names=names, output_dict=True, zero_division=0
    )
    said = {*predicted.true.tolist(), *predicted.predicted.tolist()}
    assert [row[0] for row in table.rows] == [names[c] for c in sorted(said)]
    for name, *scores, count in table.rows:
        expected = [theirs[name][key] for key in ("precision", "recall", "f1-score")]
        assert scores == [f"{value:.3f}" for value in expected]
        assert int(count) == theirs[name]["support"]
    assert not table.detail
    assert class_table(predicted, [str(c) for c in range(21)]).detail


def test_the_report_holds_everything_that_was_said():
    fused = Predicted(np.array([1.0, 2.0]), np.array([1.5, 2.0]))
    head = Predicted(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    cases = [{"case": "a", "true": 1.0, "predicted": 1.5}, {"case": "b", "true": 2.0, "predicted": 2.0}]
    heads = [{"case": "a", "modality": "text", "true": 1.0, "predicted": 3.0}]
    scores = label_scores({FUSED: fused, "text": head}, VALUE_METRICS, cases=cases, heads=heads)
    assert scores.headline == {"MAE": 0.25, "Corr": pytest.approx(1)}
    assert scores.summary == (
        {"predicted_by": "fused", "MAE": 0.25, "Corr": pytest.approx(1), "samples": 2},
        {"predicted_by": "text", "MAE": 1.5, "Corr": None, "samples": 2},
    )
    first, last = scores.tables
    assert first.header == ("by", "MAE", "Corr", "n")
    assert first.rows == (("fused", "0.250", "1.000", "2"), ("text", "1.500", "-", "2"))
    assert (last.title, last.detail) == ("cases", True)
    assert last.rows == (("a", "1.000", "1.500"), ("b", "2.000", "2.000"))
    assert (list(scores.cases), list(scores.heads)) == (cases, heads)
    json.dumps([scores.headline, scores.summary], allow_nan=False)
