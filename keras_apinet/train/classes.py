"""Adds, removes or merges the classes of a run, as a new run.

The original run stores the features of its photos, so a change takes seconds. The new
run has its own table of photos, `photos.csv`, and a checkpoint, so it can be evaluated,
exported and resumed like any other.
"""

import csv
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_apinet import data
from keras_apinet.data.holdout import hold_out
from keras_apinet.data.photos.files import cell
from keras_apinet.data.sources.tables import in_order
from keras_apinet.errors import APINetError, distinct_names, printable
from keras_apinet.evaluate.evaluation import open_data
from keras_apinet.files.features import (
    FEATURES,
    Features,
    features_fingerprint,
    write_features,
)
from keras_apinet.files.io import hand_over, partial_folder, unwritable
from keras_apinet.files.sealing import save_atomically
from keras_apinet.open_world.changes import (
    Change,
    check_fresh,
    check_known,
    joined,
    judged,
    listed,
    origins,
    readable,
    relabelled,
)
from keras_apinet.open_world.features import photo_features, run_features
from keras_apinet.open_world.heads import with_classes
from keras_apinet.runs import FIGURES, Run, check_new
from keras_apinet.train import checkpoints
from keras_apinet.train.devices import Devices, place
from keras_apinet.train.optimization import peak_rate, schedule
from keras_apinet.train.progress import Console
from keras_apinet.train.recipe import BEFORE, Recipe
from keras_apinet.train.setup import Setup

TABLE = "photos.csv"
# Data settings that no longer apply once the photos are in a table.
_SOURCE = ("level", "data_dir", "exclude", "relabel")


def add_classes(
    run: Run | str | Path,
    photos: "data.ImageData | str | Path | Mapping[str, Sequence[str]]",
    out: str | Path,
    *,
    refit: bool = True,
    data_dir: str | None = None,
    moved: str | None = None,
) -> Change:
    """Adds classes to a run from a few photos each, without training the backbone.

    Args:
        run: The run, or its folder; it is not changed.
        photos: A mapping from class to photos, or a folder with one subfolder per
            class. If the run has a validation split, the same fraction is held out.
        out: Folder of the new run, which must be new or empty.
        refit: Whether to fit the head to the class-balanced features of all photos
            after imprinting the new weights. Defaults to True.
        data_dir: New location of TensorFlow Datasets data, if moved.
        moved: New location of the run's data, if moved.

    Returns:
        The new run, with the accuracy before and after the change.

    Raises:
        APINetError: For a class that the run already has, unreadable photos, or an
            `out` that is not empty.
    """
    run = Run.open(run)
    check_new(out)
    if isinstance(photos, Mapping):
        photos = listed(photos)
    elif not isinstance(photos, data.ImageData):
        photos = data.load(photos, validation=None)
    photos = readable(photos)
    known = [name for name in photos.class_names if name in run.class_names]
    if known:
        raise APINetError(
            f"The run {str(run.folder)!r} already has a class {known[0]!r}; give the "
            "new class another name, or remove the existing one first."
        )
    images = open_data(run, moved, data_dir)
    if "train" not in photos.splits:
        raise APINetError(f"{photos.name!r} has no training photos; add some.")
    check_fresh(run, images, photos)
    if "val" in images.splits:
        share = run.settings.get("validation") or 0.1
        photos = hold_out(photos, validation=share, seed=0)
    wanted: dict[str, tuple[str, ...]] = {name: (name,) for name in run.class_names}
    return _changed(run, images, photos, wanted, out, refit)


def remove_classes(
    run: Run | str | Path,
    names: Sequence[str],
    out: str | Path,
    *,
    refit: bool = True,
    data_dir: str | None = None,
    moved: str | None = None,
) -> Change:
    """Removes classes from a run; see `add_classes`."""
    run = Run.open(run)
    check_new(out)
    check_known(run, names)
    wanted = {name: (name,) for name in run.class_names if name not in names}
    images = open_data(run, moved, data_dir)
    return _changed(run, images, None, wanted, out, refit)


def merge_classes(
    run: Run | str | Path,
    names: Sequence[str],
    into: str,
    out: str | Path,
    *,
    refit: bool = True,
    data_dir: str | None = None,
    moved: str | None = None,
) -> Change:
    """Merges several classes of a run into one, `into`; see `add_classes`."""
    run = Run.open(run)
    check_new(out)
    check_known(run, names)
    if len(set(names)) < 2:
        raise APINetError(f"Only one class to merge, {names[0]!r}; give at least two.")
    into = printable(cell(into))
    if into in run.class_names and into not in names:
        raise APINetError(
            f"The run {str(run.folder)!r} already has a class {into!r}; give another "
            "name, or merge it too."
        )
    wanted: dict[str, tuple[str, ...]] = {
        n: (n,) for n in run.class_names if n not in names
    }
    wanted[into] = tuple(dict.fromkeys(names))
    return _changed(run, open_data(run, moved, data_dir), None, wanted, out, refit)


