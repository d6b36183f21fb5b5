"""Images and labels passed in Python, presented like any other split."""

import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import (
    ArrayReader,
    Contents,
    Split,
    as_objects,
)
from keras_apinet.errors import APINetError
from keras_apinet.files.io import unwritable
from keras_apinet.pixels import as_rgb, check_pixels

_ADVICE = "free some space, or set TMPDIR to a larger disk"


def as_split(source: Any) -> Split:
    """Provides random access to the images of any source, in bounded memory.

    Args:
        source: A `Split`; a pair of arrays `(images [n, h, w, 3], labels [n])`; a
            sequence of `(image, label)` pairs with `len()`, such as a Grain
            `MapDataset`; or a stream of single or batched `(images, labels)`: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a Grain data loader or
            iterable. A stream is read once, and its pixels are kept in a temporary file
            that is deleted with the process.

    Returns:
        A split of the source, whose labels may be integers or one-hot rows.

    Raises:
        APINetError: If the source is none of these, or pixels are outside 0..255.
    """
    if isinstance(source, Split):
        return source
    try:
        if isinstance(source, tuple) and len(source) == 2:
            images, labels = source[0], _integers(np.asarray(source[1]))
            if len(images) != len(labels):
                raise ValueError(f"{len(images)} images came with {len(labels)} labels")
            # The others are checked when they are read.
            for index in np.linspace(0, len(images) - 1, min(8, len(images))):
                check_pixels(np.asarray(images[int(index)]), "The images", margin=0)
            return Split.of(ArrayReader(images.__getitem__, "array"), labels)
        if _is_endless(source):
            raise ValueError("it never ends: take a part of it, or omit repeat()")
        if _is_map(source):
            check_pixels(np.asarray(_pair(source[0])[0]), margin=0)
            labels = _integers(
                np.array([_pair(source[i])[1] for i in range(len(source))])
            )
            reader = ArrayReader(lambda i: _pair(source[i])[0], type(source).__name__)
            return Split.of(reader, labels)
        if isinstance(source, Iterable) or hasattr(source, "__getitem__"):
            spool = Spool()
            return Split.of(spool, np.array(spool.fill(_stream(source)), np.int32))
    except ValueError as error:
        raise APINetError(
            f"The data set of type {type(source).__name__} cannot be used: "
            f"{str(error).rstrip('.')}."
        ) from error
    raise APINetError(
        f"source={source!r} is not a data set; pass a Split, a pair of arrays, or "
        "a data set of (image, label)."
    )


class Spool:
    """A temporary file of pixels, filled from a stream and then read in any order.

    The file has no name, or loses it immediately, so it cannot be left behind.
    """

    kind: Literal["raw"] = "raw"

    def __init__(self) -> None:
        # Stays open as long as the split is used.
        self._file = tempfile.TemporaryFile(prefix="keras_apinet_")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._starts: list[int] = []
        self._sizes: list[tuple[int, int]] = []

    def fill(self, pairs: Iterator[tuple[Any, Any]]) -> list[int]:
        """Writes the images and returns their labels."""
        labels = []
        for image, label in pairs:
            pixels = as_rgb(image)
            with unwritable(tempfile.gettempdir(), _ADVICE):
                self._starts.append(self._file.tell())
                self._sizes.append((pixels.shape[0], pixels.shape[1]))
                self._file.write(pixels.tobytes())
            labels.append(int(_integers(np.asarray(label)[None])[0]))
        with unwritable(tempfile.gettempdir(), _ADVICE):
            self._file.flush()
        return labels

    def reference(self, index: int) -> str:
        """Returns the position in the stream."""
        return f"stream#{index}"

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the pixels."""
        sizes = np.array([self._sizes[i] for i in indices], np.int32).reshape(-1, 2)
        contents = [
            os.pread(self._file.fileno(), h * w * 3, self._starts[i])
            for i, (h, w) in zip(indices.tolist(), sizes.tolist(), strict=True)
        ]
        return as_objects(contents), sizes


def _is_endless(source: Any) -> bool:
    """Whether iterating over `source` would never end, as far as it reports."""
    if hasattr(source, "cardinality"):  # tf.data
        return int(source.cardinality()) == -1
    # Grain gives a repeated data set the largest possible length.
    return hasattr(source, "__len__") and len(source) >= sys.maxsize


def _is_map(source: Any) -> bool:
    """Whether `source` returns single pairs by position, not batches or a stream."""
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        return False
    if len(source) == 0:
        return False
    return np.ndim(_pair(source[0])[0]) in (2, 3)


def _stream(source: Any) -> Iterator[tuple[Any, Any]]:
    """Yields single images and labels from single or batched ones."""
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        elements: Iterable[Any] = (source[i] for i in range(len(source)))
    elif hasattr(source, "as_numpy_iterator"):
        elements = source.as_numpy_iterator()
    else:
        elements = source
    for element in elements:
        images, labels = _pair(element)
        if np.ndim(images) == 4:
            yield from zip(np.asarray(images), np.asarray(labels), strict=True)
        else:
            yield images, labels


def _pair(element: Any) -> tuple[Any, Any]:
    if isinstance(element, dict) and {"image", "label"} <= element.keys():
        return element["image"], element["label"]
    if isinstance(element, tuple | list) and len(element) >= 2:
        return element[0], element[1]
    raise ValueError("its elements are not (image, label)")


def _integers(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Converts integers or one-hot rows to integer labels."""
    if labels.ndim == 2:
        labels = labels.argmax(axis=-1) if labels.shape[1] > 1 else labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"labels must be [n] or one-hot, but have {labels.shape=}")
    if labels.dtype.kind not in "iufb":
        raise ValueError(
            f"a label is {labels[0]!r}, but labels must be whole numbers from 0; "
            "numpy.unique(names, return_inverse=True)[1] numbers them"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError("labels must be whole numbers from 0, but some are nan")
    integers = labels.astype(np.int32)
    if len(labels) and (integers.min() < 0 or (integers != labels).any()):
        raise ValueError("labels must be whole numbers from 0")
    return integers
