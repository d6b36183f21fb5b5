"""The run folder: everything one training leaves behind, read and written here only.

```
run.json      settings, class names, data set, versions
best.keras    the model of the highest validation accuracy
last.keras    the model after the last epoch
log.csv       one line for each epoch
*.json        what later commands add: metrics, temperature
```
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_apinet import schema
from keras_apinet.errors import APINetError, printable
from keras_apinet.run_shapes import shape_of

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
        # Names of files and classes may hold bytes that are not UTF-8.
        content = content.encode("utf-8", "backslashreplace")
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
        path = folder / DESCRIPTION
        return cls(folder, schema.read_json(path, shape_of(DESCRIPTION)))

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
        """The data set as the training saw it, with the same split.

        Args:
            name: Where the data is now, if it moved.
            data_dir: Where TFDS data is now, if it moved.
        """
        from keras_apinet import data

        options = dict(self.description.get("data", {}).get("load", {}))
        if "name" not in options:
            raise APINetError(
                f"{str(self.folder / DESCRIPTION)!r} does not say where the data of "
                "this run is (data.load.name is missing); it is damaged."
            )
        if data_dir:
            options["data_dir"] = data_dir
        recorded = options.pop("name")
        return data.load(name or recorded, **options)

    def read(self, name: str) -> Any:
        """The content of a JSON file of the run, `None` if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        return schema.read_json(path, shape_of(name))

    def write(self, name: str, content: Any) -> Path:
        """Writes a JSON file into the run folder."""
        path = self.folder / name
        write_atomically(path, schema.to_json(content) + "\n")
        return path
