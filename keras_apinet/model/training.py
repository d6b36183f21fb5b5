"""Training on pairs with Keras's own step, which takes the labels as an input."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_apinet.compat import compiled_metrics
from keras_apinet.distribute import whole_batch
from keras_apinet.errors import APINetError
from keras_apinet.layers.interaction import AttentivePairwiseInteraction
from keras_apinet.layers.memory import FeatureMemory
from keras_apinet.layers.mining import PairMiner, is_one_hot
from keras_apinet.losses import PairwiseLoss
from keras_apinet.model.compiling import (
    Accuracy,
    PairMean,
    check_form,
    logits_loss,
    logits_metrics,
)
from keras_apinet.model.faults import NAME, outside, pixel_fault
from keras_apinet.model.inputs import CheckedModel, check_labels_shape
from keras_apinet.types import Tensor

_PAIR_FIGURES = ("cross_entropy", "ranking_loss", "valid_pairs")


class PairwiseTraining(CheckedModel):
    """Trains a model whose `call((images, labels))` returns pairs.

    Keras's own training step does the work on every backend. It only needs the labels
    as an input, because pairs are chosen by class.
    """

    interaction: AttentivePairwiseInteraction
    memory: FeatureMemory | None
    # Whether an earlier `compile` froze the interaction.
    _was_baseline = False
    miner: PairMiner

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configures the model for training, like `keras.Model.compile`.

        Args:
            optimizer: As in Keras.
            loss: Default: `PairwiseLoss()`. Keras's cross-entropies are set to
                `from_logits=True`.
            loss_weights: As in Keras.
            metrics: As in Keras. `accuracy` is always included, and metrics that expect
                probabilities receive the softmax.
            weighted_metrics: Likewise.
            **kwargs: As in Keras.

        Raises:
            APINetError: If the loss expects probabilities, or `loss_weights` are given
                for a loss with `single_image_weight`.
        """
        loss = logits_loss(loss, self.num_classes)
        pairwise = isinstance(loss, PairwiseLoss)
        if loss_weights is not None and getattr(loss, "single_image_weight", False):
            raise APINetError(
                f"loss_weights={loss_weights!r} would weight the pairs but not the "
                "single images; set ranking_weight and single_image_weight of the "
                "loss, and the learning rate, instead."
            )
        # The baseline does not use the interaction, so its weights get no gradient.
        if pairwise and self._was_baseline:
            self.interaction.trainable = True
        elif not pairwise:
            self._was_baseline = self.interaction.trainable or self._was_baseline
            self.interaction.trainable = False
        self._freeze()
        plain = logits_metrics(metrics, self.num_classes)
        plain = [m for m in plain if m != "accuracy"]  # already included
        weighted = logits_metrics(weighted_metrics, self.num_classes)
        # Weighted, so that they see the zero weights of padding.
        named = any(getattr(m, "name", m) == "accuracy" for m in plain)
        own = [] if named else [Accuracy()]
        pairs = tuple(map(PairMean, _PAIR_FIGURES))
        self._compiled = _Compiled((loss, *plain, *weighted), pairs)
        weighted = [*own, *(pairs if pairwise else ()), *weighted]
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=plain or None,
            weighted_metrics=weighted or None,
            **kwargs,
        )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model with the settings of a saved model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def build_metrics(self) -> None:
        """Creates the variables of the metrics for integer labels.

        Keras creates them on the first batch, but a checkpoint is restored before that.
        """
        metrics = compiled_metrics(self)
        if metrics is not None and not metrics.built:
            logits = keras.KerasTensor((None, self.num_classes), "float32")
            metrics.build(keras.KerasTensor((None,), "int32"), logits)

    # The steps. JAX passes its state first; the other backends pass only data.

    def train_step(self, *args: Any) -> Any:
        """Trains on a batch `(images, labels)` or `(images, labels, weights)`."""
        *state, data = args
        images, labels, weights = self._batch(data)
        if isinstance(self.loss, PairwiseLoss):
            images = (images, labels)
        return super().train_step(*state, (images, labels, weights))

    def test_step(self, *args: Any) -> Any:
        """Computes the loss and metrics on a batch of single images."""
        *state, data = args
        return super().test_step(*state, self._batch(data))

    def predict_step(self, *args: Any) -> Any:
        """Returns the logits of a batch; see `_sound` for the result of bad pixels."""
        *state, data = args
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        self._check_inputs(images)
        outputs = super().predict_step(*state, data)
        if isinstance(images, dict):
            return outputs
        fault = pixel_fault(images)
        logits = outputs[0] if state else outputs
        first = ops.arange(self.num_classes) == 0
        told = ops.where(first, float("nan"), ops.cast(fault, logits.dtype))
        logits = ops.where(fault == 0, logits, told)
        return (logits, *outputs[1:]) if state else logits

    def _batch(self, data: Any) -> tuple[Any, Any, Any]:
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        _check_given(labels)
        self._check_inputs(images)
        check_labels_shape(labels, self.num_classes)
        return images, labels, weights

    def _check_form(self, labels: Any) -> None:
        # On JAX, Keras calls the loss and metrics before the first step.
        _check_given(labels)
        for given in self._compiled.judged:
            check_form(given, labels)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Computes the mean loss over the images of valid pairs, or over single images.

        A batch with invalid data yields a loss of NaN and no gradient.
        """
        self._check_form(y)
        images = x[0] if isinstance(x, (tuple, list)) else x
        pairwise = isinstance(y_pred, dict)
        given = y_pred["labels"][: ops.shape(y_pred["logits"])[0]] if pairwise else y
        sound = ops.logical_not(ops.any(outside(given, self.num_classes)))
        if not isinstance(images, dict):
            sound = ops.logical_and(sound, pixel_fault(images) == 0)
        own = self._single_images(given, y_pred, sample_weight) if pairwise else 0.0
        if pairwise:
            y, y_pred, sample_weight = self._pair_rows(y_pred, sample_weight)
        y = self._inside(y)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training) + own
        told = ops.where(sound, 0.0, float("nan"))
        return loss * ops.cast(sound, loss.dtype) + ops.cast(told, loss.dtype)

    def _single_images(
        self, labels: Tensor, outputs: dict[str, Tensor], sample_weight: Any
    ) -> Any:
        """Returns the weighted cross-entropy on the global batch's single images."""
        if "single_logits" not in outputs:
            return 0.0
        if sample_weight is not None:
            sample_weight = whole_batch(ops.reshape(sample_weight, (-1,)))
        loss = self.loss(self._inside(labels), outputs["single_logits"], sample_weight)
        return self.loss.single_image_weight * loss

    def _inside(self, labels: Tensor) -> Tensor:
        """Replaces invalid labels with class 0 and keeps the form of the labels."""
        if is_one_hot(labels):
            return labels
        wrong = ops.reshape(outside(labels, self.num_classes), ops.shape(labels))
        return ops.where(wrong, ops.zeros_like(labels), labels)

    def _pair_rows(
        self, outputs: dict[str, Tensor], sample_weight: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid = ops.cast(outputs["valid"], "float32")
        # Keras divides by the number of rows. The factor turns that into a mean over
        # the valid rows, and a batch without any pair gets a loss of 0.
        weights = valid / ops.maximum(ops.mean(valid), 1e-7)
        if sample_weight is not None:
            sample_weight = whole_batch(ops.reshape(sample_weight, (-1,)))
            sample_weight = ops.cast(sample_weight, "float32")
            if self.memory is not None:
                ones = ops.ones((self.memory.size,), "float32")
                sample_weight = ops.concatenate([sample_weight, ones])
            weights = weights * ops.take(sample_weight, outputs["images"], axis=0)
        return (
            ops.take(outputs["labels"], outputs["images"], axis=0),
            outputs["pair_logits"],
            weights,
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Tensor]:
        """Updates all metrics; those passed to `compile` see single images."""
        self._check_form(y)
        images = x[0] if isinstance(x, (tuple, list)) else x
        seen = None if isinstance(images, dict) else images
        lacks: tuple[Any, ...] = (False, False)
        pairwise = isinstance(y_pred, dict)
        if pairwise:
            labels, logits, _ = self._pair_rows(y_pred)
            logits = ops.stop_gradient(logits)  # else torch would keep the graph alive
            cross, ranking = self.loss.terms(self._inside(labels), logits)
            valid = ops.cast(y_pred["valid"], "float32")
            cross_mean, ranking_mean, valid_mean = self._compiled.pairs
            cross_mean.record(cross, valid)
            ranking_mean.record(ranking, valid)
            valid_mean.record(valid)
            logits = y_pred["logits"]
            # A memory offers partners from its second batch on; NaN is another fault.
            if self.memory is None:
                sound = ops.all(ops.isfinite(logits))
                found = self._lacks(y_pred["valid"], ops.shape(logits)[0])
                lacks = tuple(ops.logical_and(sound, lack) for lack in found)
            y, y_pred = y_pred["labels"][: ops.shape(logits)[0]], logits
            if sample_weight is not None:
                sample_weight = whole_batch(sample_weight)
        self.faults.update_state(seen, y, outside(y, self.num_classes), lacks)
        y = self._inside(y)
        logs: dict[str, Tensor] = super().compute_metrics(x, y, y_pred, sample_weight)
        return _shown(logs, pairwise)

    def _lacks(self, valid: Tensor, images: Any) -> tuple[Any, Any]:
        """Whether no image of a batch has an intra partner, and none an inter one."""
        intra, inter = self.miner.num_partners
        ends = intra * images, (intra + inter) * images
        first, second = valid[: ends[0]], valid[ends[0] : ends[1]]
        return (
            ops.logical_not(ops.any(first)) if intra else False,
            ops.logical_not(ops.any(second)) if inter else False,
        )

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Returns the logs; without pairs, only the metrics of single images."""
        logs: dict[str, Tensor] = super().get_metrics_result()
        return _shown(logs, not self._judging)


def _check_given(labels: Any) -> None:
    if labels is None:
        raise APINetError(
            "Training and evaluation need labels, but got none; pass x and y, or "
            "(images, labels) batches."
        )


@dataclass(frozen=True, eq=False)
class _Compiled:
    """State of one `compile` call; Keras tracks the metrics elsewhere."""

    judged: tuple[Any, ...]  # the given loss and metrics
    pairs: tuple[PairMean, ...]  # one for each of `_PAIR_FIGURES`


def _shown(logs: dict[str, Tensor], pairwise: bool) -> dict[str, Tensor]:
    """Selects the logs to show."""
    hidden = {NAME} if pairwise else {NAME, *_PAIR_FIGURES}
    return {name: value for name, value in logs.items() if name not in hidden}
