"""The run folder: everything one training leaves behind, read and written here only.

```
run.json      settings, class names, data set, versions
best.keras    the model of the highest validation accuracy
last.keras    the model after the last epoch
log.csv       one line for each epoch
*.json        what later commands add: metrics, temperature
```

`calibration.json` holds the temperature of the best model, `calibration_last.json` that
of the last, each with a fingerprint of the weights that it was fitted for:

```
temperature   what the logits are divided by
method        how it was fitted
images        validation images that it was fitted on
reason        why it is 1, if it is
weights       fingerprint of the model
```
"""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_apinet.errors import APINetError

if TYPE_CHECKING:
    from keras_apinet.data import ImageData
    from keras_apinet.model import APINet

DESCRIPTION = "run.json"


def write_atomically(path: str | Path, content: str | bytes | memoryview) -> None:
    """Writes a file so that nobody ever sees half of it.

    Args:
        path: The file; its folder must exist.
        content: Text (written as UTF-8) or bytes.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode("utf-8")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_atomically(model: Any, path: str | Path) -> None:
    """Saves a Keras model so that nobody ever sees half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.partial.keras")
    try:
        model.save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def calibration_file(which: str) -> str:
    """Where a run keeps the temperature of its `"best"` or `"last"` model."""
    return "calibration.json" if which == "best" else f"calibration_{which}.json"


def weights_fingerprint(model: "APINet") -> str:
    """16 hexadecimal digits that change with any weight that predictions depend on."""
    from keras import ops

    digest = hashlib.sha256()
    for weight in (*model.backbone.weights, *model.classifier.weights):
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()[:16]


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
        """Starts a new run folder; an existing run is never overwritten."""
        folder = Path(folder)
        if (folder / DESCRIPTION).exists():
            raise APINetError(
                f"The folder {str(folder)!r} holds a run already; give another --out, "
                "or remove it first."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, description)
            run.write(DESCRIPTION, description)
        except OSError as error:
            raise APINetError(
                f"The run folder {str(folder)!r} cannot be written "
                f"({error.strerror or error}); give another --out."
            ) from error
        return run

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder."""
        folder = Path(folder)
        if not (folder / DESCRIPTION).is_file():
            raise APINetError(
                f"There is no run in {str(folder)!r} (no {DESCRIPTION}); give the "
                "--out folder of `keras-apinet train`."
            )
        try:
            description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise APINetError(
                f"{str(folder / DESCRIPTION)!r} cannot be read ({error}); the run is "
                "damaged."
            ) from error
        return cls(folder, description)

    @property
    def settings(self) -> dict[str, Any]:
        """What the training was told."""
        return dict(self.description["settings"])

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels."""
        return list(self.description["class_names"])

    @property
    def image_size(self) -> int:
        """Height and width of the model's images, px."""
        return int(self.description["image_size"])

    def model(self, which: str = "best") -> "APINet":
        """The trained model, `"best"` or `"last"`."""
        from keras_apinet.loading import load

        return load(self.folder, which)

    def data(self, name: str | None = None, data_dir: str | None = None) -> "ImageData":
        """The data set as the training saw it, with the same split.

        Args:
            name: Where the data is now, if it moved.
            data_dir: Where TFDS data is now, if it moved.
        """
        from keras_apinet import data

        # Runs that do not say how they grouped drew each image by itself.
        options = {"group_by": "none", **self.description["data"]["load"]}
        if data_dir:
            options["data_dir"] = data_dir
        recorded = options.pop("name")
        return data.load(name or recorded, **options)

    def read(self, name: str) -> Any:
        """The content of a JSON file of the run, `None` if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise APINetError(
                f"{str(path)!r} cannot be read ({error}); remove it, and it is made "
                "again."
            ) from error

    def calibration(self, which: str, model: "APINet") -> dict[str, Any] | None:
        """What is known of a model's temperature; `None` if nothing is.

        Args:
            which: `"best"` or `"last"`.
            model: That model; a temperature of other weights is left out.

        Raises:
            APINetError: If the file is damaged or holds no temperature.
        """
        name = calibration_file(which)
        known = self.read(name)
        if known is None:
            return None
        value = known.get("temperature") if isinstance(known, dict) else None
        if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise APINetError(
                f"temperature={value!r} in {str(self.folder / name)!r} must be above "
                "0; remove the file, and `keras-apinet evaluate` fits it again."
            )
        # Without a fingerprint somebody wrote it by hand, and means it.
        if known.get("weights") not in (None, weights_fingerprint(model)):
            return None
        return dict(known)

    def write(self, name: str, content: Any) -> Path:
        """Writes a JSON file into the run folder."""
        path = self.folder / name
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        return path
