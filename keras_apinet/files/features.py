"""The pooled features of a run's photos, kept in the run: one pass serves all.

`features.npz` (`features_last.npz` of the last model) holds, for each split, `features`
`[n, D]` float32, `labels` and `positions` `[n]` int64, and the `fingerprint` of what
they were computed from. It is a cache: what does not fit is computed again.
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


def write_features(path: Path, mark: str, splits: Mapping[str, Features]) -> None:
    """Writes features under their fingerprint, in place of earlier ones."""
    arrays: dict[str, Any] = {
        f"{split}.{name}": getattr(found, name)
        for split, found in splits.items()
        for name in _ARRAYS
    }
    with replacing(path) as temporary:
        np.savez(temporary, fingerprint=np.array(mark), **arrays)


def keep_features(path: Path, mark: str, splits: Mapping[str, Features]) -> None:
    """Writes features beside those of other splits that have the same fingerprint.

    Nobody asked for them: where they cannot be written, they are computed again.
    """
    width = next(iter(splits.values())).features.shape[1]
    with contextlib.suppress(APINetError):
        write_features(path, mark, {**read_features(path, mark, width), **splits})


def read_features(path: Path, mark: str, width: int) -> dict[str, Features]:
    """The splits in a file, if it is whole, of this fingerprint and D = `width`."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            if str(file["fingerprint"]) != mark:
                return {}
            names = {key.rpartition(".")[0] for key in file.files} - {""}
            found = {s: Features(*(file[f"{s}.{a}"] for a in _ARRAYS)) for s in names}
    except Exception:  # whatever damage does: they are computed again
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
    """16 hexadecimal digits that change with any weight that predictions depend on.

    Without the head they are those of features.
    """
    from keras import ops

    digest = hashlib.sha256()
    head_weights = model.classifier.weights if head else []
    for weight in (*model.backbone.weights, *head_weights):
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()[:16]


def features_fingerprint(run: "Run", model: "APINet", images: "ImageData") -> str:
    """Changes with backbone, photos (also one replaced), preparation and classes."""
    settings = run.settings
    parts = (
        weights_fingerprint(model, head=False),
        images.fingerprint(),
        images.stamps(),
        (run.image_size, settings.get("resize", "fit"), settings.get("box_crop")),
        run.class_names,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
