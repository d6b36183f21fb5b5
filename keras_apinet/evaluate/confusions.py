"""Which classes a model takes for each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.shares import share_of


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Images of true class (row) and predicted class (column), `[C, C]`."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def confused_pairs(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    class_names: Sequence[str],
    limit: int = 10,
) -> list[dict[str, Any]]:
    """The pairs of classes with the most errors between them.

    Args:
        labels: `[n]` true classes.
        predicted: `[n]` predicted classes.
        class_names: One name for each class.
        limit: Pairs to return. Default 10.

    Returns:
        For each pair `classes` (the one whose images are lost more often first),
        `errors` in both directions, `first_as_second`, `second_as_first`, `share` of
        all errors, and `of`: how many those are.
    """
    matrix = confusion_matrix(labels, predicted, len(class_names))
    np.fill_diagonal(matrix, 0)
    both = np.triu(matrix + matrix.T)
    total = both.sum()
    result = []
    for flat in np.argsort(-both, axis=None, kind="stable")[:limit]:
        a, b = (int(i) for i in np.unravel_index(flat, both.shape))
        if not both[a, b]:
            break
        if matrix[b, a] > matrix[a, b]:
            a, b = b, a
        result.append(
            {
                "classes": [class_names[a], class_names[b]],
                "errors": int(matrix[a, b] + matrix[b, a]),
                "first_as_second": int(matrix[a, b]),
                "second_as_first": int(matrix[b, a]),
                "share": float((matrix[a, b] + matrix[b, a]) / total),
                "of": int(total),
            }
        )
    return result


def within_groups(
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Accuracy between and within look-alike groups of classes.

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        groups: For each level, the group of every class: `{"family": (...)}`.

    Returns:
        For each level: `top1_of_group` (the group is right), `top1_within_group` (the
        class is right if only the classes of the true group may be chosen),
        `errors_within_group` (share of the errors that stay inside the group; `None`
        without errors), the 95 % `intervals` of these (Wilson), and the same for each
        group in `groups`.
    """
    log_p = log_softmax(logits)
    predicted = log_p.argmax(axis=1)
    result: dict[str, dict[str, Any]] = {}
    for level, group_names in groups.items():
        names, group_of = np.unique(np.asarray(group_names), return_inverse=True)
        own, guessed = group_of[labels], group_of[predicted]
        same = group_of[None, :] == own[:, None]
        inside = np.where(same, log_p, -np.inf).argmax(axis=1) == labels
        wrong = predicted != labels

        def summary(
            rows: NDArray[np.bool_],
            own: NDArray[Any] = own,
            guessed: NDArray[Any] = guessed,
            inside: NDArray[np.bool_] = inside,
            wrong: NDArray[np.bool_] = wrong,
        ) -> dict[str, Any]:
            shares = {
                "top1": share_of(~wrong[rows]),
                "top1_of_group": share_of((own == guessed)[rows]),
                "top1_within_group": share_of(inside[rows]),
                "errors_within_group": share_of((own == guessed)[rows & wrong]),
            }
            return {
                "images": int(rows.sum()),
                **{name: share["value"] for name, share in shares.items()},
                "intervals": {
                    name: [share["low"], share["high"]]
                    for name, share in shares.items()
                },
            }

        result[level] = summary(np.ones(len(labels), bool)) | {
            "groups": [
                {
                    "group": str(names[g]),
                    "classes": int((group_of == g).sum()),
                    **summary(own == g),
                }
                for g in np.unique(own)
            ]
        }
    return result


def look_alike_order(
    labels: NDArray[np.int64], logits: NDArray[np.float32], features: NDArray[Any]
) -> NDArray[np.int64]:
    """An order of the classes in which look-alikes stand together.

    Classes are clustered (average linkage, optimal leaf order) by how often they are
    taken for each other and by the cosine between the means of their features; classes
    without images go last.

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        features: `[n, D]`.

    Returns:
        A permutation of the C classes.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    classes = logits.shape[1]
    support = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(support)
    absent = np.flatnonzero(support == 0)
    if len(present) < 3:
        return np.concatenate([present, absent])
    one_hot = np.zeros((len(labels), classes))
    one_hot[np.arange(len(labels)), labels] = 1 / support[labels]
    mean_p = one_hot.T @ np.exp(log_softmax(logits))
    centres = one_hot.T[present] @ (features - features.mean(axis=0))
    lengths = np.linalg.norm(centres, axis=1, keepdims=True)
    centres = centres / np.maximum(lengths, 1e-12)
    taken = mean_p[np.ix_(present, present)]
    alike = (taken + taken.T) / 2 + (1 + centres @ centres.T) / 2
    distances = np.maximum(alike.max() - alike, 0)
    upper = distances[np.triu_indices(len(present), 1)]
    tree = linkage(upper, "average", optimal_ordering=len(present) <= 600)
    return np.concatenate([present[leaves_list(tree)], absent])
