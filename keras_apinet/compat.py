"""All private Keras names that the package depends on, each with a test.

The rest of the package uses the names defined here. `tests/test_compat.py` fails if
Keras renames one of its own.
"""

from typing import Any

import keras


def flatten_layers(layer: Any, include_self: bool = True) -> list[keras.layers.Layer]:
    """Returns a layer and all layers nested inside it, in Keras's own order.

    `Model.layers` is public, but does not descend into layers that are not models.
    """
    return list(layer._flatten_layers(include_self=include_self))


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns a layer's own trainable variables, without those of nested layers."""
    return list(layer._trainable_variables)


def compiled_metrics(model: keras.Model) -> Any:
    """Returns the compiled metrics of a model, or `None`."""
    return model._compile_metrics


def better_when(metric: keras.metrics.Metric) -> str | None:
    """Returns the direction that callbacks read, `"up"` or `"down"`, or `None`."""
    return getattr(metric, "_direction", None)


def set_better_when(metric: keras.metrics.Metric, direction: str | None) -> None:
    """Sets the direction in which callbacks consider a metric better, if known."""
    if direction is not None:
        metric._direction = direction


class OptimizerSteps:
    """Exposes the parts of a Keras optimizer's update that subclasses may override.

    It must precede `keras.optimizers.Optimizer` among the base classes. Keras has no
    public hooks for per-variable learning rates, clipping by the norm over all
    replicas, or moving averages under gradient accumulation.
    """

    @property
    def batches(self) -> Any:
        """Number of batches seen; `iterations` counts the weight updates."""
        return self._iterations  # type: ignore[attr-defined]

    @property
    def averages(self) -> list[Any]:
        """Moving average of each variable, in order; `None` for those without one."""
        return list(self._model_variables_moving_average)  # type: ignore[attr-defined]

    def decays(self, variable: Any) -> bool:
        """Whether weight decay applies to a variable."""
        return bool(self._use_weight_decay(variable))  # type: ignore[attr-defined]

    def slot(self, slots: list[Any], variable: Any) -> Any:
        """Returns the entry for a variable in a list with one entry per variable."""
        return slots[self._get_variable_index(variable)]  # type: ignore[attr-defined]

    def update_averages(self, variables: list[Any]) -> None:
        """Updates the moving averages after a batch."""
        super()._update_model_variables_moving_average(variables)  # type: ignore[misc]

    def decay_all(self, variables: list[Any]) -> None:
        """Applies weight decay to all variables at one rate."""
        super()._apply_weight_decay(variables)  # type: ignore[misc]

    def update_all(self, gradients: list[Any], variables: list[Any], rate: Any) -> None:
        """Updates variables at one rate; updates on every backend go through here."""
        super()._backend_update_step(gradients, variables, rate)  # type: ignore[misc]

    def clip(self, gradients: list[Any]) -> list[Any]:
        """Clips gradients as the optimizer is configured."""
        return list(super()._clip_gradients(gradients))  # type: ignore[misc]

    # Keras's own names, which call those above.

    def _update_model_variables_moving_average(self, variables: list[Any]) -> None:
        self.update_averages(variables)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        self.decay_all(variables)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        self.update_all(grads, trainable_variables, learning_rate)

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        return self.clip(grads)
