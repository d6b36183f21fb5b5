"""Linear heads on pooled features: imprinted from prototypes, and fitted in seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from keras_apinet.errors import APINetError, distinct_names
from keras_apinet.model.apinet import APINet

Head = tuple[NDArray[np.float32], NDArray[np.float32]]
# Chosen on validation photos, see `benchmarks/new_classes.py`.
PULL = 1e-3
# Directions of the features along which a head is fitted.
RANK = 256


def imprint(head: Head, old: tuple[ArrayLike, ArrayLike], new: ArrayLike) -> Head:
    """The column `[D]` and bias `[1]` of one more class, from the mean of its features.

    Qi, Brown and Lowe (CVPR 2018) imprint normalised prototypes. This head is not
    normalised, so the new column points from the mean of the old features to that of
    the new ones, is as long as the old columns are (their median), and its bias gives
    the new photos the logit that old photos have for their own class.

    The head has kernel `[D, C]` and bias `[C]`; `old` are features `[n, D]` and labels
    `[n]` of its classes, `new` features `[m, D]` of the new one.
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
    """A softmax head on features, all classes in balance, by SciPy's L-BFGS.

    Args:
        features: `[n, D]`.
        labels: `[n]` int, below `classes`.
        classes: Number of classes C.
        start: The head that it begins at and is pulled to. Default: zero.
        pull: How strongly: the factor of the squared distance, on features that are
            centred and of unit spread.
        iterations: Of L-BFGS, at most.
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    kernel, bias = start or (np.zeros((x.shape[1], classes)), np.zeros(classes))
    base = (x @ kernel + bias).astype(np.float32)
    mean = x.mean(axis=0)
    x = x - mean
    spread = max(float(np.sqrt((x**2).mean())), 1e-12)
    # Along the other directions the photos hardly differ: the start stays there.
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
            f"{len(wanted)} class would be left; telling classes apart needs at least "
            "2."
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
                f"The class {wanted[i]!r} has no readable photo to learn from; give "
                "some."
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
    """A model of other classes on the same backbone, which it shares weights of none.

    Args:
        model: A trained model that knows its class names.
        class_names: The new model's classes. Known ones keep their weights, others
            are imprinted from their features, and those left out are gone.
        features: `[n, D]` pooled features of photos of all of them, such as
            `model.feature_model().predict(images)`.
        labels: `[n]` int, positions in `class_names`.
        merged: New class -> the known classes that it is made of.
        refit: Whether the head is then fitted to all features, in balance, which takes
            seconds. Default True.

    Returns:
        The new model, compiled with nothing.

    Raises:
        APINetError: For a model without names, fewer than two classes, or a new class
            without features.

    Example:
    ```python
    names = [*model.class_names, "Conference"]
    larger = with_classes(model, names, features, labels)
    ```
    """
    if model.class_names is None:
        raise APINetError(
            "The model has no class_names (class_names=None), so its classes cannot be "
            "named; build it with class_names."
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
