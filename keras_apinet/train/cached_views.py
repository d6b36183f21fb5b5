"""Cached outputs of the frozen layers for several views of every image.

With frozen layers, training would recompute the same activations in every epoch. With
`cached_views=8`, eight augmented views of each training image pass through the frozen
layers once, the outputs are stored in a file (float16), and the remaining layers train
on them.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.data.batches import stored_batches
from keras_apinet.data.pipeline import with_account
from keras_apinet.errors import APINetError
from keras_apinet.files import schema
from keras_apinet.files.bounds import COUNT
from keras_apinet.files.io import (
    digest_of,
    replacing,
    unwritable,
    write_atomically,
)
from keras_apinet.progress import phase
from keras_apinet.types import Dataset

if TYPE_CHECKING:
    from keras_apinet.train.setup import Setup

# Schema of the JSON file beside the arrays.
_SHAPE = {"sha256": str, "failed": {...: str}, "rows": [COUNT]}
# Settings that the stored arrays depend on; runs that share them may differ in others.
_SETTINGS = (
    *("backbone", "freeze_fraction", "augmentation", "cached_views"),
    *("resize", "box_crop", "dtype"),
)
_NOTES = re.compile(r"views-[0-9a-f]{16}\.json")
_ADVICE = "free some space, lower --cached-views, or set --cached-views 0"


@dataclass(frozen=True)
class StoredViews:
    """Cached views to draw training batches from.

    Attributes:
        setup: The training setup.
        arrays: `[V, n, ...]` float16, memory-mapped.
        labels: `[n]`, the classes of the readable images.
        failed: Unreadable images, with the reason.
    """

    setup: "Setup"
    arrays: NDArray[np.float16]
    labels: NDArray[np.int32]
    failed: dict[str, str]

    def batches(self, start_step: int = 0) -> Dataset:
        """The training batches from a step on, like `Setup.batches`."""
        split = self.setup.images.splits["train"]
        report = data.ReadingReport(split, "skip")
        report.failed.update(self.failed)
        plan = self.setup.plan(self.labels)
        batches = stored_batches(self.arrays, self.labels, plan, report, start_step)
        named = batches.map(lambda arrays, labels: ({"frozen": arrays}, labels))
        return with_account(named, plan=plan, report=report)


def stored_views(setup: "Setup", folder: Path) -> StoredViews:
    """Loads the cached views of a setup from a folder, or computes them."""
    if setup.placement.processes > 1:
        raise APINetError(
            f"cached_views={setup.recipe.cached_views} requires a single process, but "
            f"there are {setup.placement.processes}; set cached_views=0."
        )
    model = setup.model.frozen_model()
    path = folder / f"views-{_key(setup, model)}.npy"
    notes = path.with_suffix(".json")
    found = _notes(notes)
    arrays = _opened(path, found, model)
    if found is None or arrays is None:
        if notes.exists():
            setup.say(f"The views in {path.name} are damaged; recomputing them.")
        with unwritable(path, _ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            failed, rows = _compute(setup, model, path)
            found = {"failed": failed, "rows": rows, "sha256": digest_of(path)}
            write_atomically(notes, schema.to_json(found, None), advice=_ADVICE)
            arrays = np.load(path, mmap_mode="r", allow_pickle=False)
    labels = setup.images.splits["train"].labels[np.array(found["rows"])]
    return StoredViews(setup, arrays, labels, found["failed"])


def stored_validation(setup: "Setup", batches: Any) -> Any:
    """Validation batches with cached `{"frozen": x}` in place of the images.

    Returns the batches unchanged if x would take more than 1 GiB.
    """
    model, count = setup.model.frozen_model(), len(setup.images.splits["val"])
    if count * int(np.prod(model.output_shape[1:])) * 4 > 2**30:
        return batches
    frozen_of, found, done = predictor(setup, model, 64), [], 0
    with batches.report, phase("Preparing validation", count, "images") as shown:
        for images, labels in batches:
            found.append(({"frozen": frozen_of(images)}, np.asarray(labels)))
            done += len(labels)
            shown(done)
    return _InMemory(found, batches.report)


class _InMemory(keras.utils.PyDataset):
    def __init__(self, batches: list[Any], report: data.ReadingReport) -> None:
        super().__init__()
        self.batches, self.report = batches, report

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Any:
        return self.batches[step]


def are_stored(setup: "Setup") -> bool:
    """Whether the recipe's `cached_views_dir` already holds the views of a setup."""
    folder = setup.recipe.cached_views_dir
    name = f"views-{_key(setup, setup.model.frozen_model())}.json"
    return folder is not None and _notes(Path(folder, name)) is not None


def remove_views(folder: Path) -> None:
    """Removes cached views from a run folder, and nothing else."""
    for notes in folder.glob("views-*.json"):
        if _NOTES.fullmatch(notes.name) and _notes(notes) is not None:
            notes.with_suffix(".npy").unlink(missing_ok=True)
            notes.unlink(missing_ok=True)


