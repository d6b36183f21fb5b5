"""Random access to TFRecord files, which TensorFlow only reads from front to back."""

import os
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Each record is its length (8 bytes), a checksum (4), the data and a checksum (4).
_BEFORE, _AFTER = 12, 4


class TFRecords:
    """The records of some TFRecord files by number, in the order of the files.

    Args:
        paths: the files; they are walked through once, without reading the data.

    Raises:
        OSError: for a file that ends within a record.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        files: list[int] = []
        starts: list[int] = []
        lengths: list[int] = []
        for number, path in enumerate(self._paths):
            size, at = os.path.getsize(path), 0
            with open(path, "rb") as file:
                while at < size:
                    file.seek(at)
                    head = file.read(8)
                    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
                    if at + _BEFORE + length + _AFTER > size:
                        raise OSError(f"{path} ends within record {len(starts)}")
                    files.append(number)
                    starts.append(at + _BEFORE)
                    lengths.append(length)
                    at += _BEFORE + length + _AFTER
        self._files = np.array(files, np.int32)
        self._starts = np.array(starts, np.int64)
        self._lengths = np.array(lengths, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, indices: NDArray[np.int64]) -> list[bytes]:
        """The data of the records numbered `indices`."""
        found: dict[int, bytes] = {}
        # File by file, so that each is opened once.
        for number in np.unique(self._files[indices]).tolist():
            with open(self._paths[number], "rb") as file:
                for i in indices[self._files[indices] == number].tolist():
                    file.seek(int(self._starts[i]))
                    found[i] = file.read(int(self._lengths[i]))
        return [found[i] for i in indices.tolist()]
