"""Export formats, their required accuracy, and the targets to write."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_apinet.errors import APINetError, did_you_mean
from keras_apinet.files.io import exists, unwritable
from keras_apinet.files.outputs import check_output, strangers

# Format -> extension of its files; folders have none.
FORMATS = {"tflite": ".tflite", "saved_model": "", "onnx": ".onnx", "web": ""}
PRECISIONS = ("float32", "float16", "dynamic", "int8")
_ALIASES = {
    "litert": "tflite",
    "lite": "tflite",
    "savedmodel": "saved_model",
    "saved-model": "saved_model",
    "tf_saved_model": "saved_model",
}


@dataclass(frozen=True)
class Tolerance:
    """Allowed deviation of an exported file from the Keras model.

    Attributes:
        difference: Maximum difference of a probability; `None` for any.
        agreement: Minimum fraction of photos with the same top-1 class, among those on
            which it leads by more than 0.1 in probability.
        logits: Maximum difference of a logit, as a fraction of the largest logit;
            `None` for any.
        undecided: Maximum root mean square difference of a logit on the other photos,
            as a fraction of the largest logit; `None` for any.
    """

    difference: float | None
    agreement: float
    logits: float | None = None
    undecided: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.difference is not None:
            parts.append(f"probabilities within {self.difference:g}")
        if self.logits is not None:
            parts.append(f"logits within {self.logits:g} of the largest")
        if self.agreement:
            parts.append(f"top-1 agreement where decided at least {self.agreement:.4g}")
        if self.undecided is not None:
            parts.append(f"logits within {self.undecided:g} of the largest elsewhere")
        return " and ".join(parts) or "anything"


# The class unknown amplifies rounding: its logit is a steep line over a cosine.
UNKNOWN_DIFFERENCE = 1e-4
TOLERANCES = {
    "float32": Tolerance(1e-5, 0.0, 1e-3),
    "float16": Tolerance(1e-2, 0.0, 5e-2),
    "dynamic": Tolerance(None, 0.98, undecided=0.1),
    "int8": Tolerance(None, 0.98, undecided=0.1),
}


def known_format(name: str) -> str:
    """Checks a format's name; the error suggests the closest one."""
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain not in FORMATS:
        raise APINetError(_unknown("format", name, [*FORMATS, *_ALIASES]))
    return plain


def format_of(path: str | os.PathLike[str]) -> str:
    """Returns the format for a path's extension; a folder is a SavedModel."""
    ending = Path(path).suffix.lower()
    for name, suffix in FORMATS.items():
        if ending == suffix and name != "web":
            return name
    raise APINetError(
        f"The extension {ending!r} of path={str(path)!r} is not that of a format; use "
        ".tflite or .onnx, a name without an extension for a SavedModel folder, or "
        "pass format=."
    )


def check_precision(precision: str, format: str) -> None:
    """Checks that a format supports a precision."""
    if precision not in PRECISIONS:
        raise APINetError(_unknown("precision", precision, list(PRECISIONS)))
    if precision != "float32" and format not in ("tflite", "web"):
        raise APINetError(
            f"precision={precision!r} is supported for tflite and web only, not for "
            f"format={format!r}; omit it, or export tflite."
        )


def _unknown(key: str, name: str, known: list[str]) -> str:
    hint = did_you_mean(name.lower(), known)
    return f"{key}={name!r} is not one of {', '.join(known)}{hint}"


@dataclass(frozen=True)
class Target:
    """A file or folder to write.

    Attributes:
        path: Output path.
        format: `"tflite"`, `"saved_model"`, `"onnx"` or `"web"`.
        precision: Numeric precision.
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
        """Creates a target; by default, the path's extension determines the format."""
        known = known_format(format) if format else format_of(path)
        check_precision(precision, known)
        folder = None if runtime is None else Path(runtime)
        return cls(Path(os.path.abspath(path)), known, precision, folder)

    @property
    def is_folder(self) -> bool:
        """Whether the target is a folder."""
        return self.format in ("saved_model", "web")

    @property
    def report(self) -> Path:
        """The Markdown file next to it that reports the comparison."""
        return self.path.with_name(f"{self.path.name}.report.md")

    def check(self, force: bool) -> None:
        """Checks that the target can be written, and creates its parent folder."""
        if self.is_folder:
            self._check_folder(force)
        else:
            kind = {"tflite": "TFLite model", "onnx": "ONNX model"}[self.format]
            check_output(self.path, kind, force)
        check_output(self.report, "Markdown file", force)
        with unwritable(self.path.parent, "give another path"):
            self.path.parent.mkdir(parents=True, exist_ok=True)

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
                f"The folder {str(path)!r} holds something other than an export of "
                "this package; use another path."
            )
        if found:
            raise APINetError(
                f"The folder {str(path)!r} holds files that were added or changed "
                f"since it was exported ({', '.join(map(repr, found[:3]))}); move them "
                "elsewhere, or give another path."
            )
        if not force:
            raise exists(path)