def _notes(path: Path) -> dict[str, Any] | None:
    """The description of stored views; `None` if the file is missing or invalid."""
    try:
        found: dict[str, Any] = schema.read_json(path, _SHAPE)
    except (APINetError, OSError):
        return None
    return found


def _opened(
    path: Path, notes: dict[str, Any] | None, model: keras.Model
) -> NDArray[np.float16] | None:
    """Stored views; `None` if they do not match their description."""
    try:
        if notes is None or digest_of(path) != notes["sha256"]:
            return None
        arrays: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    shape = (len(notes["rows"]), *model.output_shape[1:])
    return arrays if arrays.shape[1:] == shape and arrays.dtype == "<f2" else None


def _compute(
    setup: "Setup", model: keras.Model, path: Path
) -> tuple[dict[str, str], list[int]]:
    """Writes the file; returns unreadable images and the indices of the others."""
    recipe, split = setup.recipe, setup.images.splits["train"]
    shape = (len(split), *model.output_shape[1:])
    size = recipe.cached_views * int(np.prod(shape)) * 2
    setup.say(
        f"Computing views: {recipe.cached_views} views of {len(split):,} images, "
        f"{size / 1e6:,.0f} MB"
    )
    if size > shutil.disk_usage(path.parent).free:
        raise OSError(28, "No space left on device")
    failed: dict[str, str] = {}
    rows = list(range(len(split)))
    with replacing(path, advice=_ADVICE) as partial:
        # If unreadable images turn up, start over without them.
        while found := _write(setup, model, split.take(np.array(rows)), partial):
            failed.update(found)
            rows = [i for i in rows if split.reference(i) not in found]
    return failed, rows


def _write(
    setup: "Setup", model: keras.Model, split: data.Split, path: Path
) -> dict[str, str]:
    """Writes all views of all images, or stops early; returns unreadable images."""
    recipe = setup.recipe
    shape = (recipe.cached_views, len(split), *model.output_shape[1:])
    batches, size = setup.in_order(
        split,
        images=16,
        on_error="skip",
        augmentation=recipe.augmentation,
        views=shape[0],
    )
    predict, done = predictor(setup, model, size), 0
    shown = phase("Computing views", shape[0] * shape[1], "views")
    with path.open("wb") as file, batches.report, shown as moved:
        # Writing to a memory map on a full disk would crash the process.
        described = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
        start, each = file.tell(), 2 * int(np.prod(shape[2:]))
        for images, labels in batches:
            if batches.report.failed:
                break  # later rows would be misplaced
            for view in range(shape[0]):
                file.seek(start + each * (view * shape[1] + done))
                file.write(half(predict(images[:, view])).tobytes())
            done += len(labels)
            moved(shape[0] * done)
    return dict(batches.report.failed)


def predictor(
    setup: "Setup", model: keras.Model, size: int
) -> Callable[[Any], NDArray[np.float32]]:
    """Returns a fast prediction function for batches of images.

    It uses the current weights of the model. With several devices, shorter batches are
    padded to `size`.
    """
    shares, run = setup.placement.shares, model.predict_on_batch
    if keras.backend.backend() == "tensorflow":
        run = _joined(model, setup.placement.replicas or [""])

    def predict(images: Any) -> NDArray[np.float32]:
        pixels = np.asarray(images)
        filled = np.resize(pixels, (size, *pixels.shape[1:])) if shares > 1 else pixels
        found = keras.ops.convert_to_numpy(run(filled))
        return np.asarray(found[: len(pixels)], "float32")

    return predict


def _joined(model: keras.Model, devices: Sequence[str]) -> Callable[[Any], Any]:
    """A model with constant weights that splits the images over the devices.

    Constant weights let TensorFlow fuse convolution, normalization and activation,
    which saves a quarter of the time.
    """
    lists = model.trainable_variables, model.non_trainable_variables
    weights = [[keras.ops.convert_to_numpy(v) for v in some] for some in lists]
    part = tf.function(
        lambda images: model.stateless_call(*weights, images, training=False)[0],
        reduce_retracing=True,
    )

    def whole(images: NDArray[Any]) -> Any:
        found = []
        for device, own in zip(devices, np.split(images, len(devices)), strict=True):
            with tf.device(device):
                found.append(part(own))
        return tf.concat(found, 0)

    return whole


def half(values: NDArray[Any]) -> NDArray[np.float16]:
    """Converts values to float16; raises an `APINetError` on overflow."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise APINetError(
            f"The frozen layers output values up to {np.abs(values).max():.3g}, which "
            "overflow float16; set --cached-views 0."
        )
    return half


def _key(setup: "Setup", model: keras.Model) -> str:
    """A hash (16 hexadecimal digits) of everything that the views depend on."""
    settings = {name: getattr(setup.recipe, name) for name in _SETTINGS}
    facts = {
        **settings,
        "algorithm": 2,  # version of the sampling; 1 decoded each photo per view
        "image_size": setup.image_size,
        "shape": model.output_shape[1:],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update(setup.images.fingerprint().encode())
    # Detects replaced photos.
    digest.update(setup.images.stamps().encode())
    for values in model.get_weights():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
