"""Data structures of every source: images, integer labels and class names by split."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.photos.files import unreadable
from keras_apinet.data.photos.preprocessing import read_content
from keras_apinet.errors import APINetError, distinct_names
from keras_apinet.pixels import as_rgb

Contents = tuple[NDArray[np.object_], NDArray[np.int32]]


class Reader(Protocol):
    """Random access to images, in bounded memory.

    `kind` determines what `fetch` returns: paths of files (`"file"`), or bytes of
    encoded files (`"encoded"`) or of RGB pixels (`"raw"`).
    """

    @property
    def kind(self) -> Literal["file", "encoded", "raw"]:
        """The kind of content that `fetch` returns."""

    def reference(self, index: int) -> str:
        """Returns a human-readable name for one image."""

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the contents of `[n]` images and, if raw, `[n, 2]` sizes (h, w)."""


class Strings(Sequence[str]):
    """Stores many strings in one buffer, in a tenth of the memory of Python objects.

    File names that are not valid Unicode are preserved.
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
        """Returns the bytes of one string."""
        return self._buffer[self._ends[index] : self._ends[index + 1]]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.encoded(range(len(self))[index]).decode("utf-8", "surrogateescape")


class FileReader:
    """Reads image files on disk, with one path per image."""

    kind: Literal["file"] = "file"

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = Strings(paths)

    def reference(self, index: int) -> str:
        """Returns the path."""
        return str(self.paths[index])

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the paths; the files are opened in the input pipeline."""
        paths = as_objects([self.paths.encoded(i) for i in indices])
        return paths, np.zeros((len(paths), 2), np.int32)


