"""Families: groups of classes to answer with when no single class is certain.

A run stores the family of each class in `families.json`, from the data set, a table, or
the confusions on the validation photos.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError, did_you_mean
from keras_apinet.files.bounds import SHARE
from keras_apinet.files.schema import read_content
from keras_apinet.shares import share_of

FILE = "families.json"


def read_families(path: str | Path, class_names: Sequence[str]) -> tuple[str, ...]:
    """The family of each class from a CSV file with the columns `class` and `family`.

    A class that is not listed is its own family; an unknown class is an error.
    """
    try:
        lines = read_content(Path(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise APINetError(
            f"{str(path)!r} is not UTF-8 text; save it as UTF-8."
        ) from error
    try:
        table = csv.DictReader(lines)
        columns, rows = [*(table.fieldnames or ())], [*table]
    except csv.Error as error:
        raise APINetError(
            f"The table {str(path)!r} cannot be read ({error}): save it again as CSV."
        ) from error
    if not {"class", "family"} <= {*columns}:
        raise APINetError(
            f"{str(path)!r} has the columns {', '.join(columns) or 'none'}; families "
            "need `class` and `family`."
        )
    family_of = {row["class"]: row["family"] for row in rows if row["family"]}
    for name in family_of:
        if name not in class_names:
            raise APINetError(
                f"{str(path)!r} lists the class {name!r}, which the model does not have"
                + did_you_mean(str(name), class_names)
            )
    return tuple(family_of.get(name, name) for name in class_names)


def confused_families(
    labels: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Clusters classes by confusion, from `[n]` labels and `[n, C]` probabilities.

    The similarity of two classes is the mean probability of one for photos of the
    other. Clusters use average linkage, cut at a similarity of 0.1. A family is named
    after its classes, joined by `/`.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    from keras_apinet.evaluate.metrics import class_means

    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    near = class_means(p, y, p.shape[1])
    near = (near + near.T) / 2
    np.fill_diagonal(near, 1)
    far = squareform(1 - near, checks=False)
    cluster = fcluster(linkage(far, "average"), 0.9, "distance")
    members: dict[int, list[str]] = {}
    for name, number in zip(class_names, cluster, strict=True):
        members.setdefault(number, []).append(name)
    return tuple("/".join(members[number]) for number in cluster)


def answer(
    probabilities: NDArray[Any], families: Sequence[str], confidence: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Answers at a confidence level: a class, a family, or neither.

    Returns:
        `best` `[n]` (the most probable class, within the most probable family where
        `is_family`), `is_class` and `is_family` `[n]`.
    """
    SHARE.check("confidence", confidence)
    p = np.asarray(probabilities, np.float64)
    _, family_of = np.unique(np.asarray(families), return_inverse=True)
    together = p @ np.eye(family_of.max() + 1)[family_of]
    chosen = together.argmax(axis=1)
    is_class = p.max(axis=1) >= confidence
    is_family = ~is_class & (together.max(axis=1) >= confidence)
    inside = np.where(family_of == chosen[:, None], p, -1).argmax(axis=1)
    return np.where(is_family, inside, p.argmax(axis=1)), is_class, is_family


def family_figures(
    labels: ArrayLike,
    probabilities: NDArray[Any],
    families: Sequence[str],
    confidence: float,
) -> dict[str, Any]:
    """Accuracy and depth of the answers at a confidence level.

    Returns:
        `accuracy` of the given answers (a family is right if it contains the class),
        the fractions answered with a `class`, a `family` and `neither`, and `depth`,
        the mean of 1, `1 - log(classes of the family) / log(C)` and 0, respectively.
    """
    y, names = np.asarray(labels), np.asarray(families)
    best, is_class, is_family = answer(probabilities, families, confidence)
    right = np.where(is_class, best == y, names[best] == names[y])
    sizes = np.array([(names == name).sum() for name in names])
    depth = 1 - np.log(sizes[best]) / np.log(len(names))
    given = is_class | is_family
    return {
        "confidence": confidence,
        "accuracy": share_of(right[given]),
        "class": share_of(is_class),
        "family": share_of(is_family),
        "neither": share_of(~given),
        "depth": float(np.where(is_class, 1.0, np.where(is_family, depth, 0)).mean()),
    }


def words(family: str) -> str:
    """The text for a family, such as "some apple" or "conference or anjou"."""
    return family.replace("/", " or ") if "/" in family else f"some {family}"


def families_in(
    content: Mapping[str, Any] | None, class_names: Sequence[str]
) -> tuple[str, ...] | None:
    """The family of each class from a run's file, or `None` without one."""
    if content is None:
        return None
    return tuple(content["families"].get(name, name) for name in class_names)
