"""The formats, what their files are called, and how exact each has to be."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from keras_apinet.errors import APINetError

# Format -> ending of its files; folders have none.
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
    """What an exported file may lose against the Keras model.

    Attributes:
        difference: Largest difference of a probability, `None` for any.
        agreement: Smallest share of photos with the same top-1 class.
        logits: Largest difference of a logit, as a share of the largest logit; `None`
            for any.
    """

    difference: float | None
    agreement: float
    logits: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.difference is not None:
            parts.append(f"probabilities within {self.difference:g}")
        if self.logits is not None:
            parts.append(f"logits within {self.logits:g} of the largest")
        if self.agreement:
            parts.append(f"top-1 agreement at least {self.agreement:.4g}")
        return " and ".join(parts) or "anything"


TOLERANCES = {
    "float32": Tolerance(1e-5, 0.0, 1e-3),
    "float16": Tolerance(1e-2, 0.0, 5e-2),
    "dynamic": Tolerance(None, 0.98),
    "int8": Tolerance(None, 0.98),
}


def known_format(name: str) -> str:
    """The format of this name, or an error that proposes the nearest."""
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain not in FORMATS:
        raise APINetError(_unknown("format", name, [*FORMATS, *_ALIASES]))
    return plain


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a path's ending stands for: a folder is a SavedModel."""
    ending = Path(path).suffix.lower()
    for name, suffix in FORMATS.items():
        if ending == suffix and name != "web":
            return name
    raise APINetError(
        f"The ending {ending!r} of path={str(path)!r} stands for no format; end it in "
        ".tflite or .onnx, use a name without an ending for a SavedModel folder, or "
        "give format=."
    )


def check_precision(precision: str, format: str) -> None:
    """Checks that the format exists in this precision."""
    if precision not in PRECISIONS:
        raise APINetError(_unknown("precision", precision, list(PRECISIONS)))
    if precision != "float32" and format not in ("tflite", "web"):
        raise APINetError(
            f"precision={precision!r} exists for tflite and web only, not for "
            f"format={format!r}; leave it out, or export tflite."
        )


def _unknown(key: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"{key}={name!r} is not one of {', '.join(known)}{hint}"
