"""Checkpoints: everything that a training needs to go on as if nothing had happened.

One `.npz` file each, in the run's `checkpoints/`: all variables of the model (weights,
statistics, random state, metrics) and of the optimizer (moments, averages, step), and
how far the run had come. Written whole or not at all, read without unpickling.
"""

import io
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.runs import write_atomically

FOLDER = "checkpoints"


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: Epochs that are complete.
        step: Steps of the next epoch that are done.
        best: Validation accuracy and negative loss of the best model; `None` before
            the first validation.
        best_epoch: After which epoch that was; 0 is the warm-up.
        rows: What `log.csv` says: one dictionary for each complete epoch.
        ended: Whether nothing is left to do.
        failed: Unreadable images seen so far, with the reason.
    """

    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    ended: bool = False
    failed: dict[str, str] = field(default_factory=dict)


def variables_of(model: Any) -> list[Any]:
    """All variables of a compiled model and its optimizer, always in one order."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(v): v for v in found}.values())


def values_of(model: Any) -> list[NDArray[Any]]:
    """What those variables hold now."""
    import keras

    return [
        _plain(np.array(keras.ops.convert_to_numpy(v))) for v in variables_of(model)
    ]


def finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(_plain(np.asarray(values))).all())


def save(
    folder: Path, values: list[NDArray[Any]], progress: Progress, keep: int
) -> None:
    """Writes a checkpoint and removes the oldest beyond `keep`.

    Args:
        folder: The run folder.
        values: Of a compiled model with a built optimizer, from `values_of`.
        progress: How far it is.
        keep: How many checkpoints stay.

    Raises:
        APINetError: If it cannot be written; the ones before are whole.
    """
    described = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, described, *values)
    path = folder / FOLDER / f"{progress.epoch:05d}-{progress.step:07d}.npz"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        raise APINetError(
            f"The checkpoint {str(path)!r} cannot be written "
            f"({error.strerror or error}); the ones before are whole: make room, then "
            f"go on with --resume {folder}."
        ) from error
    for old in everything(folder)[:-keep]:
        old.unlink(missing_ok=True)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    # NumPy has no bfloat16 of its own; float32 holds it exactly.
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def everything(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted((folder / FOLDER).glob("[0-9]*.npz"))


def read_newest(folder: Path) -> tuple[Progress, list[NDArray[Any]]] | None:
    """The newest checkpoint that is whole: progress, and the variables' values.

    Returns:
        `None` if there is none.

    Raises:
        APINetError: If NaN or infinite values are in all of them.
    """
    diverged = None
    for path in reversed(everything(folder)):
        try:
            # NumPy leaves a damaged file open, if it opened it.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                described, *arrays = (file[name] for name in file.files)
            progress = Progress(**json.loads(bytes(described)))
        except (OSError, ValueError, TypeError, zipfile.BadZipFile):
            continue  # damaged from outside: the one before will do
        if not all(map(finite, arrays)):
            diverged = path
            continue  # what is trained from here stays NaN
        if progress.best is not None:
            progress.best = (progress.best[0], progress.best[1])
        return progress, arrays
    if diverged is not None:
        raise APINetError(
            f"The training in {str(folder)!r} diverged: {diverged.name} and all "
            "checkpoints after it hold NaN or infinite values; start a new run with a "
            "lower --learning-rate."
        )
    return None


def restore(arrays: list[NDArray[Any]], model: Any) -> None:
    """Puts the arrays of a checkpoint into a compiled model with a built optimizer.

    Raises:
        APINetError: If the model is not the one that the checkpoint is of.
    """
    variables = variables_of(model)
    shapes = [tuple(v.shape) for v in variables]
    stored = [array.shape for array in arrays]
    if shapes != stored:
        differing = sum(a != b for a, b in zip(shapes, stored, strict=False))
        raise APINetError(
            f"The checkpoint has {len(stored)} variables and the model {len(shapes)}, "
            f"of which {differing} differ in shape: the recipe or the code has "
            "changed; go on with the ones that the run began with."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
