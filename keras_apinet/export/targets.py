"""What to write, and where."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_apinet.errors import APINetError
from keras_apinet.export.formats import check_precision, format_of, known_format
from keras_apinet.files.io import exists, unwritable
from keras_apinet.files.outputs import check_output, strangers


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

    @property
    def report(self) -> Path:
        """The Markdown file beside it that tells the comparison."""
        return self.path.with_name(f"{self.path.name}.report.md")

    def check(self, force: bool) -> None:
        """Checks that it can be written, and makes the folder above.

        Raises:
            APINetError: For a path where something else is, see `outputs`.
        """
        path = self.path
        if self.is_folder:
            self._check_folder(force)
        else:
            kind = {"tflite": "TFLite model", "onnx": "ONNX model"}[self.format]
            check_output(path, kind, force)
        check_output(self.report, "Markdown file", force)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise APINetError(
                f"The folder {str(path.parent)!r} cannot be made "
                f"({error.strerror or error}); give another path."
            ) from error

    def _check_folder(self, force: bool) -> None:
        path = self.path
        if not os.path.lexists(path):
            return
        if path.is_symlink() or not path.is_dir():
            what = "a link" if path.is_symlink() else "a file"
            raise APINetError(
                f"{str(path)!r} is {what}, but {self.format} is a folder; give another "
                "path."
            )
        with unwritable(path):
            found = strangers(path) if any(path.iterdir()) else []
        if found is None:
            raise APINetError(
                f"The folder {str(path)!r} holds something else than an export of this "
                "package; give another path."
            )
        if found:
            raise APINetError(
                f"The folder {str(path)!r} holds files that were added or changed "
                f"since it was exported ({', '.join(map(repr, found[:3]))}); move them "
                "elsewhere, or give another path."
            )
        if not force:
            raise exists(path)
