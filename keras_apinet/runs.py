"""The run folder: all files of a training run, read and written only here.

```
run.json      settings, class names, data set, versions
best.keras    the model with the highest validation accuracy
last.keras    the model after the last epoch
log.csv       one line per epoch of training all layers
training.json best epoch and its validation accuracy, once training has ended
log_head.csv  one line per epoch of the head phase, if there is one
checkpoints/  checkpoints to resume from; see `train.checkpoints`
run.lock      locked during training
held_out.json the photos held out from the training images
calibration.json  temperature of the best model, with the data it was fitted on and a
              fingerprint of the weights; `calibration_last.json` for the last model
*.json        output of later commands: metrics
```

A run starts in a new or empty folder, so it owns these names; it never replaces or
deletes other files.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_apinet.errors import APINetError, printable, reason
from keras_apinet.files import io, schema
from keras_apinet.files.features import weights_fingerprint
from keras_apinet.files.io import write_atomically
from keras_apinet.files.run_shapes import file_of, remedy_for, shape_of
from keras_apinet.files.schema import with_new_names

if TYPE_CHECKING:
    from keras_apinet.data import ImageData
    from keras_apinet.model.apinet import APINet

DESCRIPTION, LOCK = "run.json", "run.lock"
FIGURES, CALIBRATION = "training.json", "calibration.json"
# Settings that name tables of photos.
TABLES = ("exclude", "relabel")
HELD_OUT = "held_out.json"
_SPLITS = ("train", "val", "test")
__all__ = ["Run", "check_new", "only_writer", "write_atomically"]


def check_new(folder: str | Path) -> None:
    """Checks that a folder is new or empty, so that a run can start in it."""
    folder = Path(folder)
    if (folder / DESCRIPTION).exists():
        raise APINetError(
            f"The folder {str(folder)!r} already contains a run; give another --out, "
            "or remove it first."
        )
    if not os.path.lexists(folder):
        return
    try:
        found = sorted(os.listdir(folder))
    except OSError as error:
        raise APINetError(
            f"The run folder {str(folder)!r} cannot be written ({reason(error)}); "
            "give another --out."
        ) from error
    # Ignore files left by a run that was killed at startup.
    others = [name for name in found if name != LOCK and not io.is_partial(name)]
    if others:
        raise APINetError(
            f"The folder {str(folder)!r} is not empty (it contains {others[0]!r}); "
            "give a new or empty folder as --out."
        )


def check_classes(runs: Sequence["Run"]) -> None:
    """Checks that runs have the same classes in the same order."""
    for run in runs[1:]:
        if tuple(run.class_names) != tuple(runs[0].class_names):
            raise APINetError(
                f"The runs {str(runs[0].folder)!r} and {str(run.folder)!r} have "
                f"different classes ({len(runs[0].class_names)} and "
                f"{len(run.class_names)}); compare runs of one data set."
            )


@contextlib.contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Locks a run folder, so that only this process trains in it.

    The operating system releases the lock when the process ends, even after a crash.

    Raises:
        APINetError: If another process trains there, or locks are not supported.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(Path(folder) / LOCK, timeout=0).acquire()
    except Timeout as error:
        raise APINetError(
            f"Another process is training in {str(folder)!r}; wait until it ends, or "
            "stop it."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise APINetError(
            f"The run folder {str(folder)!r} cannot be locked ({reason(error)}); use a "
            "writable folder on a file system that supports locks."
        ) from error
    with lock:
        yield


def drop_figures(run: "Run") -> None:
    """Removes measurements of the run's models, which are about to change."""
    kinds = [f"{k}_{s}.json" for k in ("evaluation", "open") for s in _SPLITS]
    for name in ("advice.json", *kinds):
        if _is_ours(run.folder / name, {}):
            (run.folder / name).unlink()
    (run.folder / FIGURES).unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: Path of the folder.
        description: Content of `run.json`: `settings`, `class_names`, `image_size` px,
            `data`, `versions`.
    """

    folder: Path
    description: dict[str, Any]

    @classmethod
    def create(cls, folder: str | Path, description: dict[str, Any]) -> "Run":
        """Creates a run folder; raises an error if it exists and is not empty."""
        folder = Path(folder)
        check_new(folder)
        advice = "give another --out, or free some space"
        with io.unwritable(folder, advice):
            folder.mkdir(parents=True, exist_ok=True)
        # Of several runs that start here at once, one gets the lock.
        with only_writer(folder):
            check_new(folder)
            io.sweep(folder, again=True)
            text = schema.to_json(description) + "\n"
            write_atomically(folder / DESCRIPTION, text, advice=advice, exclusive=True)
        return cls(folder, description)

    @classmethod
    def open(cls, folder: "Run | str | Path") -> "Run":
        """Opens the run in a folder; a `Run` is returned as it is."""
        if isinstance(folder, Run):
            return folder
        path = Path(folder, DESCRIPTION)
        if not path.is_file():
            raise APINetError(
                f"There is no run in {str(path.parent)!r} (no {DESCRIPTION}); give the "
                "--out folder of `keras-apinet train`."
            )
        description = schema.read_json(path, shape_of(DESCRIPTION))
        description["settings"] = with_new_names(description["settings"])
        return cls(path.parent, {"data": {}, "versions": {}, **description})

    @classmethod
    def of_model(cls, file: str | Path) -> "tuple[Run, str] | None":
        """The run that contains a model file, and which of its models it is."""
        path = Path(file)
        described = path.parent / DESCRIPTION
        if path.name not in ("best.keras", "last.keras") or not described.is_file():
            return None
        text = described.read_text("utf-8", "replace")
        if '"settings"' not in text and '"class_names"' not in text:
            return None  # not a file of this package
        return cls.open(path.parent), path.stem

    @property
    def settings(self) -> dict[str, Any]:
        """The training settings."""
        return dict(self.description["settings"])

    @property
    def class_names(self) -> list[str]:
        """Class names, in the order of the labels."""
        return [printable(name) for name in self.description["class_names"]]

    @property
    def image_size(self) -> int:
        """Height and width of the model's images in px."""
        return int(self.description["image_size"])

    def model(self, which: str = "best") -> "APINet":
        """The trained model, `"best"` or `"last"`."""
        from keras_apinet.loading import load

        return load(self.folder, which)

    def data(self, name: str | None = None, data_dir: str | None = None) -> "ImageData":
        """Loads the data set, moved or not, with the same splits as in training."""
        from keras_apinet import data
        from keras_apinet.data.holdout import hold_out_again

        # Runs without this setting did not group images.
        options = {"group_by": "none", **self.description["data"].get("load", {})}
        recorded = options.pop("name", None)
        if name is None and recorded is None:
            raise APINetError(
                f"{str(self.folder / DESCRIPTION)!r} does not say where the data of "
                "this run is (data.load.name is missing); it is damaged."
            )
        if data_dir:
            options["data_dir"] = data_dir
        for table in TABLES:
            kept = self.folder / f"{table}.csv"
            if options.get(table) and kept.is_file():
                options[table] = str(kept)
        images, kept = data.load(name or recorded, **options), self.read(HELD_OUT)
        known = self.description["data"]
        if kept is None or known.get("fingerprint") in (None, images.fingerprint()):
            return images
        # If photos were added or removed, a new draw would hold out other photos.
        whole = data.load(name or recorded, **{**options, "validation": None})
        again = hold_out_again(whole, kept["photos"])
        return replace(again or images, held_out=known.get("held_out"))

    def keep_data(self, images: "ImageData") -> None:
        """Stores what the splits depend on, for `data` to restore them."""
        from keras_apinet.data.holdout import held_out_photos

        for name in TABLES:
            table = Path(self.settings.get(name) or "")
            if table.is_file():
                write_atomically(self.folder / f"{name}.csv", table.read_bytes())
        if images.held_out:
            self.write(HELD_OUT, {"photos": held_out_photos(images)})
        else:  # the split has changed
            (self.folder / HELD_OUT).unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        """Reads a JSON file of the run; returns `None` if it does not exist."""
        path = self.folder / name
        if not path.is_file():
            return None
        return schema.read_json(path, shape_of(name), remedy_for(name))

    def calibration(self, which: str, model: "APINet") -> dict[str, Any] | None:
        """The calibration of a model, or `None` if missing or of other weights."""
        known = self.read(file_of(CALIBRATION, which))
        # Without a fingerprint, it was written by hand on purpose.
        if known and known.get("weights") in (None, weights_fingerprint(model)):
            return dict(known)
        return None

    def temperature(self, which: str, model: "APINet") -> float:
        """Temperature to divide a model's logits by; 1 if it was not calibrated."""
        return float((self.calibration(which, model) or {}).get("temperature", 1.0))

    def write(self, name: str, content: dict[str, Any]) -> Path:
        """Writes a JSON file to the run folder, replacing an earlier one."""
        path = self.folder / name
        if os.path.lexists(path) and not _is_ours(path, content):
            raise APINetError(
                f"{str(path)!r} was not written by this package, so it is not "
                "replaced; rename it, or move it elsewhere."
            )
        text = schema.to_json(content) + "\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            write_atomically(path, text)
        return path


def _is_ours(path: Path, content: dict[str, Any]) -> bool:
    """Whether this package wrote a file, judging by its content.

    It must match the schema for its name, or be an object with half of the same keys.
    """
    if path.is_symlink() or not path.is_file():
        return False
    shape = shape_of(path.name)
    try:
        found = schema.read_json(path, shape or {...: object})
    except (APINetError, OSError):
        return False
    return bool(shape) or 2 * len(found.keys() & content.keys()) >= len(content)
