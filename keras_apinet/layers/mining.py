"""Mining of image pairs within a batch."""

from typing import Any

import keras
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import COUNT, check_choice
from keras_apinet.files.schema import with_new_names
from keras_apinet.types import Shape, Tensor

STRATEGIES = ("nearest", "farthest", "random")
DISTANCES = ("euclidean", "cosine")
# Larger than any squared distance between float32 features of reasonable size, but
# finite, so that an argmin over a row without candidates stays well defined.
FORBIDDEN = 3.0e38


def squared_distances(features: Tensor, others: Tensor | None = None) -> Tensor:
    """Computes squared Euclidean distances of rows `[N, D]` to `[M, D]` or each other.

    Uses `|a - b|^2 = |a|^2 + |b|^2 - 2 a.b`, so no array exceeds `[N, M]`. The result
    is float32 and at least 0.
    """
    x = ops.cast(features, "float32")
    y = x if others is None else ops.cast(others, "float32")
    rows, columns = (ops.sum(ops.square(z), axis=1) for z in (x, y))
    distances = rows[:, None] + columns[None, :] - 2.0 * ops.matmul(x, ops.transpose(y))
    return ops.maximum(distances, 0.0)


def class_indices(labels: Tensor) -> Tensor:
    """Returns classes `[N]` from `[N]` or `[N, 1]` integers or `[N, C]` one-hot rows.

    Soft labels are reduced to their most likely class.
    """
    if len(labels.shape) == 1:
        return ops.cast(labels, "int32")
    if labels.shape[-1] == 1:
        return ops.cast(ops.squeeze(labels, axis=-1), "int32")
    return ops.cast(ops.argmax(labels, axis=-1), "int32")


def is_one_hot(labels: Tensor) -> bool:
    """Whether labels are rows `[N, C]` rather than integers `[N]` or `[N, 1]`."""
    return len(labels.shape) == 2 and labels.shape[-1] != 1


