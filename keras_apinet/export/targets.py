"""What to write, and where."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_apinet.errors import APINetError
from keras_apinet.export.classifier_info import INFO_FILE
from keras_apinet.export.formats import check_precision, format_of, known_format


@dataclass(frozen=True)
class Target:
    """One file or folder to write.

    Attributes:
        path: Where.
        format: `"tflite"`, `"saved_model"`, `"onnx"` or `"web"`.
        precision: Of its numbers.
        runtime: For `"web"`, the folder with the runtime's npm packages.
    """

    path: Path
    format: str
    precision: str = "float32"
    runtime: Path | None = None

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        format: str | None = None,
        precision: str = "float32",
        runtime: str | os.PathLike[str] | None = None,
    ) -> "Target":
        """A target whose format may follow from the path's ending.

        Raises:
            APINetError: For a format or precision that does not exist.
        """
        known = known_format(format) if format else format_of(path)
        check_precision(precision, known)
        folder = None if runtime is None else Path(runtime)
        return cls(Path(os.path.abspath(path)), known, precision, folder)

    @property
    def is_web(self) -> bool:
        """Whether it is a page."""
        return self.format == "web"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.format in ("saved_model", "web")

    def check(self, force: bool) -> None:
        """Checks that it can be written, and makes the folder above.

        Raises:
            APINetError: For a path where something else is.
        """
        path = self.path
        if path.exists() and not force:
            raise APINetError(
                f"{str(path)!r} exists; give --force (force=True) to replace it, or "
                "another path."
            )
        if path.is_file() and self.is_folder:
            raise APINetError(
                f"{str(path)!r} is a file, but {self.format} is a folder; give another "
                "path."
            )
        if path.is_dir() and not self.is_folder:
            raise APINetError(
                f"{str(path)!r} is a folder, but {self.format} is a file; give another "
                "path."
            )
        marks = ("saved_model.pb", INFO_FILE)
        is_export = any((path / mark).is_file() for mark in marks)
        if path.is_dir() and any(path.iterdir()) and not is_export:
            raise APINetError(
                f"The folder {str(path)!r} holds something else than an export; give "
                "another path."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise APINetError(
                f"The folder {str(path.parent)!r} cannot be made "
                f"({error.strerror or error}); give another path."
            ) from error
