"""Data sets of TensorFlow Datasets (TFDS), with random access to their records.

Data sets stored as ArrayRecord are read through the random access of TFDS; those stored
as TFRecord (the TFDS default) through an index of the record offsets. If the test
images have no labels (iNaturalist) or there are none (Food-101), the `validation` split
is used for testing, as in published results.
"""

import contextlib
import os
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import Contents, ImageData, Split, as_objects
from keras_apinet.data.sources.folders import SPLIT_NAMES
from keras_apinet.errors import APINetError, did_you_mean, reason
from keras_apinet.files.io import replacing

# Features in which data sets store the box of the labeled object.
_BOX_FEATURES = ("bbox", "objects/bbox")
# Each record is its length (8 bytes), a checksum (4), the data and a checksum (4).
_BEFORE, _AFTER = 12, 4


class TFRecords:
    """Provides random access to TFRecord files, which TensorFlow reads sequentially.

    Args:
        paths: The files; they are scanned once, without reading the data.

    Raises:
        OSError: If a file ends within a record.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)
        places: list[tuple[int, int, int]] = []
        for number, path in enumerate(self._paths):
            size, at = os.path.getsize(path), 0
            with open(path, "rb") as file:
                while at < size:
                    file.seek(at)
                    head = file.read(8)
                    length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
                    if at + _BEFORE + length + _AFTER > size:
                        raise OSError(f"{path} ends within record {len(places)}")
                    places.append((number, at + _BEFORE, length))
                    at += _BEFORE + length + _AFTER
        self._places = np.array(places, np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._places)

    def __getitems__(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the data of the records `indices`, just as TFDS itself would."""
        found: dict[int, bytes] = {}
        places = self._places[indices].tolist()
        # File by file, so that each is opened only once.
        for number in {place[0] for place in places}:
            with open(self._paths[number], "rb") as file:
                for i, (of, start, length) in zip(indices, places, strict=True):
                    if of == number:
                        file.seek(start)
                        found[i] = file.read(length)
        return [found[i] for i in indices]


