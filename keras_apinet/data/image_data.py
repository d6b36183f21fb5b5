"""What every source gives: images, integer labels and class names, per split."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.bounds import FRACTION, SEED
from keras_apinet.data.readers import FileReader, Reader
from keras_apinet.errors import APINetError, printable


@dataclass(frozen=True, eq=False)
class Split:
    """The images and labels of one split, in compact arrays.

    Attributes:
        reader: fetches the images.
        labels: `[n]` int32, positions in the class names.
        rows: `[n]` int64, the place of each image in `reader`.
        boxes: `[n, 4]` float32 left, top, right, bottom of the object, or None.
        boxes_are_fractions: whether `boxes` are in 0..1 of the image or in pixels.
    """

    reader: Reader
    labels: NDArray[np.int32]
    rows: NDArray[np.int64]
    boxes: NDArray[np.float32] | None = None
    boxes_are_fractions: bool = False

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
            APINetError: for an image that cannot be read, with its name and why.
        """
        from keras_apinet.data.decoding import read_content, unreadable

        reference = self.reference(index)
        try:
            contents, sizes = self.reader.fetch(self.rows[index : index + 1])
        except Exception as error:
            raise unreadable(reference, error) from error
        return read_content(self.reader.kind, contents[0], sizes[0], reference)

    def take(self, positions: Any) -> "Split":
        """The images at `positions` (integers or a mask), in that order."""
        boxes = None if self.boxes is None else self.boxes[positions]
        return replace(
            self,
            labels=self.labels[positions],
            rows=self.rows[positions],
            boxes=boxes,
        )


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set for fine-grained classification.

    Attributes:
        name: what was asked for.
        class_names: one name per label.
        splits: `"train"`, `"val"`, and `"test"` if there is one.
        groups: coarser names of each class: `{"family": (name of class 0, ...)}`.
        held_out: how `"val"` was cut from the training images, or None if the source
            has its own; for the run folder.
        description: one line on what it is, for people.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held_out: Mapping[str, Any] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        # Names go to terminals, pages and label files with one line for each.
        names = tuple(printable(name) for name in self.class_names)
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
                reference = split.reference(i).replace("\\", "/")
                tail = "/".join(reference.split("/")[-2:])
                digest.update(tail.encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()[:16]


def finish(data: ImageData, *, validation: float, seed: int) -> ImageData:
    """Checks the labels and, if there is no `"val"` split, holds one out of `"train"`.

    Args:
        data: as the source gives it.
        validation: fraction of every class to hold out; 0 leaves the split out.
        seed: which images are held out.

    Raises:
        APINetError: for no training images, or classes that only other splits have.
    """
    FRACTION.check("validation", validation)
    SEED.check("seed", seed)
    splits = {name: split for name, split in data.splits.items() if len(split)}
    if "train" not in splits:
        raise APINetError(
            f"The data set {data.name!r} has no training images (splits: "
            f"{', '.join(splits) or 'none'}): check the folder or the name."
        )
    train = splits["train"]
    counts = np.bincount(train.labels, minlength=len(data.class_names))
    for name, split in splits.items():
        missing = [c for c in np.unique(split.labels) if not counts[c]]
        if missing:
            names = ", ".join(repr(data.class_names[c]) for c in missing[:5])
            raise APINetError(
                f"The {name!r} split of {data.name!r} has {len(missing)} classes "
                f"without any training image ({names}): first at "
                f"{split.reference(int(np.argmax(split.labels == missing[0])))}; add "
                "training images or remove the class."
            )
    held_out = data.held_out
    if "val" not in splits and validation:
        rest, val = stratified_holdout(train.labels, validation, seed)
        if len(val):
            splits |= {"train": train.take(rest), "val": train.take(val)}
            held_out = {
                "from": "train",
                "fraction": validation,
                "seed": seed,
                "images": len(val),
            }
    order = [name for name in ("train", "val", "test") if name in splits]
    return replace(data, splits={n: splits[n] for n in order}, held_out=held_out)


def stratified_holdout(
    labels: NDArray[np.int32], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cuts the same fraction out of every class.

    Every class keeps at least one training image, and a class of at least two images
    gives at least one.

    Args:
        labels: `[n]` classes.
        fraction: of each class, rounded.
        seed: which images.

    Returns:
        Positions that stay and positions that are held out, both ascending.
    """
    by_class = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    _, first, counts = np.unique(
        labels[by_class], return_index=True, return_counts=True
    )
    give = np.rint(counts * fraction).astype(np.int64)
    give = np.minimum(np.maximum(give, 1), counts - 1)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    held = rank < np.repeat(give, counts)
    return np.sort(by_class[~held]), np.sort(by_class[held])