def select_partners(scores: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Selects each row's `count` lowest-scoring candidates; ties go to the lower index.

    Args:
        scores: `[N, M]` float32, lower is better.
        candidates: `[N, M]` bool, which columns may be chosen.
        count: Number of partners per row.

    Returns:
        `(partners, valid)`, each `[N, count]`: int32 column indices, and whether a
        candidate was left to choose.
    """
    columns = ops.arange(ops.shape(scores)[1], dtype="int32")
    partners, valid = [], []
    for _ in range(count):
        masked = ops.where(candidates, scores, FORBIDDEN)
        best = ops.cast(ops.argmin(masked, axis=1), "int32")
        partners.append(best)
        valid.append(ops.any(candidates, axis=1))
        candidates = ops.logical_and(candidates, best[:, None] != columns[None, :])
    return ops.stack(partners, axis=1), ops.stack(valid, axis=1)


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0], value[1]
    return value, value


@keras.saving.register_keras_serializable(package="keras_apinet")
class PairMiner(keras.layers.Layer):
    """Chooses the partners with which each image of a batch is compared.

    For image `i` of class `c_i`, the paper chooses the nearest image, by Euclidean
    distance, of the same class (intra pair) and of any other class (inter pair):

    ```
    intra(i) = argmin_{j != i, c_j = c_i} |x_i - x_j|
    inter(i) = argmin_{c_j != c_i} |x_i - x_j|
    ```

    Distances are float32 under any dtype policy, features are not normalized unless
    `distance="cosine"`, ties go to the lower index, and no gradient flows through the
    choice. An image without a candidate (the only one of its class, a batch of one
    class, a non-finite feature) is paired with itself, and the pair is marked invalid.

    Args:
        mining: `"nearest"`, `"farthest"` or `"random"`, or a tuple of two of them
            for intra and inter pairs. Default `"nearest"`.
        num_partners: Number of partners per image, or a tuple for intra and inter
            pairs, of which one may be 0. Default 1.
        seed: Seed for the `"random"` strategy.
        distance: `"euclidean"`, as in the paper, or `"cosine"`, which compares
            directions regardless of feature length. Default `"euclidean"`.

    Call arguments:
        features: `[N, D]` float.
        labels: `[N]` or `[N, 1]` integer classes, or `[N, C]` one-hot.
        memory: `(features [M, D], classes [M])` of further images, which may be
            partners but not anchors; a negative class marks an empty slot. Its row m
            is partner `N + m`. Default: none.

    Returns:
        `anchors, partners, valid`, each `[N * (intra + inter)]` (`[2N]` by default):
        int32 rows of `features`, int32 rows of `features`, bool. All intra pairs come
        first, then all inter pairs; within each, the anchors run from 0 to N - 1, once
        per partner.

    Raises:
        APINetError: If the strategy or distance is unknown, a partner count is
            negative, or an input has the wrong rank.

    Example:
    >>> miner = PairMiner()
    >>> features = np.array([[0.0], [1.0], [5.0], [7.0]])
    >>> anchors, partners, valid = miner(features, np.array([0, 0, 1, 1]))
    >>> print(ops.convert_to_numpy(anchors), ops.convert_to_numpy(partners))
    [0 1 2 3 0 1 2 3] [1 0 3 2 2 2 1 1]

    Reference:
        Zhuang, Wang, Qiao: Learning Attentive Pairwise Interaction for Fine-Grained
        Classification, AAAI 2020 (arXiv 2002.10191), section 3.
    """

    def __init__(
        self,
        mining: str | tuple[str, str] = "nearest",
        num_partners: int | tuple[int, int] = 1,
        seed: int | None = None,
        distance: str = "euclidean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # labels need all their bits
        check_choice("distance", distance, DISTANCES)
        self.distance = distance
        self.strategies = _pair(mining)
        for name in self.strategies:
            check_choice("mining", name, STRATEGIES)
        self.num_partners = _pair(num_partners)
        fit = all(map(COUNT.fits, self.num_partners))
        if not fit or not any(self.num_partners):
            raise APINetError(
                f"num_partners={num_partners!r} must be one or two whole numbers of at "
                "least 0, not both 0."
            )
        self.seed = seed
        self.random = keras.random.SeedGenerator(seed)
        self.built = True

    def call(
        self,
        features: Tensor,
        labels: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mines the pairs of one batch; see the class."""
        if len(features.shape) != 2:
            raise APINetError(
                f"PairMiner needs features [N, D]; got shape={tuple(features.shape)}."
            )
        if len(labels.shape) not in (1, 2):
            raise APINetError(
                "PairMiner needs labels [N] (integers) or [N, C] (one-hot); got "
                f"shape={tuple(labels.shape)}."
            )
        batch, n_labels = features.shape[0], labels.shape[0]
        if batch is not None and n_labels is not None and batch != n_labels:
            raise APINetError(
                f"PairMiner got {batch} features but {n_labels} labels; pass one label "
                "per feature."
            )
        if batch == 0:
            raise APINetError(
                "PairMiner needs at least one image; got "
                f"shape={tuple(features.shape)}."
            )
        features = ops.stop_gradient(features)
        classes = class_indices(labels)
        others, other_classes = features, classes
        if memory is not None:
            others = ops.concatenate([features, ops.cast(memory[0], features.dtype)])
            other_classes = ops.concatenate([classes, ops.cast(memory[1], "int32")])
        distances = squared_distances(self._placed(features), self._placed(others))
        finite = ops.isfinite(distances)
        distances = ops.where(finite, distances, 0.0)
        images = ops.arange(ops.shape(features)[0], dtype="int32")
        columns = ops.arange(ops.shape(others)[0], dtype="int32")
        itself = images[:, None] == columns[None, :]
        same = classes[:, None] == other_classes[None, :]
        intra = ops.logical_and(same, ops.logical_not(itself))
        inter = ops.logical_not(same)
        if memory is not None:
            inter = ops.logical_and(inter, other_classes[None, :] >= 0)

        anchors, partners, valid = [], [], []
        for candidates, strategy, count in zip(
            (intra, inter), self.strategies, self.num_partners, strict=True
        ):
            if not count:
                continue
            chosen, exists = select_partners(
                self._scores(distances, strategy),
                ops.logical_and(candidates, finite),
                count,
            )
            chosen = ops.where(exists, chosen, images[:, None])
            # [N, count] -> [count * N]: the first partners of all images come first.
            anchors.extend([images] * count)
            partners.append(ops.reshape(ops.transpose(chosen), (-1,)))
            valid.append(ops.reshape(ops.transpose(exists), (-1,)))
        return (
            ops.concatenate(anchors),
            ops.concatenate(partners),
            ops.concatenate(valid),
        )

    def _placed(self, features: Tensor) -> Tensor:
        if self.distance == "euclidean":
            return features
        # Between features of length 1 the squared distance is 2 (1 - cos).
        return ops.normalize(ops.cast(features, "float32"))

    def _scores(self, distances: Tensor, strategy: str) -> Tensor:
        if strategy == "nearest":
            return distances
        if strategy == "farthest":
            return -distances
        return keras.random.uniform(ops.shape(distances), seed=self.random)

    def compute_output_spec(
        self,
        features: Tensor,
        labels: Tensor,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns symbolic outputs: int32, int32 and bool `[N * (intra + inter)]`."""
        batch = features.shape[0]
        shape: Shape = (None if batch is None else batch * sum(self.num_partners),)
        return (
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor(shape, "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "mining": list(self.strategies),
            "num_partners": list(self.num_partners),
            "seed": self.seed,
            "distance": self.distance,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PairMiner":
        """Creates a layer from `get_config()` output."""
        return cls(**with_new_names(config))
