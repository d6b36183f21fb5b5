"""Every private Keras name that the package cannot do without, each with a test.

The rest of the package uses the names given here. `tests/test_compat.py` fails when
Keras renames one of its own.
"""

from typing import Any

import keras


def flatten_layers(layer: Any, include_self: bool = True) -> list[keras.layers.Layer]:
    """A layer and all the layers inside it, at any depth, in Keras's own order.

    `Model.layers` is public, but does not look into layers that are not models.
    """
    return list(layer._flatten_layers(include_self=include_self))


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable variables of a layer, without those of the layers inside it."""
    return list(layer._trainable_variables)


def compiled_metrics(model: keras.Model) -> Any:
    """What `compile` made of the metrics of a model, or `None`."""
    return model._compile_metrics


def better_when(metric: keras.metrics.Metric) -> str | None:
    """`"up"` or `"down"`, as callbacks that monitor a metric read it; or `None`."""
    return getattr(metric, "_direction", None)


def set_better_when(metric: keras.metrics.Metric, direction: str | None) -> None:
    """Tells callbacks which direction of a metric is better, if that is known."""
    if direction is not None:
        metric._direction = direction


class OptimizerSteps:
    """The parts of a Keras optimizer's update that a subclass may need to change.

    Stands before `keras.optimizers.Optimizer` in the order of base classes. Keras has
    no public place for learning rates of single variables, for clipping by a norm over
    all replicas, and for averages under gradient accumulation.
    """

    @property
    def batches(self) -> Any:
        """Batches seen; `iterations` counts the changes of the weights."""
        return self._iterations  # type: ignore[attr-defined]

    @property
    def averages(self) -> list[Any]:
        """The average of each variable, in their order; `None` for those without."""
        return list(self._model_variables_moving_average)  # type: ignore[attr-defined]

    def decays(self, variable: Any) -> bool:
        """Whether weight decay is meant for a variable."""
        return bool(self._use_weight_decay(variable))  # type: ignore[attr-defined]

    def slot(self, slots: list[Any], variable: Any) -> Any:
        """What a list with one entry for each variable has for this one."""
        return slots[self._get_variable_index(variable)]  # type: ignore[attr-defined]

    def update_averages(self, variables: list[Any]) -> None:
        """Moves the averages after a batch."""
        super()._update_model_variables_moving_average(variables)  # type: ignore[misc]

    def decay_all(self, variables: list[Any]) -> None:
        """Decays all variables at one rate."""
        super()._apply_weight_decay(variables)  # type: ignore[misc]

    def update_all(self, gradients: list[Any], variables: list[Any], rate: Any) -> None:
        """Updates variables at one rate; every backend's updates go through here."""
        super()._backend_update_step(gradients, variables, rate)  # type: ignore[misc]

    def clip(self, gradients: list[Any]) -> list[Any]:
        """Clips gradients as the optimizer was told to."""
        return list(super()._clip_gradients(gradients))  # type: ignore[misc]

    # Keras's own names, which lead to those above.

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
