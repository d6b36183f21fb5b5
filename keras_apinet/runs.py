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
*.json        what later commands add: metrics, temperature
```

`calibration.json` holds the temperature of the best model and `calibration_last.json`
that of the last, with what it was fitted on and a fingerprint of the weights.

A run begins in a new or empty folder, so these names are its own; it replaces and
deletes nothing else.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_apinet.errors import APINetError, printable, reason
from keras_apinet.files import io, schema
from keras_apinet.files.io import write_atomically
from keras_apinet.files.run_shapes import remedy_for, shape_of
from keras_apinet.files.schema import with_new_names

if TYPE_CHECKING:
    from keras_apinet.data import ImageData
    from keras_apinet.model.apinet import APINet

DESCRIPTION, LOCK = "run.json", "run.lock"
# Best epoch and validation accuracy; written when a training has ended.
FIGURES = "training.json"
# Settings that are tables of photos.
TABLES = ("exclude", "relabel")
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

    lock = FileLock(Path(folder) / LOCK, timeout=0)
    try:
        lock.acquire()
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
    try:
        yield
    finally:
        lock.release()


def calibration_file(which: str) -> str:
    """Where a run keeps the temperature of its `"best"` or `"last"` model."""
    return "calibration.json" if which == "best" else f"calibration_{which}.json"


def weights_fingerprint(model: "APINet", head: bool = True) -> str:
    """16 hexadecimal digits that change with any weight that predictions depend on.

    Without the head they are those of features.
    """
    from keras import ops

    digest = hashlib.sha256()
    head_weights = model.classifier.weights if head else []
    for weight in (*model.backbone.weights, *head_weights):
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()[:16]


def features_fingerprint(run: "Run", model: "APINet", images: "ImageData") -> str:
    """Changes with backbone, photos (also one replaced), preparation and classes."""
    settings = run.settings
    parts = (
        weights_fingerprint(model, head=False),
        images.fingerprint(),
        images.stamps(),
        (run.image_size, settings.get("resize", "fit"), settings.get("box_crop")),
        run.class_names,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


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
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
        # Of several that begin here at once, one gets the lock.
        with only_writer(folder):
            check_new(folder)
            io.sweep(folder, again=True)
            text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
            path = folder / DESCRIPTION
            write_atomically(path, text, advice=advice, exclusive=True)
        return cls(folder, description)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder."""
        folder = Path(folder)
        if not (folder / DESCRIPTION).is_file():
            raise APINetError(
                f"There is no run in {str(folder)!r} (no {DESCRIPTION}); give the "
                "--out folder of `keras-apinet train`."
            )
        path = folder / DESCRIPTION
        description = schema.read_json(path, shape_of(DESCRIPTION))
        description["settings"] = with_new_names(description["settings"])
        return cls(folder, {"data": {}, "versions": {}, **description})

    @classmethod
    def of_model(cls, file: str | Path) -> "tuple[Run, str] | None":
        """The run that a model's file lies in, and which of its models that is."""
        path = Path(file)
        is_model = path.suffix == ".keras" and path.stem in ("best", "last")
        if not is_model or not (path.parent / DESCRIPTION).is_file():
            return None
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
        for table in TABLES:  # a copy, for the day when the table is gone
            kept = self.folder / f"{table}.csv"
            if options.get(table) and kept.is_file():
                options[table] = str(kept)
        return data.load(name or recorded, **options)

    def read(self, name: str) -> Any:
        """The content of a JSON file of the run, `None` if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        return schema.read_json(path, shape_of(name), remedy_for(name))

    def calibration(self, which: str, model: "APINet") -> dict[str, Any] | None:
        """What is known of a model's temperature, not of other weights; or `None`."""
        name = calibration_file(which)
        known = self.read(name)
        if known is None:
            return None
        # Without a fingerprint somebody wrote it by hand, and means it.
        if known.get("weights") not in (None, weights_fingerprint(model)):
            return None
        return dict(known)

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
