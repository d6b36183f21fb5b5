"""The pooled features of a run's photos, kept in the run: one pass serves all.

`features.npz` (`features_last.npz` of the last model) holds, for each split, `features`
`[n, D]` float32, `labels` and `positions` `[n]` int64, and the `fingerprint` of what
they were computed from. It is a cache: what does not fit is computed again.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.evaluation import open_data
from keras_apinet.evaluate.predictions import known_images, predict_split, run_options
from keras_apinet.files.io import replacing
from keras_apinet.files.outputs import check_output, write_output
from keras_apinet.runs import Run, weights_fingerprint

if TYPE_CHECKING:
    from keras_apinet.data import ImageData, Split
    from keras_apinet.model.apinet import APINet

_ARRAYS = ("features", "labels", "positions")


@dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of the readable photos of a split, in its order.

    Attributes:
        features: `[n, D]` float32.
        labels: `[n]` int64, positions in the model's classes.
        positions: `[n]` int64, the place of each photo in the split, without photos of
            classes that the model does not know.
        names: `[n]`, what each photo is called: its path, if it is a file.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def logits(self, model: "APINet") -> NDArray[np.float32]:
        """`[n, C]`, what a model's classifier makes of them."""
        kernel, bias = (np.asarray(w) for w in model.classifier.get_weights())
        logits: NDArray[np.float32] = self.features @ kernel + bias
        return logits


def features_file(which: str) -> str:
    """Where a run keeps the features of its `"best"` or `"last"` model."""
    return "features.npz" if which == "best" else f"features_{which}.npz"


def run_features(
    run: Run,
    model: "APINet",
    images: "ImageData | None" = None,
    *,
    which: str = "best",
    splits: Sequence[str] = ("train", "val"),
    batch_size: int = 64,
) -> dict[str, Features]:
    """The pooled features of a run's splits, from its folder or computed and kept.

    Args:
        run: The run.
        model: Its model.
        images: Its data set. Default: it is opened where the training found it.
        which: Which model of the run that is.
        splits: The splits; those that the data set does not have are left out.
        batch_size: Images at a time.
    """
    images = open_data(run) if images is None else images
    path = run.folder / features_file(which)
    mark = features_fingerprint(run, model, images)
    width = model.feature_size
    stored = _read(path, mark, width)
    found, new = {}, False
    for name in splits:
        if name not in images.splits:
            continue
        part = known_images(images, name, run.class_names, ignore_unknown=True)
        if name not in stored:
            stored[name] = photo_features(run, model, part, batch_size)
            new = True
        kept = stored[name]
        names = tuple(part.reference(int(i)) for i in kept.positions)
        found[name] = Features(kept.features, kept.labels, kept.positions, names)
    if new:
        write_features(path, mark, stored)
    return found


def photo_features(
    run: Run, model: "APINet", split: "Split", batch_size: int = 64
) -> Features:
    """The features of any photos, prepared as the run's own."""
    seen = predict_split(model, split, **run_options(run, batch_size))
    names = tuple(split.reference(int(i)) for i in seen.positions)
    return Features(seen.features, seen.labels, seen.positions, names)


def features_fingerprint(run: Run, model: "APINet", images: "ImageData") -> str:
    """16 hexadecimal digits of backbone, photos, their preparation and the classes."""
    parts = (
        weights_fingerprint(model, head=False),
        images.fingerprint(),
        sorted(run_options(run, 1).items()),
        run.class_names,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write_features(path: Path, mark: str, splits: Mapping[str, Features]) -> None:
    """Writes features under their fingerprint, in place of earlier ones."""
    arrays: dict[str, Any] = {
        f"{split}.{name}": getattr(found, name)
        for split, found in splits.items()
        for name in _ARRAYS
    }
    with replacing(path) as temporary:
        np.savez(temporary, fingerprint=np.array(mark), **arrays)


def check_features_file(path: str | Path, force: bool = False) -> None:
    """Checks that features of photos may be written to a path, `.npz` or `.csv`."""
    kinds = {".npz": "NumPy file of features", ".csv": "table of features"}
    ending = Path(path).suffix.lower()
    if ending not in kinds:
        raise APINetError(f"{str(path)!r} must end in one of {', '.join(kinds)}.")
    check_output(path, kinds[ending], force)


def write_photo_features(
    path: str | Path,
    photos: Sequence[str],
    features: NDArray[np.float32],
    force: bool = False,
) -> None:
    """Writes pooled features `[n, D]` of photos, a row for each, as `.npz` or `.csv`.

    The file has `photos` `[n]` and `features` `[n, D]` float32, or is a table with the
    columns `photo`, `feature_0` and on.
    """
    check_features_file(path, force)
    if Path(path).suffix.lower() == ".csv":
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["photo", *(f"feature_{i}" for i in range(features.shape[1]))])
        for photo, row in zip(photos, features, strict=True):
            table.writerow([photo, *(f"{value:.6g}" for value in row)])
        write_output(path, text.getvalue(), force)
        return
    content = io.BytesIO()
    named = {"photos": np.array(photos, str), "keras-apinet": np.array("features")}
    np.savez(content, features=features, **named)  # type: ignore[arg-type]
    write_output(path, content.getvalue(), force)


def _read(path: Path, mark: str, width: int) -> dict[str, Features]:
    """The splits in a file, if it is whole and of this fingerprint."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            if str(file["fingerprint"]) != mark:
                return {}
            names = {key.rpartition(".")[0] for key in file.files} - {""}
            found = {s: Features(*(file[f"{s}.{a}"] for a in _ARRAYS)) for s in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    return found if all(_is_whole(kept, width) for kept in found.values()) else {}


def _is_whole(kept: Features, width: int) -> bool:
    count = (len(kept.features),)
    return (
        kept.features.shape == (*count, width)
        and kept.labels.shape == kept.positions.shape == count
        and kept.features.dtype == np.float32
        and kept.labels.dtype == kept.positions.dtype == np.int64
        and bool(np.isfinite(kept.features).all())
    )
