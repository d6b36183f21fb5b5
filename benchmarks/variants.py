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


def likeliest_classes(count: int) -> Callable[[], None]:
    """The variant whose cross-entropy is among the true class and the likeliest others.

    Sun et al., Fine-grained Recognition: Accounting for Subtle Differences between
    Similar Classes, AAAI 2020.
    """

    def among() -> None:
        from keras import ops

        from keras_apinet import losses
        from keras_apinet.layers.mining import class_indices

        plain = losses.label_log_probabilities

        def few(labels: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
            classes = class_indices(labels)
            inner = (1,) * (len(logits.shape) - 2)
            true = ops.one_hot(classes, logits.shape[-1])
            true = ops.reshape(true, (-1, *inner, logits.shape[-1]))
            ranked = ops.where(true > 0, 1e9, ops.stop_gradient(logits))
            _, kept = ops.top_k(ranked, count + 1)
            logits = ops.take_along_axis(logits, kept, axis=-1)
            return plain(ops.zeros_like(classes), logits, label_smoothing)

        losses.label_log_probabilities = few

    return among


def inter_partners(count: int) -> Callable[[], None]:
    """The variant that pairs each image with several images of other classes."""

    def several() -> None:
        from keras_apinet.layers import PairMiner

        plain = PairMiner.__init__

        def more(
            self: Any, strategies: Any, num_partners: Any, *args: Any, **kwargs: Any
        ) -> None:
            plain(self, strategies, (1, count), *args, **kwargs)

        PairMiner.__init__ = more  # type: ignore[method-assign]

    return several


def averaged_teacher() -> None:
    """The probabilities of the averaged weights are soft targets of single images.

    Tarvainen and Valpola, Mean teachers are better role models, NeurIPS 2017. It needs
    `ema_momentum`, and TensorFlow.
    """
    from keras import ops

    from keras_apinet import APINet

    plain = APINet.compute_loss

    def taught(
        self: Any, x: Any, y: Any, y_pred: Any, weight: Any = None, training: Any = True
    ) -> Any:
        loss = plain(self, x, y, y_pred, weight, training)
        images = x[0] if isinstance(x, (tuple, list)) else x
        if not training or "frozen" not in images:
            return loss
        slow = self.optimizer.averages
        trained = [self.optimizer.slot(slow, v) for v in self.trainable_variables]
        others = [v.value for v in self.non_trainable_variables]
        told, _ = self.stateless_call(trained, others, images, training=False)
        own = y_pred
        if isinstance(own, dict):
            own = own.get("single_logits", own["logits"])
        soft = ops.stop_gradient(ops.softmax(told))
        return loss - ops.mean(ops.sum(soft * ops.log_softmax(own), axis=-1))

    APINet.compute_loss = taught  # type: ignore[method-assign]


def mixed(boxes: bool) -> Callable[[], None]:
    """The variant that mixes the stored views of a batch, and their labels.

    Mixup (Zhang et al., ICLR 2018), or a box of another's (CutMix, Yun et al., ICCV
    2019). The larger share decides which class an image has for its pairs.
    """

    def mix() -> None:
        import keras
        from keras import ops

        from keras_apinet import APINet
        from keras_apinet.layers.mining import class_indices

        step, metrics = APINet.train_step, APINet.compute_metrics
        seeds = keras.random.SeedGenerator(0)

        def mixing(self: Any, *args: Any) -> Any:
            *state, (inputs, labels) = args
            if "frozen" not in inputs:
                return step(self, *state, (inputs, labels))
            maps = inputs["frozen"]
            count = ops.shape(maps)[0]
            order = keras.random.shuffle(ops.arange(count), seed=seeds)
            share = keras.random.beta((), 0.4, 0.4, seed=seeds)
            share = ops.minimum(share, 1 - share)  # of the other image
            if boxes:
                height, width = maps.shape[1:3]
                side = ops.sqrt(share)
                top, left = (
                    keras.random.uniform((), 0, 1, seed=seeds) * (1 - side)
                    for _ in range(2)
                )
                rows = (ops.arange(height, dtype="float32") + 0.5) / height
                columns = (ops.arange(width, dtype="float32") + 0.5) / width
                inside = ops.logical_and(
                    ops.logical_and(rows > top, rows < top + side)[:, None],
                    ops.logical_and(columns > left, columns < left + side)[None],
                )
                box = ops.cast(inside, "float32")
                share = ops.mean(box)
                weight = ops.cast(box[None, :, :, None], maps.dtype)
            else:
                weight = ops.cast(share, maps.dtype)
            maps = maps * (1 - weight) + ops.take(maps, order, axis=0) * weight
            soft = ops.one_hot(ops.reshape(labels, (-1,)), self.num_classes)
            soft = (1 - share) * soft + share * ops.take(soft, order, axis=0)
            return step(self, *state, ({"frozen": maps}, soft))

        def of_classes(self: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
            if len(y.shape) == 2 and y.shape[-1] == self.num_classes:
                y = class_indices(y)
            y_pred = args[0]
            if isinstance(y_pred, dict) and len(y_pred["labels"].shape) == 2:
                y_pred = {**y_pred, "labels": class_indices(y_pred["labels"])}
            return metrics(self, x, y, y_pred, *args[1:], **kwargs)

        APINet.train_step = mixing  # type: ignore[method-assign]
        APINet.compute_metrics = of_classes  # type: ignore[method-assign]

    return mix


VARIANTS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "without_gates": without_gates,
    "self_only": self_only,
    "nonlinear_mutual": nonlinear_mutual,
    "gates_before_pooling": gates_before_pooling,
    "temperature_2": temperature(2.0),
    "temperature_half": temperature(0.5),
    "look_alikes_meet": look_alikes_meet,
    "likeliest_15": likeliest_classes(15),
    "three_inter_partners": inter_partners(3),
    "averaged_teacher": averaged_teacher,
    "mixup": mixed(boxes=False),
    "cutmix": mixed(boxes=True),
}
