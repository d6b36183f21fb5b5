"""What `compile` is given, made to fit a model that gives logits."""

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
    """The loss as it is to be for logits; `None` is `PairwiseLoss()`.

    Keras's cross-entropies get `from_logits=True`; a loss of probabilities, or several
    losses, are an error.
    """
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    elif isinstance(loss, dict) and len(loss) == 1:
        (loss,) = loss.values()
    if isinstance(loss, (list, tuple, dict)):
        raise APINetError(
            f"loss={loss!r} are {len(loss)} losses for the model's one output; give "
            "one, or none for pairs."
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
        # A string stays one only if nothing had to be changed.
        return function
    raise APINetError(
        f"loss={_name(loss)!r} wants probabilities, or something else that is not "
        "logits, which the model gives: choose from_logits=True, or apply "
        "keras.ops.softmax inside it; without a loss the model trains on pairs."
    )


@keras.saving.register_keras_serializable("keras_apinet")  # type: ignore[untyped-decorator]
def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """The cross-entropy `[N]` of each image, of labels `[N]` or one-hot `[N, C]`."""
    return CrossEntropy().call(labels, logits)


def _from_logits(given: Any) -> Any:
    """A cross-entropy over classes, told that it gets logits."""
    config = given.get_config() if hasattr(given, "get_config") else {}
    # Others (binary ones, AUC) would take the logits for those of independent classes.
    if "Categorical" not in type(given).__name__ or "from_logits" not in config:
        return given
    if config["from_logits"]:
        return given
    return type(given).from_config({**config, "from_logits": True})


def takes_logits(function: Callable[..., Any], num_classes: int) -> bool:
    """Whether a loss or metric is the same for logits that are shifted.

    A softmax takes no notice of a number that is added to all logits; whatever reads
    its input as probabilities does.
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
        except Exception:  # Labels of the other form, or a function of its own mind.
            continue
        return bool(np.allclose(values[0], values[1], rtol=1e-3, atol=1e-4))
    return True


def label_form(given: Any) -> str | None:
    """What a loss or metric takes by its name: `"integer"`, `"one-hot"` or `None`."""
    name = _name(given).replace("_", "").lower()
    ours = isinstance(given, (CrossEntropy, PairwiseLoss, Accuracy))
    if ours or "categorical" not in name:
        return None
    return "integer" if "sparse" in name else "one-hot"


def check_form(given: Any, labels: Tensor) -> None:
    """Refuses labels whose form, one-hot or integer, a loss or metric would misread."""
    form = label_form(given)
    came = "integer" if len(labels.shape) == 1 or labels.shape[-1] == 1 else "one-hot"
    if form is not None and form != came:
        name = _name(given)
        other = "without Sparse" if form == "integer" else "with Sparse before it"
        raise APINetError(
            f"{name} takes {form} labels, but {came} ones came, shape="
            f"{tuple(labels.shape)}; take the one {other}, or labels of the other form."
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
    """The metrics as they are to be for logits: some as `OnProbabilities`.

    The model's own metrics, which it adds itself, are left out.
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
        # A copy if it can be made; the metric itself has to begin empty.
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
    """Top-1 accuracy of single images, from labels of any form.

    Weights of 0 mark what fills a batch up; others count as one image each.
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Counts a batch."""
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight > 0, "float32")
        super().update_state(class_indices(y_true), y_pred, sample_weight)


@keras.saving.register_keras_serializable(package="keras_apinet")
class PairMean(keras.metrics.Mean):
    """A mean over pairs, which the training step records itself.

    It stands among the compiled metrics, which is where Keras's callbacks look for the
    direction of what they monitor.
    """

    def __init__(self, name: str = "pair_mean", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        set_better_when(self, "up" if name == "valid_pairs" else "down")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Does nothing: single images have no pairs."""

    def record(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Adds the values of some pairs."""
        super().update_state(values, weights)


@keras.saving.register_keras_serializable(package="keras_apinet")
class OnProbabilities(keras.metrics.Metric):
    """A metric of probabilities, for a model of logits: it gets their softmax."""

    def __init__(self, metric: Any, name: str | None = None, dtype: Any = None) -> None:
        super().__init__(name=name or metric.name, dtype=dtype)
        self.metric = metric
        set_better_when(self, better_when(metric))

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Counts a batch of logits."""
        probabilities = ops.softmax(ops.cast(y_pred, "float32"), axis=-1)
        self.metric.update_state(y_true, probabilities, sample_weight)

    def result(self) -> Tensor:
        """The metric's."""
        return self.metric.result()

    def reset_state(self) -> None:
        """Empties the metric."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        metric = keras.saving.serialize_keras_object(self.metric)
        return {**super().get_config(), "metric": metric}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The metric of a `get_config()`."""
        metric = keras.saving.deserialize_keras_object(config["metric"])
        return cls(**{**config, "metric": metric})
