"""Runs the `caltech_birds2011` builder of TFDS on archives made from a CUB folder.

    python -m benchmarks.tfds_birds --data CUB_200_2011 --weights FILE --work FOLDER

Boxes and masks are placeholders that cover the whole photo, so the folder need not have
them. The stored dataset is compared with the folder, photo by photo, and
`build("efficientnet_lite0")` is trained on it with `model.fit` for one epoch.
"""

import argparse
import hashlib
import io
import tarfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.results import record

NAME = "caltech_birds2011"


def write_archives(source: Path, target: Path, classes: int = 200) -> tuple[Path, Path]:
    """Writes the two archives that the builder downloads.

    Args:
        source: The folder `CUB_200_2011`.
        target: The folder to write the archives to.
        classes: Number of classes to include, from the first.

    Returns:
        The archive of photos and the archive of masks.
    """
    from PIL import Image

    target.mkdir(parents=True, exist_ok=True)
    archives = target / "CUB_200_2011.tgz", target / "segmentations.tgz"
    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "train_test_split", "bounding_boxes")
    }
    splits = (source / "train_test_split.txt").read_text().splitlines()

    def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))

    with (
        tarfile.open(archives[0], "w:gz", compresslevel=1) as photos,
        tarfile.open(archives[1], "w:gz", compresslevel=1) as masks,
    ):
        lines = (source / "images.txt").read_text().splitlines()
        for line, split in zip(lines, splits, strict=True):
            number, name = line.split()
            if int(name[:3]) > classes:
                continue
            content = (source / "images" / name).read_bytes()
            add(photos, f"CUB_200_2011/images/{name}", content)
            width, height = Image.open(io.BytesIO(content)).size
            tables["images"].append(line)
            tables["train_test_split"].append(split)
            tables["bounding_boxes"].append(f"{number} 0.0 0.0 {width}.0 {height}.0")
            png = io.BytesIO()
            Image.new("L", (width, height), 255).save(png, "png")
            add(masks, f"segmentations/{name[:-3]}png", png.getvalue())
        for table, rows in tables.items():
            add(photos, f"CUB_200_2011/{table}.txt", "\n".join([*rows, ""]).encode())
    return archives


def prepare(archives: tuple[Path, Path], data_dir: Path) -> None:
    """Runs the builder of TensorFlow Datasets on the two archives, without output."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    builder = tfds.builder(NAME, data_dir=str(data_dir))
    found = mock.Mock(images_url=str(archives[0]), segmentations_url=str(archives[1]))
    with mock.patch.object(type(builder), "_caltech_birds_info", found):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=False
            )
        )


def compared(source: Path, data_dir: Path) -> tuple[Any, int]:
    """Loads the stored dataset and counts the photos, all equal to the folder's.

    Raises:
        AssertionError: If class names, splits, labels or pixels differ from the folder.
    """
    from keras_apinet import data

    stored = data.load(f"tfds:{NAME}", data_dir=data_dir, validation=None)
    folder = data.load(str(source), validation=None)
    classes = len(np.unique(stored.splits["train"].labels))
    count = 0
    for name in ("train", "test"):
        found = []
        for split in (stored.splits[name], folder.splits[name]):
            rows = np.flatnonzero(split.labels < classes).tolist()
            pixels = [hashlib.sha256(split.read(i)).hexdigest() for i in rows]
            found.append(sorted(zip(pixels, split.labels[rows].tolist(), strict=True)))
        assert found[0] == found[1], name
        count += len(found[0])
    return stored, count


def trained(stored: Any, weights: str, image_size: int) -> Any:
    """Trains a model with `model.fit` for one epoch; returns it and the history."""
    import keras

    import keras_apinet
    from keras_apinet import data
    from keras_apinet.losses import PairwiseLoss

    model = keras_apinet.build(
        "efficientnet_lite0",
        num_classes=len(stored.class_names),
        image_size=image_size,
        weights=weights,
        freeze_fraction=0.75,
        batch_norm="inference",
        seed=0,
    )
    batches = data.balanced_batches(
        stored.splits["train"],
        classes_per_batch=min(12, len(np.unique(stored.splits["train"].labels))),
        images_per_class=4,
        image_size=image_size,
    )
    model.compile(keras.optimizers.AdamW(1e-3, clipnorm=1.0), loss=PairwiseLoss())
    with batches.report:
        history = model.fit(batches, epochs=1, verbose=0)
    return model, history.history


def main() -> None:
    """Writes the archives, runs the builder, compares, trains and records."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--work", required=True, type=Path, help="needs 2 GB")
    parser.add_argument("--image-size", type=int, default=128)
    args = parser.parse_args()

    began = time.perf_counter()
    prepare(write_archives(args.data, args.work), args.work / "tfds")
    prepared = time.perf_counter()
    stored, count = compared(args.data, args.work / "tfds")
    began_fit = time.perf_counter()
    _, history = trained(stored, args.weights, args.image_size)
    ended = time.perf_counter()
    record(
        "tfds_birds",
        "The TensorFlow Datasets builder caltech_birds2011, compared with the folder",
        ["what", "figure"],
        [
            ["photos with the folder's label and split", f"{count:,}"],
            ["archives and builder, minutes", f"{(prepared - began) / 60:.1f}"],
            ["an epoch of model.fit, minutes", f"{(ended - began_fit) / 60:.1f}"],
            ["accuracy of the epoch's pairs, %", f"{100 * history['accuracy'][0]:.1f}"],
        ],
        f"EfficientNet-Lite0 at {args.image_size} px, three quarters frozen, 12 x 4 "
        "images a batch. The photos are compared by their decoded pixels.",
    )


if __name__ == "__main__":
    main()
