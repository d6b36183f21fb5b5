"""Labels that are probably wrong, and features far from their class.

Confident learning (Northcutt et al., JAIR 2021) uses out-of-fold probabilities: a photo
is a candidate if its probability of another class is at least the mean probability of
that class over its own photos. Candidates are ranked by margin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from keras_apinet.evaluate.metrics import unit
from keras_apinet.open_world.heads import fit_head

FOLDS = 5
NEIGHBOURS = 5


def out_of_fold(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    classes: int | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Class probabilities `[n, C]` of each photo, by a head fitted without its group.

    Photos with equal `groups` `[n]` are held out together; by default, each photo is
    its own group. Classes that are absent from the other folds get probability 0.
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    count = int(y.max()) + 1 if classes is None else classes
    fold = _folds(y, np.arange(len(y)) if groups is None else groups, folds, seed)
    found = np.zeros((len(y), count), np.float32)
    for k in range(folds):
        rest, held = fold != k, fold == k
        if not held.any() or not rest.any():
            continue
        kernel, bias = fit_head(x[rest], y[rest], count, iterations=60)
        logits = x[held] @ kernel + bias
        logits[:, np.bincount(y[rest], minlength=count) == 0] = -np.inf
        found[held] = softmax(logits, axis=1)
    return found


def _folds(
    labels: NDArray[np.int64], groups: ArrayLike, folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each photo: groups stay together, classes are spread evenly."""
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    fold = np.zeros(len(labels), np.int64)
    sizes = np.zeros((folds, int(labels.max()) + 1), np.int64)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    for i in rng.permutation(len(members)):
        inside = members[i]
        counts = np.bincount(labels[inside], minlength=sizes.shape[1])
        most = int(counts.argmax())
        part = np.lexsort((sizes.sum(axis=1), sizes[:, most]))[0]
        fold[inside] = part
        sizes[part] += counts
    return fold


@dataclass(frozen=True, eq=False)
class Doubts:
    """Results of confident learning.

    Attributes:
        order: `[n]`, all photos, most doubtful label first.
        candidates: How many of the first photos are probably mislabeled.
        suggested: `[n]`, the most probable other class of each photo.
        margin: `[n]`, its probability minus that of the given label.
    """

    order: NDArray[np.int64]
    candidates: int
    suggested: NDArray[np.int64]
    margin: NDArray[np.float32]


def doubtful_labels(probabilities: ArrayLike, labels: ArrayLike) -> Doubts:
    """Ranks labels by doubt, from out-of-fold probabilities `[n, C]`."""
    p, y = np.asarray(probabilities, np.float32), np.asarray(labels)
    rows = np.arange(len(y))
    counts = np.bincount(y, minlength=p.shape[1])
    own = np.bincount(y, weights=p[rows, y], minlength=p.shape[1])
    usual = np.where(counts > 0, own / np.maximum(counts, 1), np.inf)
    others = p.copy()
    others[rows, y] = -1
    suggested = others.argmax(axis=1)
    margin = others[rows, suggested] - p[rows, y]
    wrong = (p[rows, suggested] >= usual[suggested]) & (margin > 0)
    order = np.lexsort((-margin, ~wrong))
    return Doubts(order, int(wrong.sum()), suggested, margin)


def outliers(features: ArrayLike, labels: ArrayLike) -> NDArray[np.float32]:
    """Distance of each photo from its class, relative to the class's median.

    The distance is the cosine distance to the fifth-nearest photo of the class (a
    nearer one in small classes), divided by its median over the class.

    Returns:
        `[n]`; 1 is typical, and always 1 in classes of fewer than four photos.
    """
    x, y = unit(np.asarray(features, np.float32)), np.asarray(labels)
    found = np.ones(len(y), np.float32)
    for label in np.unique(y):
        inside = np.flatnonzero(y == label)
        if len(inside) < 4:
            continue
        away = np.sort(1 - x[inside] @ x[inside].T, axis=1)
        # Column 0 is the photo itself.
        kth = away[:, min(NEIGHBOURS, len(inside) - 2)]
        found[inside] = kth / max(float(np.median(kth)), 1e-6)
    return found
