"""Linear read-outs that predict classes or values from frozen feature vectors.

After Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016,
https://arxiv.org/abs/1610.01644: what a linear function of the features can predict, the encoder has made accessible.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cggm_med.types import Features

# Strongest regularisation first, so that it wins where several are equally good.
CLASSIFIER_GRID = {"readout__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]}
RIDGE_GRID = {"readout__alpha": [1e5, 1e4, 1e3, 1e2, 10.0, 1.0, 0.1]}
FOLDS = 5
MAX_ITERATIONS = 1000

Floats = NDArray[np.float64]
Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True)
class Rows:
    """Frozen features of one modality, and the true labels.

    Attributes:
        x: ``(row, channel)``.
        y: ``(row,)`` class numbers or values.
        groups: ``(row,)`` numbers of the groups that no fold may divide, such as speakers.
    """

    x: Floats
    y: NDArray[Any]
    groups: NDArray[np.int64]


def pooled(features: Features, each: Tensor | None) -> Floats:
    """A vector for each sample, or for each position of a sequence.

    Args:
        features: of one modality. A vector is taken as it is, a sequence is averaged over its valid time, volumes and
            images over their grid.
        each: ``(batch, time)`` booleans: positions to take one by one, instead of their mean.

    Returns:
        ``(row, channel)``.

    Example:
        >>> x, valid = torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[True, True, False]])
        >>> pooled(Features((x,), valid=valid), None), pooled(Features((x,), valid=valid), valid)
        (array([[2.]]), array([[1.],
               [3.]]))
    """
    x = features.maps[-1].detach().double().cpu()
    if each is not None:
        return x.movedim(1, -1)[each.cpu()].numpy()
    if x.ndim == 3 and features.valid is not None:
        valid = features.valid.cpu()[:, None]
        x = torch.where(valid, x, 0).sum(2) / valid.sum(2).clamp_min(1)
    return x.flatten(2).mean(2).numpy() if x.ndim > 2 else x.numpy()


def fit_readout(train: Rows, validation: Rows | None, *, classes: bool) -> tuple[Pipeline, float | None]:
    """A linear classifier or a ridge regression on standardised features, fitted to ``train`` alone.

    The amount of regularisation is the one with the best accuracy or mean absolute error on ``validation`` or, without
    it, over folds of the training rows that divide no group; with a single group it is 1.

    Args:
        train: rows to fit to; at least two classes must occur.
        validation: rows that choose the amount of regularisation.
        classes: logistic regression of classes instead of ridge regression of values.

    Returns:
        The read-out, and the chosen regularisation, ``C`` or ``alpha``; None if there was nothing to choose by.
    """
    estimator = LogisticRegression(max_iter=MAX_ITERATIONS) if classes else Ridge()
    readout = Pipeline([("scale", StandardScaler()), ("readout", estimator)])
    parts = [train] if validation is None else [train, validation]
    x, y = np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts])
    folds = _folds(train, validation)
    if classes:
        folds = [fold for fold in folds if len(np.unique(y[fold[0]])) > 1]
    chosen = None
    with warnings.catch_warnings():
        # Separable classes have no finite optimum without regularisation; where the solver stops is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if folds:
            grid = CLASSIFIER_GRID if classes else RIDGE_GRID
            scoring = "accuracy" if classes else "neg_mean_absolute_error"
            search = GridSearchCV(readout, grid, scoring=scoring, cv=folds, refit=False).fit(x, y)
            readout.set_params(**search.best_params_)
            (chosen,) = search.best_params_.values()
        readout.fit(train.x, train.y)
    return readout, chosen


def class_probabilities(readout: Pipeline, x: Floats, classes: int) -> Floats:
    """Probabilities ``(row, class)``; 0 for classes that the read-out has not seen."""
    probabilities = np.zeros((len(x), classes))
    probabilities[:, readout.classes_] = readout.predict_proba(x)
    return probabilities


def _folds(train: Rows, validation: Rows | None) -> Folds:
    """Numbers of the rows to fit to and to choose by, counted through the training and then the validation rows."""
    n = len(train.y)
    if validation is not None:
        return [(np.arange(n), np.arange(n, n + len(validation.y)))]
    count = min(FOLDS, len(np.unique(train.groups)))
    return list(GroupKFold(count).split(train.x, train.y, train.groups)) if count > 1 else []
