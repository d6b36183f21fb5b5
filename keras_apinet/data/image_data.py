"""What every source gives: images, integer labels and class names, per split."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.photos.files import unreadable
from keras_apinet.data.photos.preprocessing import read_content
from keras_apinet.data.readers import FileReader, Reader
from keras_apinet.errors import APINetError, distinct_names


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split, in compact arrays.

    Attributes:
        reader: Fetches the images.
        labels: `[n]` int32, positions in the class names.
        rows: `[n]` int64, the place of each image in `reader`.
        boxes: `[n, 4]` float32 left, top, right, bottom of the object, or None.
        boxes_are_fractions: Whether `boxes` are in 0..1 of the image or in pixels.
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
        """All images of `reader`, in its order."""
        labels = np.asarray(labels, np.int32)
        return cls(reader, labels, np.arange(len(labels)), **options)

    @classmethod
    def of_files(cls, paths: Sequence[str], labels: Any, **options: Any) -> "Split":
        """Image files and their labels."""
        return cls.of(FileReader(paths), labels, **options)

    def __len__(self) -> int:
        return len(self.labels)

    def reference(self, index: int) -> str:
        """A name of one image that a person can follow: its path, or `tfds:...#i`."""
        return self.reader.reference(int(self.rows[index]))

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image as uint8 RGB `[h, w, 3]`, turned upright.

        Raises:
            APINetError: For an image that cannot be read, with its name and why.
        """
        reference = self.reference(index)
        try:
            contents, sizes = self.reader.fetch(self.rows[index : index + 1])
        except Exception as error:
            raise unreadable(reference, error) from error
        return read_content(self.reader.kind, contents[0], sizes[0], reference)

    def take(self, positions: Any) -> "Split":
        """The images at `positions` (integers or a mask), in that order."""
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
        name: What was asked for.
        class_names: One name per label.
        splits: `"train"`, `"val"`, and `"test"` if there is one.
        groups: Coarser names of each class: `{"family": (name of class 0, ...)}`.
        held_out: How `"val"` was cut from the training images, or None if the source
            has its own; for the run folder.
        description: One line on what it is, for people.
        notes: What a person should know of how it was read and cut, in sentences.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: Mapping[str, Any] | None = None
    description: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Names go to terminals, pages and label files with one line for each.
        names = distinct_names(self.class_names)
        object.__setattr__(self, "class_names", names)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any label, reference or split.

        Only the ends of references count for files, so a moved folder stays the same.
        """
        digest = hashlib.sha256(repr(self.class_names).encode())
        for name, split in sorted(self.splits.items()):
            digest.update(f"{name}:{len(split)}:".encode())
            digest.update(split.labels.tobytes())
            for i in range(len(split)):
                end = end_of(split.reference(i))
                digest.update(end.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]


def end_of(reference: str) -> str:
    """The last two parts of a path, which stay when the data set is moved."""
    return "/".join(reference.replace("\\", "/").split("/")[-2:])


def checked(data: ImageData) -> ImageData:
    """The data set with its splits in order, if every class can be learned.

    Raises:
        APINetError: For no training images, or classes that only other splits have.
    """
    splits = {name: split for name, split in data.splits.items() if len(split)}
    if "train" not in splits:
        raise APINetError(
            f"The data set {data.name!r} has no training images (splits: "
            f"{', '.join(splits) or 'none'}): check the folder or the name."
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
                f"without any training image ({names}): first at "
                f"{split.reference(int(np.argmax(split.labels == missing[0])))}; add "
                "training images or remove the class."
                + (f" {_differ(twin)}" if twin else "")
            )
    order = [name for name in ("train", "val", "test") if name in splits]
    notes = (*data.notes, *(_differ(names) for names in alike))
    return replace(data, splits={n: splits[n] for n in order}, notes=notes)


def _alike(class_names: Sequence[str]) -> list[list[str]]:
    """Class names that a person may have meant to be one."""
    found: dict[str, list[str]] = {}
    for name in class_names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        found.setdefault(re.sub(r"[\s_-]+", "", plain), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def _differ(names: Sequence[str]) -> str:
    return (
        f"The classes {' and '.join(ascii(name) for name in names)} differ only in "
        "spaces, case or Unicode form: give them one name if they are one class."
    )