def _changed(
    run: Run,
    images: "data.ImageData",
    more: "data.ImageData | None",
    wanted: Mapping[str, tuple[str, ...]],
    out: str | Path,
    refit: bool,
) -> Change:
    """Writes the new run: classes `wanted` from existing ones, and those of `more`."""
    if run.settings.get("box_crop"):
        raise APINetError(
            "box_crop=True: the run crops to boxes, which a table of photos cannot "
            "store; train without --box-crop."
        )
    out, model = Path(out).absolute(), run.model()
    stored = run_features(run, model, images, splits=("train", "val", "test"))
    parts = {} if more is None else more.splits
    new = {name: photo_features(run, model, part) for name, part in parts.items()}
    # Names and order as in the new table of photos.
    kept, added = (
        [printable(cell(name)) for name in group]
        for group in (wanted, more.class_names if more else ())
    )
    if "" in (*kept, *added):
        raise APINetError(
            "A class name with only quotes and spaces cannot be stored in a table; "
            "give the class another name."
        )
    names = in_order(distinct_names([*kept, *added]))
    wanted = dict(zip(kept, wanted.values(), strict=True))
    place_of = {part: names.index(n) for n, parts in wanted.items() for part in parts}
    old_to_new = np.array([place_of.get(n, -1) for n in run.class_names])
    splits = {split: relabelled(had, old_to_new) for split, had in stored.items()}
    if more is not None:
        to = np.array([names.index(name) for name in added])
        for split, part in new.items():
            splits[split] = joined(splits.get(split), part, to)
    splits = {s: part for s, part in splits.items() if len(part) or s == "train"}
    train = splits["train"]
    merged = {n: p for n, p in wanted.items() if p != (n,)}
    changed = with_classes(
        model, names, train.features, train.labels, merged=merged, refit=refit
    )
    photos = len(new["train"]) if new else 0
    held_out = (stored.get("val"), splits.get("val"))
    change = judged(run, photos, model, changed, *held_out, old_to_new)
    with unwritable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(out.parent) as room:
            folder = room / "run"
            folder.mkdir()
            _write(run, images, more, changed, splits, folder, out, names, change)
            check_new(out)  # it may exist by now
            hand_over(folder, out)
    return replace(change, run=Run.open(out))


def _is_plain(path: str) -> bool:
    """Whether a path survives a round trip through a table."""
    text = path.encode("utf-8", "replace").decode()
    return cell(path) == path == text == " ".join(path.splitlines())


def _write(
    run: Run,
    images: "data.ImageData",
    more: "data.ImageData | None",
    model: Any,
    splits: Mapping[str, Features],
    folder: Path,
    out: Path,
    names: Sequence[str],
    change: Change,
) -> None:
    """Writes all files of the new run folder."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("path", "label", "split"))
    for split, part in splits.items():
        found = origins((images, more), split)
        for i, name in enumerate(part.names):
            path = os.path.abspath(name)
            # Copy photos that are not files, or whose path a table cannot hold.
            if not os.path.isfile(name) or not _is_plain(path):
                (folder / "photos").mkdir(exist_ok=True)
                path = f"photos/{split}-{i}.png"
                Image.fromarray(found[name]()).save(folder / path)
            table.writerow((path, names[part.labels[i]], split))
    (folder / TABLE).write_text(text.getvalue(), "utf-8")
    settings = {**BEFORE, **run.settings, "data": str(out / TABLE), "group_by": "none"}
    recipe = Recipe.of({**settings, **dict.fromkeys(_SOURCE)}, "the run")
    load: dict[str, Any] = {
        "name": str(folder / TABLE),
        "validation": recipe.validation if "val" in splits else 0.0,
        "group_by": "none",
        "seed": recipe.seed,
    }
    recipe = replace(recipe, validation=load["validation"])
    there = data.load(**load)
    if list(there.class_names) != list(names):
        lost = sorted({*names} - {*there.class_names})
        raise APINetError(
            f"The new run's table of photos cannot store the classes {lost}: they have "
            "no photos, or names that a table cannot hold; rename or remove them."
        )
    load["name"] = str(out / TABLE)
    with place(Devices()) as placement:
        setup = Setup(
            recipe, there, load, model, run.image_size, placement, Console("quiet")
        )
        plan = setup.batches().plan
        rate = schedule(
            recipe, peak_rate(recipe, model), max(1, recipe.epochs * plan.epoch_steps)
        )
        for name in ("best", "last"):
            save_atomically(model, folder / f"{name}.keras")
        setup.compile(rate)
        progress = checkpoints.Progress(epoch=recipe.epochs, ended=True)
        if change.accuracy is not None:
            progress.best, progress.best_epoch = (change.accuracy, -1e9), recipe.epochs
        checkpoints.save(folder, checkpoints.values_of(model), progress, 1)
        description = setup.description()
    made = Run(folder, description)
    made.write("run.json", description)
    figures = {"best_epoch": recipe.epochs, "val_accuracy": change.accuracy}
    made.write(FIGURES, figures)
    figures = {name: value for name, value in vars(change).items() if name != "run"}
    made.write("change.json", {"from": str(run.folder.absolute()), **figures})
    for name in ("log_head.csv", "log.csv"):
        if (run.folder / name).is_file():
            shutil.copy(run.folder / name, folder / name)
    mark = features_fingerprint(made, model, there)
    write_features(folder / FEATURES, mark, splits)
