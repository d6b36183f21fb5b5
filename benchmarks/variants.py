"""Changes to the method that no recipe setting expresses, for the ablation.

Each function is called before training and patches a part of the package. The
single-image classifier is unchanged, so the runs are evaluated like any other.
"""

from collections.abc import Callable
from typing import Any


def without_gates() -> None:
    """Uses ungated features for all four outputs; pairs still fill the batch."""
    from keras_apinet.layers import interaction

    def ungated(
        x1: Any, x2: Any, mutual: Any, _: float = 1.0
    ) -> tuple[Any, Any, Any, Any]:
        nothing = 0.0 * mutual  # keeps a zero gradient for the MLP
        return x1 + nothing, x1 + nothing, x2 + nothing, x2 + nothing

    interaction.interact = ungated


def self_only() -> None:
    """Classifies only the features with their own gates, without the ranking loss."""
    from keras import ops

    from keras_apinet.losses import PairwiseLoss

    both = PairwiseLoss.terms

    def own(self: Any, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        if len(y_pred.shape) == 3:
            y_pred = y_pred[:, 0]
        cross_entropy, _ = both(self, y_true, y_pred)
        return cross_entropy, ops.zeros_like(cross_entropy)

    PairwiseLoss.terms = own  # type: ignore[method-assign]


def nonlinear_mutual() -> None:
    """Adds a ReLU between the two layers of the mutual MLP, before its dropout."""
    import keras

    from keras_apinet.layers import AttentivePairwiseInteraction

    linear = AttentivePairwiseInteraction.__init__

    def bent(self: Any, *args: Any, **kwargs: Any) -> None:
        linear(self, *args, **kwargs)
        self.dropout = keras.Sequential([keras.layers.ReLU(), self.dropout])

    AttentivePairwiseInteraction.__init__ = bent  # type: ignore[method-assign]


def gates_before_pooling() -> None:
    """Applies an image's own gate at each position of its feature map, before pooling.

    Positions do not correspond between two images, so the partner's gate is averaged.
    """
    from keras import ops

    from keras_apinet import APINet
    from keras_apinet.layers import interaction

    pairwise, plain = APINet._pairwise, interaction.interact

    def over_places(self: Any, images: Any, labels: Any, training: Any) -> Any:
        if isinstance(images, dict):  # the head phase's features have no positions
            return pairwise(self, images, labels, training)
        maps = self.feature_map(images, training=training)
        maps = ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))
        features = ops.mean(maps, axis=1)
        anchors, partners, _ = self.miner(features, labels)

        def interact(
            x1: Any, x2: Any, mutual: Any, _: float
        ) -> tuple[Any, Any, Any, Any]:
            gated, means = [], []
            for images in (anchors, partners):
                found = ops.take(maps, images, axis=0)
                gates = ops.sigmoid(mutual[:, None] * found)
                gated.append(ops.mean(found * gates, axis=1))
                means.append(ops.mean(gates, axis=1))
            own1, own2 = x1 + gated[0], x2 + gated[1]
            return own1, x1 + x1 * means[1], own2, x2 + x2 * means[0]

        interaction.interact = interact
        try:
            return pairwise(self, {"features": features}, labels, training)
        finally:
            interaction.interact = plain

    APINet._pairwise = over_places  # type: ignore[method-assign]


def temperature(divisor: float) -> Callable[[], None]:
    """Returns the variant that divides the pairs' logits before the loss."""

    def divided() -> None:
        from keras_apinet.losses import PairwiseLoss

        plain = PairwiseLoss.terms

        def terms(self: Any, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
            pairs = len(y_pred.shape) == 3
            return plain(self, y_true, y_pred / divisor if pairs else y_pred)

        PairwiseLoss.terms = terms  # type: ignore[method-assign]

    return divided


def look_alikes_meet() -> None:
    """Fills each batch with look-alike classes.

    The classes of an epoch are reassigned to batches: each batch takes a random class
    and those whose mean features, before any training, are nearest in angle. Each class
    appears as often as before.
    """
    import numpy as np

    from keras_apinet.data import BatchPlan
    from keras_apinet.train.setup import Setup

    known: list[Any] = []

    class LookAlikes(BatchPlan):
        def _deal_epoch(self, epoch: int) -> Any:
            table, turns = super()._deal_epoch(epoch)
            alike = known[0]
            waiting: dict[int, list[int]] = {c: [] for c in range(len(alike))}
            for class_, turn in sorted(zip(table.flat, turns.flat, strict=True)):
                waiting[int(class_)].append(int(turn))
            rng = np.random.default_rng([self.seed, 5, epoch])
            for batch in range(len(table)):
                left = np.array([len(waiting[c]) for c in range(len(alike))])
                first = rng.choice(len(left), p=left / left.sum())
                nearness = alike[first] + 10 * (left == len(table) - batch)  # must
                nearness = np.where(left > 0, nearness, -10)
                chosen = np.argsort(-nearness, kind="stable")[: table.shape[1]]
                table[batch] = chosen
                turns[batch] = [waiting[int(c)].pop(0) for c in chosen]
            return table, turns

    def plan(self: Any, labels: Any) -> Any:
        if not known:
            split = self.images.splits["train"]
            batches, size = self.in_order(split, on_error="skip")
            found = list(self.outputs(self.model.feature_model(), batches, size))
            features = np.concatenate([x for x, _ in found])
            classes = np.concatenate([y for _, y in found])
            means = np.stack(
                [features[classes == c].mean(0) for c in np.unique(classes)]
            )
            means -= means.mean(axis=0)
            means /= np.linalg.norm(means, axis=1, keepdims=True)
            known.append(means @ means.T)
        recipe = self.recipe
        return LookAlikes(
            labels,
            min(recipe.classes_per_batch, len(self.images.class_names)),
            recipe.images_per_class,
            seed=recipe.seed,
            epoch_steps=recipe.steps_per_epoch,
        )

    Setup.plan = plan  # type: ignore[method-assign]


VARIANTS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "without_gates": without_gates,
    "self_only": self_only,
    "nonlinear_mutual": nonlinear_mutual,
    "gates_before_pooling": gates_before_pooling,
    "temperature_2": temperature(2.0),
    "temperature_half": temperature(0.5),
    "look_alikes_meet": look_alikes_meet,
}
