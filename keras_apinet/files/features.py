"""Cache of the pooled features of a run's photos, so they are computed only once.

`features.npz` (`features_last.npz` for the last model) holds, for each split,
`features` `[n, D]` float32, `labels` and `positions` `[n]` int64, and a `fingerprint`
of everything they were computed from. Features that do not match are recomputed.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.files.io import replacing

if TYPE_CHECKING:
    from keras_apinet.data import ImageData
    from keras_apinet.model.apinet import APINet
    from keras_apinet.runs import Run

FEATURES = "features.npz"
_ARRAYS = ("features", "labels", "positions")


@dataclass(frozen=True, eq=False)
class Features:
    """Pooled features of the readable photos of a split, in its order.

    Attributes:
        features: `[n, D]` float32.
        labels: `[n]` int64, positions in the model's classes.
        positions: `[n]` int64, the position of each photo in the split, without photos
            of classes that the model does not know.
        names: `[n]`, the name of each photo: its path, if it is a file.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def logits(self, model: "APINet") -> NDArray[np.float32]:
        """Computes the logits `[n, C]` of a model's classifier."""
        kernel, bias = (np.asarray(w) for w in model.classifier.get_weights())
        logits: NDArray[np.float32] = self.features @ kernel + bias
        return logits


def write_features(path: Path, mark: str, splits: Mapping[str, Features]) -> None:
    """Writes features with their fingerprint, replacing earlier ones."""
    arrays: dict[str, Any] = {
        f"{split}.{name}": getattr(found, name)
        for split, found in splits.items()
        for name in _ARRAYS
    }
    with replacing(path) as temporary:
        np.savez(temporary, fingerprint=np.array(mark), **arrays)


def keep_features(path: Path, mark: str, splits: Mapping[str, Features]) -> None:
    """Adds features to those of other splits with the same fingerprint.

    If the cache cannot be written, there is no error; they are recomputed when needed.
    """
    width = next(iter(splits.values())).features.shape[1]
    with contextlib.suppress(APINetError):
        write_features(path, mark, {**read_features(path, mark, width), **splits})


def read_features(path: Path, mark: str, width: int) -> dict[str, Features]:
    """Reads a file's splits if it is intact and matches fingerprint and D = `width`."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            if str(file["fingerprint"]) != mark:
                return {}
            names = {key.rpartition(".")[0] for key in file.files} - {""}
            found = {s: Features(*(file[f"{s}.{a}"] for a in _ARRAYS)) for s in names}
    except Exception:  # any error of a damaged file, which is computed again
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


def weights_fingerprint(model: "APINet", head: bool = True) -> str:
    """Returns 16 hexadecimal digits that change with any weight used in predictions.

    Without the head, they cover only the weights that features depend on.
    """
    from keras import ops

    digest = hashlib.sha256()
    head_weights = model.classifier.weights if head else []
    for weight in (*model.backbone.weights, *head_weights):
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()[:16]


def features_fingerprint(run: "Run", model: "APINet", images: "ImageData") -> str:
    """Hashes backbone, photos (detecting replaced ones), preprocessing and classes."""
    settings = run.settings
    parts = (
        weights_fingerprint(model, head=False),
        images.fingerprint(),
        images.stamps(),
        (run.image_size, settings.get("resize", "fit"), settings.get("box_crop")),
        run.class_names,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
