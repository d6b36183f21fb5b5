"""Linear heads on pooled features: imprinted from prototypes or fitted in seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from keras_apinet.errors import APINetError, distinct_names
from keras_apinet.model.apinet import APINet

Head = tuple[NDArray[np.float32], NDArray[np.float32]]
# Chosen on validation photos; see `benchmarks/new_classes.py`.
PULL = 1e-3
# Number of principal directions of the features to fit a head in.
RANK = 256


def imprint(head: Head, old: tuple[ArrayLike, ArrayLike], new: ArrayLike) -> Head:
    """The column `[D]` and bias `[1]` of a new class, from the mean of its features.

    Qi, Brown and Lowe (CVPR 2018) imprint normalized prototypes. This head is not
    normalized, so the new column points from the mean of the old features to that of
    the new ones and has the median length of the old columns. The bias gives the new
    photos the mean logit that old photos have for their own class.

    `head` has kernel `[D, C]` and bias `[C]`; `old` are features `[n, D]` and labels
    `[n]` of its classes, `new` are features `[m, D]` of the new class.
    """
    kernel, bias = head
    features, labels = np.asarray(old[0], np.float32), np.asarray(old[1])
    mean = np.asarray(new, np.float32).mean(axis=0)
    away = mean - features.mean(axis=0)
    column = away / max(float(np.linalg.norm(away)), 1e-12)
    column = column * np.median(np.linalg.norm(kernel, axis=0))
    own = np.einsum("nd,dn->n", features, kernel[:, labels]) + bias[labels]
    return column, np.array([own.mean() - mean @ column], np.float32)


def fit_head(
    features: ArrayLike,
    labels: ArrayLike,
    classes: int,
    *,
    start: Head | None = None,
    pull: float = PULL,
    iterations: int = 100,
) -> Head:
    """Fits a class-balanced softmax head to features, using SciPy's L-BFGS.

    Args:
        features: `[n, D]`.
        labels: `[n]` int, below `classes`.
        classes: Number of classes C.
        start: Initial head, which the fit is also regularized toward. Default: zero.
        pull: Regularization strength: factor of the squared distance from `start`, for
            features that are centered and have unit spread.
        iterations: Maximum number of L-BFGS iterations.
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    kernel, bias = start or (np.zeros((x.shape[1], classes)), np.zeros(classes))
    base = (x @ kernel + bias).astype(np.float32)
    mean = x.mean(axis=0)
    x = x - mean
    spread = max(float(np.sqrt((x**2).mean())), 1e-12)
    # In other directions the photos hardly differ, so `start` is kept.
    _, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, -RANK:] / spread
    x = np.hstack([x @ axes, np.ones((len(x), 1), np.float32)])
    counts = np.bincount(y, minlength=classes)
    weights = (1 / (counts[y] * np.count_nonzero(counts))).astype(np.float32)
    rows = np.arange(len(y))
    shape = (x.shape[1], classes)

    def cost(flat: NDArray[Any]) -> tuple[float, NDArray[np.float64]]:
        change = flat.reshape(shape).astype(np.float32)
        log_p = log_softmax(x @ change + base, axis=1)
        value = -float(weights @ log_p[rows, y])
        p = np.exp(log_p)
        p[rows, y] -= 1
        slope = x.T @ (p * weights[:, None]) + 2 * pull * change
        return value + pull * float(flat @ flat), slope.ravel().astype(np.float64)

    found = minimize(
        cost,
        np.zeros(shape).ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-6},
    ).x.reshape(shape)
    change = axes @ found[:-1]
    made = kernel + change, bias + found[-1] - mean @ change
    return made[0].astype(np.float32), made[1].astype(np.float32)


def head_for(
    head: Head,
    names: Sequence[str],
    wanted: Sequence[str],
    features: ArrayLike,
    labels: ArrayLike,
    *,
    merged: Mapping[str, Sequence[str]] | None = None,
    refit: bool = True,
) -> Head:
    """The head of the `wanted` classes on the same features; see `with_classes`.

    `head` is the kernel `[D, C]` and bias `[C]` of the C classes `names`.
    """
    if len(distinct_names(wanted)) < 2:
        raise APINetError(
            f"{len(wanted)} class would remain, but a classifier needs at least 2."
        )
    kernel, bias = head
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    merged, place = merged or {}, {name: i for i, name in enumerate(names)}
    parts = [[place[n] for n in merged.get(w, [w]) if n in place] for w in wanted]
    first = np.array([part[0] if part else -1 for part in parts])
    old = first[y] >= 0
    columns, biases = [], []
    for i, part in enumerate(parts):
        if part:
            columns.append(kernel[:, part].mean(axis=1))
            biases.append(bias[part].mean(keepdims=True))
            continue
        if not (y == i).any() or not old.any():
            raise APINetError(
                f"The class {wanted[i]!r} has no readable training photos; add some."
            )
        known = (x[old], first[y[old]])
        column, own = imprint(head, known, x[y == i])
        columns.append(column)
        biases.append(own)
    made: Head = (np.stack(columns, axis=1), np.concatenate(biases))
    return fit_head(x, y, len(wanted), start=made) if refit else made


def with_classes(
    model: APINet,
    class_names: Sequence[str],
    features: ArrayLike,
    labels: ArrayLike,
    *,
    merged: Mapping[str, Sequence[str]] | None = None,
    refit: bool = True,
) -> APINet:
    """Creates a model with other classes and a copy of the same backbone.

    Args:
        model: A trained model with class names.
        class_names: Classes of the new model. Known classes keep their weights, new
            ones are imprinted from their features, and all others are removed.
        features: `[n, D]` pooled features of photos of all classes, such as
            `model.feature_model().predict(images)`.
        labels: `[n]` int, indices into `class_names`.
        merged: Mapping from a new class to the known classes it merges.
        refit: Whether to then fit the head to the class-balanced features, which takes
            seconds. Defaults to True.

    Returns:
        The new model, not compiled.

    Raises:
        APINetError: For a model without class names, fewer than two classes, or a new
            class without features.

    Example:
    ```python
    names = [*model.class_names, "Conference"]
    larger = with_classes(model, names, features, labels)
    ```
    """
    if model.class_names is None:
        raise APINetError(
            "The model has no class names (class_names=None), so its classes cannot be "
            "changed by name; build it with class_names."
        )
    kernel, bias = head_for(
        tuple(model.classifier.get_weights()),
        model.class_names,
        class_names,
        features,
        labels,
        merged=merged,
        refit=refit,
    )
    config = {**model.get_config(), "num_classes": len(class_names)}
    made: APINet = type(model).from_config({**config, "class_names": [*class_names]})
    made.backbone.set_weights(model.backbone.get_weights())
    made.interaction.set_weights(model.interaction.get_weights())
    if made.scaling is not None and model.scaling is not None:
        made.scaling.set_weights(model.scaling.get_weights())
    made.classifier.set_weights([kernel, bias])
    return made
