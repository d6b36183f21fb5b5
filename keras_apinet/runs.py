"""The run folder: everything one training leaves behind, read and written here only.

```
run.json      settings, class names, data set, versions
best.keras    the model of the highest validation accuracy
last.keras    the model after the last epoch
log.csv       one line for each epoch in which all layers learn
training.json best epoch and its validation accuracy, once the training has ended
log_head.csv  one line for each epoch of the head phase, if there is one
checkpoints/  what a training goes on from, see `train.checkpoints`
run.lock      locked while a training writes here
held_out.json the photos that were held out of the training images
calibration.json  the best model's temperature, what it was fitted on, and a fingerprint
              of the weights; that of the last model is in `calibration_last.json`
*.json        what later commands add: metrics
```

A run begins in a new or empty folder, so these names are its own; it replaces and
deletes nothing else.
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
# Settings that are tables of photos.
TABLES = ("exclude", "relabel")
HELD_OUT = "held_out.json"
_SPLITS = ("train", "val", "test")
__all__ = ["Run", "check_new", "only_writer", "write_atomically"]


def check_new(folder: str | Path) -> None:
    """Checks that a run may begin in a folder: it is new, or empty."""
    folder = Path(folder)
    if (folder / DESCRIPTION).exists():
        raise APINetError(
            f"The folder {str(folder)!r} holds a run already; give another --out, "
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
    # What a training that was killed while it began has left is no obstacle.
    others = [name for name in found if name != LOCK and not io.is_partial(name)]
    if others:
        raise APINetError(
            f"The folder {str(folder)!r} is not empty and no run ({others[0]!r} is in "
            "it); give a new or an empty folder as --out."
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
    """Makes this process the only one that trains in a run folder.

    The operating system holds the lock, so it ends with the process, however that ends.

    Raises:
        APINetError: If another process trains there, or the folder has no locks.
    """
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(Path(folder) / LOCK, timeout=0).acquire()
    except Timeout as error:
        raise APINetError(
            f"Another process trains in {str(folder)!r}; wait until it has ended, or "
            "stop it."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise APINetError(
            f"The run folder {str(folder)!r} cannot be locked ({reason(error)}); give "
            "a folder that can be written, on a file system with locks."
        ) from error
    with lock:
        yield


def drop_figures(run: "Run") -> None:
    """Removes what was measured on the run's models, which are about to change."""
    kinds = [f"{k}_{s}.json" for k in ("evaluation", "open") for s in _SPLITS]
    for name in ("advice.json", *kinds):
        if _is_ours(run.folder / name, {}):
            (run.folder / name).unlink()
    (run.folder / FIGURES).unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """One training's folder.

    Attributes:
        folder: Where it lies.
        description: What `run.json` says: `settings`, `class_names`, `image_size` px,
            `data`, `versions`.
    """

    folder: Path
    description: dict[str, Any]

    @classmethod
    def create(cls, folder: str | Path, description: dict[str, Any]) -> "Run":
        """Starts a new run folder; an existing folder has to be empty.

        Raises:
            APINetError: For a folder that holds anything, or that cannot be written.
        """
        folder = Path(folder)
        check_new(folder)
        advice = "give another --out, or free some space"
        with io.unwritable(folder, advice):
            folder.mkdir(parents=True, exist_ok=True)
        # Of several that begin here at once, one gets the lock.
        with only_writer(folder):
            check_new(folder)
            io.sweep(folder, again=True)
            text = schema.to_json(description) + "\n"
            write_atomically(folder / DESCRIPTION, text, advice=advice, exclusive=True)
        return cls(folder, description)

    @classmethod
    def open(cls, folder: "Run | str | Path") -> "Run":
        """The run in a folder; a run itself is returned as it is."""
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
        """The run that a model's file lies in, and which of its models that is."""
        path = Path(file)
        described = path.parent / DESCRIPTION
        if path.name not in ("best.keras", "last.keras") or not described.is_file():
            return None
        text = described.read_text("utf-8", "replace")
        if '"settings"' not in text and '"class_names"' not in text:
            return None  # a file of somebody else
        return cls.open(path.parent), path.stem

    @property
    def settings(self) -> dict[str, Any]:
        """What the training was told."""
        return dict(self.description["settings"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return [printable(name) for name in self.description["class_names"]]

    @property
    def image_size(self) -> int:
        """Height and width of the model's images, px."""
        return int(self.description["image_size"])

    def model(self, which: str = "best") -> "APINet":
        """The trained model, `"best"` or `"last"`."""
        from keras_apinet.loading import load

        return load(self.folder, which)

    def data(self, name: str | None = None, data_dir: str | None = None) -> "ImageData":
        """The data set as the training saw it, with the same split, moved or not."""
        from keras_apinet import data
        from keras_apinet.data.holdout import hold_out_again

        # Runs that do not say how they grouped drew each image by itself.
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
        # Drawn again, the split holds other photos once some have come or gone.
        whole = data.load(name or recorded, **{**options, "validation": None})
        again = hold_out_again(whole, kept["photos"])
        return replace(again or images, held_out=known.get("held_out"))

    def keep_data(self, images: "ImageData") -> None:
        """Keeps what the splits of the data depend on, for `data` to find."""
        from keras_apinet.data.holdout import held_out_photos

        for name in TABLES:
            table = Path(self.settings.get(name) or "")
            if table.is_file():
                write_atomically(self.folder / f"{name}.csv", table.read_bytes())
        if images.held_out:
            self.write(HELD_OUT, {"photos": held_out_photos(images)})
        else:  # another split than before
            (self.folder / HELD_OUT).unlink(missing_ok=True)

    def read(self, name: str) -> Any:
        """The content of a JSON file of the run, `None` if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        return schema.read_json(path, shape_of(name), remedy_for(name))

    def calibration(self, which: str, model: "APINet") -> dict[str, Any] | None:
        """What is known of a model's temperature, not of other weights; or `None`."""
        known = self.read(file_of(CALIBRATION, which))
        # Without a fingerprint somebody wrote it by hand, and means it.
        if known and known.get("weights") in (None, weights_fingerprint(model)):
            return dict(known)
        return None

    def temperature(self, which: str, model: "APINet") -> float:
        """What to divide a model's logits by; 1 where nothing is known of it."""
        return float((self.calibration(which, model) or {}).get("temperature", 1.0))

    def write(self, name: str, content: dict[str, Any]) -> Path:
        """Writes a JSON file into the run folder, in place of an earlier one."""
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
    """Whether a file holds what this package writes under its name.

    That is what the name's schema says, or an object with half of the same keys.
    """
    if path.is_symlink() or not path.is_file():
        return False
    shape = shape_of(path.name)
    try:
        found = schema.read_json(path, shape or {...: object})
    except (APINetError, OSError):
        return False
    return bool(shape) or 2 * len(found.keys() & content.keys()) >= len(content)
