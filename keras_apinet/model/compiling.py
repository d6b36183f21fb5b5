"""Adapts the arguments of `compile` to a model that outputs logits."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apinet.compat import better_when, set_better_when
from keras_apinet.errors import APINetError
from keras_apinet.layers.mining import class_indices
from keras_apinet.losses import CrossEntropy, PairwiseLoss
from keras_apinet.types import Tensor

_KNOWN = {
    keras.losses.sparse_categorical_crossentropy: (
        keras.losses.SparseCategoricalCrossentropy
    ),
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: (
        keras.losses.CategoricalFocalCrossentropy
    ),
}


def logits_loss(loss: Any, num_classes: int) -> Any:
    """Adapts a loss to logits; `None` means `PairwiseLoss()`.

    Keras's cross-entropies get `from_logits=True`. A loss that expects probabilities
    and a list of losses are errors.
    """
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    elif isinstance(loss, dict) and len(loss) == 1:
        (loss,) = loss.values()
    if isinstance(loss, (list, tuple, dict)):
        raise APINetError(
            f"loss={loss!r} has {len(loss)} losses, but the model has one output; pass "
            "one loss, or none to train on pairs."
        )
    if loss is None:
        return PairwiseLoss()
    if isinstance(loss, (PairwiseLoss, CrossEntropy)):
        return loss
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return CrossEntropy()
    function = keras.losses.get(loss)
    if isinstance(function, type):
        function = function()
    function = _KNOWN.get(function, lambda: function)()
    function = _from_logits(function)
    if getattr(function, "from_logits", False) or takes_logits(function, num_classes):
        # A string stays a string only if nothing has to be changed.
        return function
    raise APINetError(
        f"loss={_name(loss)!r} expects probabilities or other values, but the model "
        "outputs logits; set from_logits=True, apply keras.ops.softmax inside the "
        "loss, or pass no loss to train on pairs."
    )


@keras.saving.register_keras_serializable("keras_apinet")  # type: ignore[untyped-decorator]
def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """Computes each image's cross-entropy `[N]`; labels `[N]` or one-hot `[N, C]`."""
    return CrossEntropy().call(labels, logits)


def _from_logits(given: Any) -> Any:
    """Sets `from_logits=True` on a cross-entropy over classes."""
    config = given.get_config() if hasattr(given, "get_config") else {}
    # Others (binary ones, AUC) would treat the logits as those of independent classes.
    if "Categorical" not in type(given).__name__ or "from_logits" not in config:
        return given
    if config["from_logits"]:
        return given
    return type(given).from_config({**config, "from_logits": True})


def takes_logits(function: Callable[..., Any], num_classes: int) -> bool:
    """Whether a loss or metric is invariant to shifted logits.

    Adding a constant to all logits does not change their softmax, but does change the
    result of anything that treats its input as probabilities.
    """
    labels = np.arange(4) % num_classes
    logits = np.linspace(-1, 1, 4 * num_classes, dtype="float32") ** 3
    logits = logits.reshape(4, num_classes)
    one_hot = np.eye(num_classes, dtype="float32")[labels]
    integers = (labels, labels[:, None])
    forms = integers if label_form(function) == "integer" else (one_hot, *integers)
    for form in forms:
        try:
            values = [
                np.asarray(
                    ops.convert_to_numpy(
                        function(ops.convert_to_tensor(form), ops.convert_to_tensor(z))
                    ),
                    "float32",
                )
                for z in (logits, logits + 3)
            ]
        except Exception:  # labels of the other form, or a custom function's own error
            continue
        return bool(np.allclose(values[0], values[1], rtol=1e-3, atol=1e-4))
    return True


def label_form(given: Any) -> str | None:
    """Infers the label form from a name: `"integer"`, `"one-hot"` or `None`."""
    name = _name(given).replace("_", "").lower()
    ours = isinstance(given, (CrossEntropy, PairwiseLoss, Accuracy))
    if ours or "categorical" not in name:
        return None
    return "integer" if "sparse" in name else "one-hot"