class RecordReader:
    """Reads encoded images from serialized examples.

    Args:
        records: Returns the bytes of examples by number.
        image_key: The feature that holds the image.
        name: The start of every reference.
    """

    kind: Literal["encoded"] = "encoded"

    def __init__(self, records: Any, image_key: str, name: str) -> None:
        self._records, self._image_key, self._name = records, image_key, name

    def reference(self, index: int) -> str:
        """`tfds:name/split#index`."""
        return f"{self._name}#{index}"

    def examples(self, indices: NDArray[np.int64]) -> list[Any]:
        """Parses examples to dictionaries of feature name -> values."""
        import tensorflow as tf

        data = self._records.__getitems__(indices.tolist())
        return [tf.train.Example.FromString(d).features.feature for d in data]

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the bytes of the images as they were before TFDS stored them."""
        contents = [
            example[self._image_key].bytes_list.value[0]
            for example in self.examples(indices)
        ]
        return as_objects(contents), np.zeros((len(indices), 2), np.int32)


def load_tfds(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool
) -> ImageData:
    """Opens a prepared TensorFlow Datasets data set, or prepares it on request.

    Args:
        name: As for `tfds.load`, without `tfds:`.
        data_dir: Folder of the data sets. Default: the TFDS default.
        download: Whether TFDS may download and prepare the data set.

    Raises:
        APINetError: If the name is unknown, or the data set is missing, incomplete, or
            without images and class labels.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    folder = None if data_dir is None else os.fspath(data_dir)
    try:
        builder = read_only_builder.builder_from_files(name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        if not download:
            raise APINetError(_why_missing(name, folder)) from error
        builder = _prepare(name, folder)
    except Exception as error:
        raise APINetError(
            f"The data set tfds:{name} cannot be opened ({reason(error)}); check "
            "its folder."
        ) from error
    info = builder.info
    image_key, label_key = _keys(name, info)
    splits: dict[str, Split] = {}
    for split_name in info.splits:
        if (ours := SPLIT_NAMES.get(split_name)) and ours not in splits:
            reader = RecordReader(
                _records(builder, split_name), image_key, f"tfds:{name}/{split_name}"
            )
            count = info.splits[split_name].num_examples
            index = Path(builder.data_dir, f"keras_apinet_{split_name}_{label_key}.npz")
            splits[ours] = _labelled(_index(reader, count, label_key, index))
    if "val" in splits and not len(splits.get("test", ())):
        # The split that results are published on must not select the model.
        splits["test"] = splits.pop("val")
    return ImageData(
        f"tfds:{name}",
        tuple(info.features[label_key].names),
        splits,
        description=" ".join((info.description or "").split())[:200],
    )


def _records(builder: Any, split: str) -> Any:
    import tensorflow_datasets as tfds

    paths = [os.fspath(path) for path in builder.info.splits[split].filepaths]
    for path in paths:
        if not os.path.exists(path):
            raise APINetError(
                f"The prepared data set in {os.fspath(builder.data_dir)!r} is "
                f"incomplete: {os.path.basename(path)} is missing; delete that folder "
                "and prepare it again with --download."
            )
    try:
        if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
            return TFRecords(paths)
        return builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
    except (OSError, NotImplementedError, ValueError) as error:
        raise APINetError(
            f"The prepared data set in {os.fspath(builder.data_dir)!r} cannot be read "
            f"({reason(error)}); delete that folder and prepare it again with "
            "--download."
        ) from error


def _index(reader: RecordReader, count: int, label_key: str, file: Path) -> Split:
    """Returns the labels and boxes of a split.

    They are stored with the images, so finding them requires reading the whole data
    set. This is done once, and the result is cached in `file` next to it, if that
    folder is writable.
    """
    try:
        with np.load(file, allow_pickle=False) as kept:
            labels, boxes = kept["labels"], kept["boxes"]
    except Exception:  # any error of a damaged file, which is created again
        labels, boxes = np.empty(0, np.int32), np.empty((0, 4), np.float32)
    if labels.shape != (count,) or boxes.shape != (count, 4):
        labels, boxes = _read_labels(reader, count, label_key)
        with contextlib.suppress(APINetError), replacing(file) as unfinished:
            np.savez_compressed(unfinished, labels=labels, boxes=boxes)
    if np.isnan(boxes).all():
        return Split.of(reader, labels)
    boxes[np.isnan(boxes).any(axis=1)] = 0, 0, 1, 1
    return Split.of(reader, labels, boxes=boxes, boxes_are_fractions=True)


def _read_labels(
    reader: RecordReader, count: int, label_key: str
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Extracts labels, and boxes as left, top, right, bottom; NaN if missing."""
    labels = np.empty(count, np.int32)
    boxes = np.full((count, 4), np.nan, np.float32)
    for start in range(0, count, 256):
        indices = np.arange(start, min(start + 256, count))
        for i, example in zip(indices, reader.examples(indices), strict=True):
            labels[i] = example[label_key].int64_list.value[0]
            for key in _BOX_FEATURES:
                if key in example and example[key].float_list.value:
                    corners = np.array(example[key].float_list.value).reshape(-1, 4)
                    # TFDS uses top, left, bottom, right.
                    low, high = corners.min(axis=0), corners.max(axis=0)
                    boxes[i] = low[1], low[0], high[3], high[2]
    return labels, boxes


def _labelled(split: Split) -> Split:
    """Omits images without a label, which TFDS marks with -1."""
    known = split.labels >= 0
    if not known.all():
        warnings.warn(
            f"{np.count_nonzero(~known)} of {len(known)} images of "
            f"{split.reference(0).partition('#')[0]} have no label and are left out.",
            stacklevel=2,
        )
    return split if known.all() else split.take(known)


def _keys(name: str, info: Any) -> tuple[str, str]:
    """Finds the names of the image and label features."""
    import tensorflow_datasets as tfds

    features = info.features
    images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    supervised: tuple[str, ...] = tuple(info.supervised_keys or ())
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in labels:
        return supervised[0], supervised[1]
    if "image" in images and "label" in labels:
        return "image", "label"
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise APINetError(
        f"The data set tfds:{name} has no single image with a class label (features: "
        f"{', '.join(features)}); choose a data set for image classification."
    )


def _prepare(name: str, folder: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise APINetError(_why_missing(name, folder)) from error
    except Exception as error:
        raise APINetError(
            f"The data set tfds:{name} could not be prepared ({reason(error)}); try "
            "again, or unpack its archive by hand and use that folder."
        ) from error
    return builder


def _why_missing(name: str, folder: str | None) -> str:
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    root = Path(folder or tfds.core.constants.DATA_DIR).expanduser()
    half = sorted(root.glob(f"{base}/**/*incomplete*"))
    if half:
        return (
            f"The data set tfds:{name} is only half prepared ({half[0]} was left by an "
            "interrupted download); delete it, and run again with --download."
        )
    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        return (
            f"data={name!r} is not a folder, a table, or a name that TensorFlow "
            f"Datasets knows{did_you_mean(base, known, 3)}"
        )
    return (
        f"The data set tfds:{name} is not prepared in {os.fspath(root)!r}; add "
        "--download to fetch it (it can be large), or --data-dir with its folder."
    )
