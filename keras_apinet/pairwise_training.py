"""How Keras trains a model on pairs: its own step, with the labels as an input."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.interaction import AttentivePairwiseInteraction
from keras_apinet.losses import PairwiseLoss
from keras_apinet.memory import FeatureMemory
from keras_apinet.mining import class_indices
from keras_apinet.replicas import whole_batch
from keras_apinet.types import Tensor


class PairwiseTraining(keras.Model):
    """A model whose `call((images, labels))` gives pairs, as Keras trains it.

    Keras's own step does the work on every backend; it only has to see the labels as an
    input, because pairs are chosen by class.
    """

    num_classes: int
    interaction: AttentivePairwiseInteraction
    memory: FeatureMemory | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.cross_entropy = keras.metrics.Mean(name="cross_entropy")
        self.ranking_loss = keras.metrics.Mean(name="ranking_loss")
        self.valid_pairs = keras.metrics.Mean(name="valid_pairs")
        self._judging = False

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any
    ) -> None:
        """As `keras.Model.compile`; `loss` is `PairwiseLoss()` unless given."""
        loss = PairwiseLoss() if loss is None else loss
        # The baseline never meets the interaction: its weights would have no gradient.
        self.interaction.trainable = isinstance(loss, PairwiseLoss)
        super().compile(optimizer=optimizer, loss=loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles as a saved model was compiled."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`, for arrays or a data set of `(images, labels)`."""
        # Keras would warn that it cannot shuffle a data set; nobody asked it to.
        arrays = y is not None or isinstance(x, keras.utils.PyDataset)
        kwargs.setdefault("shuffle", arrays)
        self._check_range(y)
        return super().fit(x, y, *args, **kwargs)

    def _check_range(self, labels: Any) -> None:
        whole = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu"
        if not whole or not labels.size or (labels.ndim == 2 and labels.shape[1] > 1):
            return
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise APINetError(
                f"A label is {wrong}, but num_classes={self.num_classes} allows 0 to "
                f"{self.num_classes - 1}; number the classes from 0, or raise it."
            )

    def train_step(self, *args: Any) -> Any:
        """One step on a batch `(images, labels)` or `(images, labels, weights)`."""
        *state, data = args  # JAX passes its state first, the others pass only data
        if isinstance(self.loss, PairwiseLoss):
            images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
            _check_labels(labels)
            data = ((images, labels), labels, weights)
        return super().train_step(*state, data)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Mean loss over the images of valid pairs, or over single images."""
        _check_labels(y)
        if isinstance(y_pred, dict):
            y, y_pred, sample_weight = self._pair_rows(y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _pair_rows(
        self, outputs: dict[str, Tensor], sample_weight: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        valid = ops.cast(outputs["valid"], "float32")
        # Keras divides by the number of rows: the factor turns that into a mean over
        # the valid ones, and a batch without a single pair has loss 0.
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
        """Updates what is logged; metrics given to `compile` see single images."""
        pairwise = isinstance(y_pred, dict)
        weights = None
        if pairwise:
            labels, logits, _ = self._pair_rows(y_pred)
            logits = ops.stop_gradient(logits)  # torch would keep what a gradient needs
            cross, ranking = self.loss.terms(labels, logits)
            valid = ops.cast(y_pred["valid"], "float32")
            self.cross_entropy.update_state(cross, valid)
            self.ranking_loss.update_state(ranking, valid)
            self.valid_pairs.update_state(valid)
            logits = y_pred["logits"]
            y, y_pred = y_pred["labels"][: ops.shape(logits)[0]], logits
        elif sample_weight is not None:
            # Weights of 0 mark what fills a batch up; others count as one image each.
            weights = ops.cast(sample_weight > 0, "float32")
        self.accuracy.update_state(class_indices(y), y_pred, weights)
        logs: dict[str, Tensor] = super().compute_metrics(x, y, y_pred, sample_weight)
        return logs if pairwise else _single_image_logs(logs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        before, self._judging = self._judging, True
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._judging = before

    def get_metrics_result(self) -> dict[str, Tensor]:
        """What is logged; without pairs, only what single images have."""
        logs: dict[str, Tensor] = super().get_metrics_result()
        return _single_image_logs(logs) if self._judging else logs


def _single_image_logs(logs: dict[str, Tensor]) -> dict[str, Tensor]:
    pairs = ("cross_entropy", "ranking_loss", "valid_pairs")
    return {name: value for name, value in logs.items() if name not in pairs}


def _check_labels(labels: Any) -> None:
    if labels is None:
        raise APINetError(
            "Training and evaluation need labels: give (images, labels) batches, or x "
            "and y."
        )