def check_form(given: Any, labels: Tensor) -> None:
    """Rejects labels in a form, one-hot or integer, that a loss would misread."""
    form = label_form(given)
    came = "integer" if len(labels.shape) == 1 or labels.shape[-1] == 1 else "one-hot"
    if form is not None and form != came:
        name = _name(given)
        other = "without Sparse" if form == "integer" else "with Sparse before it"
        raise APINetError(
            f"{name} takes {form} labels, but got {came} ones of shape="
            f"{tuple(labels.shape)}; use the one {other}, or pass labels of that form."
        )


def _name(given: Any) -> str:
    if isinstance(given, OnProbabilities):
        return _name(given.metric)
    if type(given) is keras.metrics.MeanMetricWrapper:
        return str(given.name)
    if isinstance(given, str):
        return given
    return str(getattr(given, "__name__", type(given).__name__))


def logits_metrics(metrics: Any, num_classes: int) -> list[Any]:
    """Adapts metrics to logits, wrapping some in `OnProbabilities`.

    Metrics that the model adds itself are left out.
    """
    if isinstance(metrics, dict):
        metrics = list(metrics.values())
    if not isinstance(metrics, (list, tuple)):
        metrics = [] if metrics is None else [metrics]
    found: list[Any] = []
    for given in metrics:
        if isinstance(given, (list, tuple)):
            found += logits_metrics(given, num_classes)
        elif not isinstance(given, (Accuracy, PairMean)):
            found.append(_logits_metric(given, num_classes))
    return found


def _logits_metric(given: Any, num_classes: int) -> Any:
    if isinstance(given, OnProbabilities) or given in ("acc", "accuracy"):
        return given
    if given in ("crossentropy", "ce"):
        return keras.metrics.MeanMetricWrapper(cross_entropy, name=given)
    metric = keras.metrics.get(given)
    if isinstance(metric, type):
        metric = metric()
    if not isinstance(metric, keras.metrics.Metric):
        name = given if isinstance(given, str) else getattr(given, "__name__", None)
        metric = keras.metrics.MeanMetricWrapper(metric, name=name)
    metric = _from_logits(metric)

    def value(labels: Any, outputs: Any) -> Any:
        # Uses a copy if possible, because the metric itself has to start empty.
        try:
            return type(metric).from_config(metric.get_config())(labels, outputs)
        except TypeError:
            found = ops.copy(metric(labels, outputs))
            metric.reset_state()
            return found

    value.__name__ = _name(metric)
    return metric if takes_logits(value, num_classes) else OnProbabilities(metric)


@keras.saving.register_keras_serializable(package="keras_apinet")
class Accuracy(keras.metrics.SparseCategoricalAccuracy):
    """Computes the top-1 accuracy of single images from labels of any form.

    A weight of 0 marks padding; any other weight counts as one image.
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Adds a batch."""
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight > 0, "float32")
        super().update_state(class_indices(y_true), y_pred, sample_weight)


@keras.saving.register_keras_serializable(package="keras_apinet")
class PairMean(keras.metrics.Mean):
    """Computes a mean over pairs from the values that the training step records.

    It is one of the compiled metrics, because that is where Keras's callbacks look up
    the direction of a monitored metric.
    """

    def __init__(self, name: str = "pair_mean", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        set_better_when(self, "up" if name == "valid_pairs" else "down")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Does nothing, because single images have no pairs."""

    def record(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Adds the values of some pairs."""
        super().update_state(values, weights)


@keras.saving.register_keras_serializable(package="keras_apinet")
class OnProbabilities(keras.metrics.Metric):
    """Wraps a metric of probabilities and feeds it the softmax of logits."""

    def __init__(self, metric: Any, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name or metric.name, dtype=dtype)
        self.metric = metric
        set_better_when(self, better_when(metric))

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Adds a batch of logits."""
        probabilities = ops.softmax(ops.cast(y_pred, "float32"), axis=-1)
        self.metric.update_state(y_true, probabilities, sample_weight)

    def result(self) -> Tensor:
        """Returns the result of the wrapped metric."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Resets the wrapped metric."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        metric = keras.saving.serialize_keras_object(self.metric)
        return {**super().get_config(), "metric": metric}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Creates a metric from `get_config()` output."""
        metric = keras.saving.deserialize_keras_object(config["metric"])
        return cls(**{**config, "metric": metric})
