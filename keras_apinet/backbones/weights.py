"""Pretrained weights: read from a file or fetched, with errors that help."""

import contextlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras

from keras_apinet.errors import APINetError

SUFFIXES = (".weights.h5", ".keras", ".h5", ".hdf5")


def weights_file(weights: str | os.PathLike[str] | None) -> Path | None:
    """Return the file that `weights` names, or `None` for `"imagenet"` and `None`.

    Raises:
        APINetError: If it is neither of these nor an existing file of a known kind.
    """
    if weights is None or weights == "imagenet":
        return None
    ways_out = "weights takes 'imagenet', None or a file " + " or ".join(SUFFIXES)
    if not isinstance(weights, str | os.PathLike):
        raise APINetError(f"weights={weights!r} is not understood; {ways_out}")
    path = Path(weights)
    if not path.is_file():
        raise APINetError(
            f"weights={str(weights)!r} is neither a known set of weights nor an "
            f"existing file; {ways_out}"
        )
    if not path.name.endswith(SUFFIXES):
        raise APINetError(f"weights={str(weights)!r} is of no known kind; {ways_out}")
    return path


def load_file(model: keras.Model, path: Path, name: str) -> None:
    """Load a weights file of the backbone `name` into `model`, all or nothing.

    Raises:
        APINetError: If the file cannot be read or belongs to another backbone.
    """
    try:
        held = _count_arrays(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise APINetError(
            f"weights={str(path)!r} cannot be read as weights: {one_line(error)}"
        ) from error
    # Keras loads a deeper network's file into a shallower one without a word when
    # the shapes happen to agree.
    if held != len(model.weights):
        raise APINetError(
            f"weights={str(path)!r} holds {held} arrays, but backbone {name!r} without "
            f"its classifier has {len(model.weights)}: give a file of that backbone, "
            "saved without the classifier"
        )
    try:
        with warnings.catch_warnings():
            # Of a file that does not fit, Keras warns before it raises.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise APINetError(
            f"weights={str(path)!r} does not fit backbone {name!r}: give a file of "
            f"that backbone, saved without the classifier ({one_line(error)})"
        ) from error


def _count_arrays(path: Path) -> int:
    """Return how many weights the file holds, whatever layer they belong to."""
    import h5py

    count = 0

    def visit(_: str, item: object) -> None:
        nonlocal count
        count += isinstance(item, h5py.Dataset)

    with contextlib.ExitStack() as stack:
        source: Path | io.BytesIO = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            source = io.BytesIO(archive.read("model.weights.h5"))
        file = stack.enter_context(h5py.File(source, "r"))
        # A whole model's file keeps its optimizer's state beside the weights.
        for group in ("model_weights", "layers", "_layers"):
            if group in file:
                file[group].visititems(visit)
                return count
        file.visititems(visit)
    return count


def explained(
    build: Callable[[], keras.Model], failed: str, way_out: str
) -> keras.Model:
    """Return `build()`, which may download; if it fails, say what and what to do.

    Args:
        build: Makes the model.
        failed: Start of the message, such as "could not fetch the weights".
        way_out: End of the message.

    Raises:
        APINetError: If `build` raises anything.
    """
    try:
        return build()
    # Download clients raise what they like, down to a bare `Exception`.
    except Exception as error:
        raise APINetError(f"{failed}: {one_line(error)}; {way_out}") from error


def one_line(error: BaseException) -> str:
    """Return the message of `error` on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