class ArrayReader:
    """Reads pixels, `[h, w, 3]`, 0..255, which `image` returns for a position."""

    kind: Literal["raw"] = "raw"

    def __init__(self, image: Callable[[int], Any], name: str) -> None:
        self._image, self._name = image, name

    def reference(self, index: int) -> str:
        """`name#index`."""
        return f"{self._name}#{index}"

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the pixels."""
        return pack([self._image(i) for i in indices.tolist()])


def pack(images: Sequence[Any]) -> Contents:
    """Converts `[h, w, 3]` images to bytes and sizes."""
    arrays = [as_rgb(image) for image in images]
    sizes = np.array([a.shape[:2] for a in arrays], np.int32).reshape(-1, 2)
    return as_objects([a.tobytes() for a in arrays]), sizes


def as_objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """Creates a one-dimensional object array without NumPy unpacking the values."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split, in compact arrays.

    Attributes:
        reader: Fetches the images.
        labels: `[n]` int32, positions in the class names.
        rows: `[n]` int64, the place of each image in `reader`.
        boxes: `[n, 4]` float32 left, top, right, bottom of the object, or None.
        boxes_are_fractions: Whether `boxes` are fractions of the image, not pixels.
        groups: `[n]` int64, equal for images that belong together, or None.
    """

    reader: Reader
    labels: NDArray[np.int32]
    rows: NDArray[np.int64]
    boxes: NDArray[np.float32] | None = None
    boxes_are_fractions: bool = False
    groups: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, reader: Reader, labels: Any, **options: Any) -> "Split":
        """Creates a split of all images of `reader`, in its order."""
        labels = np.asarray(labels, np.int32)
        return cls(reader, labels, np.arange(len(labels)), **options)

    @classmethod
    def of_files(cls, paths: Sequence[str], labels: Any, **options: Any) -> "Split":
        """Creates a split of image files and their labels."""
        return cls.of(FileReader(paths), labels, **options)

    def __len__(self) -> int:
        return len(self.labels)

    def reference(self, index: int) -> str:
        """Returns a readable name of one image: its path, or `tfds:...#i`."""
        return self.reader.reference(int(self.rows[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Reads one image as uint8 RGB `[h, w, 3]`, turned upright.

        Raises:
            APINetError: If the image cannot be read; gives its name and the reason.
        """
        reference = self.reference(index)
        try:
            contents, sizes = self.reader.fetch(self.rows[index : index + 1])
        except Exception as error:
            raise unreadable(reference, error) from error
        return read_content(self.reader.kind, contents[0], sizes[0], reference)

    def take(self, positions: Any) -> "Split":
        """Returns the images at `positions` (integers or a mask), in that order."""
        return replace(
            self,
            labels=self.labels[positions],
            rows=self.rows[positions],
            boxes=None if self.boxes is None else self.boxes[positions],
            groups=None if self.groups is None else self.groups[positions],
        )


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set for fine-grained classification.

    Attributes:
        name: The name that was requested.
        class_names: One name per label.
        splits: `"train"`, `"val"`, and `"test"` if there is one.
        groups: Coarser names of each class: `{"family": (name of class 0, ...)}`.
        held_out: How `"val"` was held out of the training images, or None if the
            source has its own; for the run folder.
        description: What it is, in one human-readable line.
        notes: What users should know about how it was read and split, in sentences.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: Mapping[str, Any] | None = None
    description: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Names are shown in terminals, web pages and label files, one per line.
        names = distinct_names(self.class_names)
        object.__setattr__(self, "class_names", names)

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with any label, reference or split.

        For files, only the ends of references count, so moving a folder has no effect.
        """
        digest = hashlib.sha256(repr(self.class_names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}:{len(split)}:".encode())
            digest.update(split.labels.tobytes())
            for i in range(len(split)):
                end = end_of(split.reference(i))
                digest.update(end.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]

    def stamps(self) -> str:
        """Returns 16 hexadecimal digits that change with the file of any photo.

        They depend on its size and modification time, not on its content.
        """
        digest = hashlib.sha256()
        for split in self.splits.values():
            if split.reader.kind == "file":
                for i in range(len(split)):
                    digest.update(_stamp(split.reference(i)))
        return digest.hexdigest()[:16]


def _stamp(path: str) -> bytes:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return b"none"
    return f"{found.st_size}:{found.st_mtime_ns};".encode()


def end_of(reference: str) -> str:
    """Returns the last two parts of a path, which survive moving the data set."""
    return "/".join(reference.replace("\\", "/").split("/")[-2:])


def checked(data: ImageData) -> ImageData:
    """Orders the splits of a data set and checks that every class can be learned.

    Raises:
        APINetError: If there are no training images, or some class has none.
    """
    splits = {name: split for name, split in data.splits.items() if len(split)}
    if "train" not in splits:
        raise APINetError(
            f"The data set {data.name!r} has no training images (splits: "
            f"{', '.join(splits) or 'none'}); check the folder or the name."
        )
    counts = np.bincount(splits["train"].labels, minlength=len(data.class_names))
    alike = _alike(data.class_names)
    for name, split in splits.items():
        missing = [c for c in np.unique(split.labels) if not counts[c]]
        if missing:
            names = ", ".join(repr(data.class_names[c]) for c in missing[:5])
            twin = next((g for g in alike if data.class_names[missing[0]] in g), ())
            raise APINetError(
                f"The {name!r} split of {data.name!r} has {len(missing)} classes "
                f"without any training images ({names}), the first at "
                f"{split.reference(int(np.argmax(split.labels == missing[0])))}; add "
                "training images or remove the class"
                + (f" ({_differ(twin).rstrip('.')})." if twin else ".")
            )
    order = [name for name in ("train", "val", "test") if name in splits]
    notes = (*data.notes, *(_differ(names) for names in alike))
    return replace(data, splits={n: splits[n] for n in order}, notes=notes)


def _alike(class_names: Sequence[str]) -> list[list[str]]:
    """Finds class names that may have been meant to be the same."""
    found: dict[str, list[str]] = {}
    for name in class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        found.setdefault(re.sub(r"[\s_-]+", "", plain), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def _differ(names: Sequence[str]) -> str:
    return (
        f"The classes {' and '.join(ascii(name) for name in names)} differ only in "
        "spaces, case or Unicode form; give them the same name if they are one class."
    )
