"""Where the images of a split lie, and how their bytes are fetched, many at once."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_apinet.pixels import as_rgb

Contents = tuple[NDArray[np.object_], NDArray[np.int32]]


class Reader(Protocol):
    """Random access to images, in bounded memory.

    `kind` says what `fetch` returns: paths of files (`"file"`), the bytes of encoded
    files (`"encoded"`) or of RGB pixels (`"raw"`).
    """

    @property
    def kind(self) -> Literal["file", "encoded", "raw"]:
        """What `fetch` returns."""

    def reference(self, index: int) -> str:
        """A name for one image that a person can follow."""

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """The contents of `[n]` images, and `[n, 2]` heights and widths if raw."""


class Strings(Sequence[str]):
    """Many strings in one buffer: a tenth of the memory of as many Python objects.

    Args:
        strings: Any strings; file names that are not valid Unicode survive.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        buffer, ends = bytearray(), [0]
        for string in strings:
            buffer += string.encode("utf-8", "surrogateescape")
            ends.append(len(buffer))
        self._buffer, self._ends = bytes(buffer), np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def encoded(self, index: int) -> bytes:
        """The bytes of one string."""
        return self._buffer[self._ends[index] : self._ends[index + 1]]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.encoded(range(len(self))[index]).decode("utf-8", "surrogateescape")


class FileReader:
    """Image files on disk.

    Args:
        paths: One path per image.
    """

    kind: Literal["file"] = "file"

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = paths if isinstance(paths, Strings) else Strings(paths)

    def reference(self, index: int) -> str:
        """The path."""
        return str(self.paths[index])

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """The paths; the files are opened in the input pipeline."""
        paths = as_objects([self.paths.encoded(i) for i in indices])
        return paths, np.zeros((len(paths), 2), np.int32)


class ArrayReader:
    """Pixels in memory.

    Args:
        images: `[n, h, w, 3]` uint8, or a sequence of `[h, w, 3]` arrays.
        name: What a reference starts with.
    """

    kind: Literal["raw"] = "raw"

    def __init__(self, images: Sequence[Any] | NDArray[Any], name: str) -> None:
        self._images, self._name = images, name

    def reference(self, index: int) -> str:
        """`name#index`."""
        return f"{self._name}#{index}"

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """The pixels."""
        return pack([self._images[i] for i in indices])


def pack(images: Sequence[Any]) -> Contents:
    """Turns `[h, w, 3]` images into bytes and sizes."""
    arrays = [as_rgb(image) for image in images]
    sizes = np.array([a.shape[:2] for a in arrays], np.int32).reshape(-1, 2)
    return as_objects([a.tobytes() for a in arrays]), sizes


def as_objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """A one-dimensional object array; NumPy must not look into the values."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
