"""Optimizers with layer-wise learning rates, and schedules with a linear warm-up.

They are not in `keras_apinet.train`, so that loading a saved model registers them.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_apinet.compat import OptimizerSteps
from keras_apinet.distribute import whole_gradients
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import check_choice

WEIGHT_DECAY_MODES = ("decoupled", "l2")


@keras.saving.register_keras_serializable(package="keras_apinet")
class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from 0 to the peak, followed by another schedule.

    Args:
        peak: Learning rate at the end of the warm-up.
        steps: Number of warm-up steps as counted by Keras: with gradient accumulation,
            every batch is a step.
        after: The schedule that follows, from its own step 0.
    """

    def __init__(self, peak: float, steps: int, after: Any) -> None:
        self.peak, self.steps, self.after = peak, steps, after

    def __call__(self, step: Any) -> Any:
        """The rate of a step."""
        step = ops.cast(step, "float32")
        rising = self.peak * step / max(1, self.steps)
        after = self.after(ops.maximum(step - self.steps, 0.0))
        return ops.where(step < self.steps, rising, after)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        after = keras.saving.serialize_keras_object(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rising":
        """The schedule of a `get_config()`."""
        after = keras.saving.deserialize_keras_object(config["after"])
        return cls(**{**config, "after": after})


@keras.saving.register_keras_serializable(package="keras_apinet")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """One-cycle schedule (Smith and Topin 2018, in the form of fastai).

    Rises from 1/25 of the peak over 30 % of the steps, then falls to 1/10,000 of the
    initial rate. Both follow a cosine.

    Args:
        peak: The highest rate.
        steps: Number of steps in the whole cycle as counted by Keras: with gradient
            accumulation, every batch is a step.
    """

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        """The rate of a step."""
        place = ops.cast(step, "float32") / max(1, self.steps)
        low, last = self.peak / 25, self.peak / 25 / 1e4
        up = _cosine(low, self.peak, place / 0.3)
        down = _cosine(self.peak, last, (place - 0.3) / 0.7)
        return ops.where(place < 0.3, up, down)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps}


def _cosine(start: float, end: float, place: Any) -> Any:
    place = ops.clip(place, 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + ops.cos(place * 3.141592653589793))


class _Layerwise(OptimizerSteps):
    """Scales the learning rate per variable, and clips the global gradient.

    An update clips, decays weights, and steps, in this order. The multiplier of a
    variable also scales its decoupled decay, as in torch's parameter groups.
    """

    built: bool
    use_ema: bool
    ema_momentum: float
    gradient_accumulation_steps: int | None
    weight_decay: float | None
    weight_decay_mode = "decoupled"

    def __init__(
        self,
        *args: Any,
        layer_shares: dict[str, float] | None = None,
        undecayed: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layer_shares = dict(layer_shares or {})
        # Keras does not save these with an optimizer.
        self.undecayed = list(undecayed)
        if undecayed:
            self.exclude_from_weight_decay(  # type: ignore[attr-defined]
                var_names=self.undecayed
            )

    def build(self, variables: list[Any]) -> None:
        """Creates the optimizer's variables."""
        if self.built:
            return
        super().build(variables)  # type: ignore[misc]
        # Keras leaves averages at zero until the first update, but a model may be
        # validated and saved before that.
        if self.use_ema:
            for variable, average in zip(variables, self.averages, strict=True):
                if average is not None:
                    average.assign(ops.copy(variable))  # JAX would share it

    def update_averages(self, variables: list[Any]) -> None:
        """Updates the averages after a change of the weights.

        Keras updates them after every batch, even if gradient accumulation leaves the
        weights unchanged.
        """
        every = self.gradient_accumulation_steps or 1
        updated = (self.batches + 1) % every == 0
        # The weights may have been loaded since the averages were made.
        first = self.batches < every
        for variable, average in zip(variables, self.averages, strict=True):
            if average is not None:
                kept = ops.where(updated, ops.where(first, 0.0, self.ema_momentum), 1.0)
                kept = ops.cast(kept, variable.dtype)
                average.assign(kept * average + (1 - kept) * variable)

    def decay_all(self, variables: list[Any]) -> None:
        """Does nothing, because `update_step` decays each variable at its own rate."""

    def update_all(self, gradients: list[Any], variables: list[Any], rate: Any) -> None:
        """Updates variables with the same multiplier together, at their own rate."""
        groups: dict[float, tuple[list[Any], list[Any]]] = {}
        for gradient, variable in zip(gradients, variables, strict=True):
            share = self.layer_shares.get(variable.path, 1.0)
            group = groups.setdefault(share, ([], []))
            group[0].append(gradient)
            group[1].append(variable)
        for share, group in groups.items():
            super().update_all(*group, rate * share)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays one variable, and updates it."""
        gradient = self._decayed(gradient, variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]

    def _decayed(self, gradient: Any, variable: Any, learning_rate: Any) -> Any:
        """Applies weight decay to a variable or its gradient; returns the gradient."""
        if not self.weight_decay or not self.decays(variable):
            return gradient
        decay = ops.cast(self.weight_decay, variable.dtype)
        if self.weight_decay_mode == "l2":
            gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
            return gradient + decay * variable
        rate = ops.cast(learning_rate, variable.dtype)
        variable.assign(variable - variable * decay * rate)
        return gradient

    def clip(self, gradients: list[Any]) -> list[Any]:
        """Clips global gradients; Keras would clip those of each replica."""
        whole, replicas = whole_gradients(gradients)
        return [g if g is None else g / replicas for g in super().clip(whole)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]
        own = {"layer_shares": self.layer_shares, "undecayed": self.undecayed}
        return {**config, **own}


@keras.saving.register_keras_serializable(package="keras_apinet")
class LayerwiseAdamW(_Layerwise, keras.optimizers.AdamW):
    """AdamW with a learning rate for each layer.

    Args:
        layer_shares: Mapping from paths of variables to multipliers of their learning
            rate and, because it is proportional to the rate, of their weight decay.
        undecayed: Variables with one of these in their names have no weight decay.
    """


@keras.saving.register_keras_serializable(package="keras_apinet")
class LayerwiseSGD(_Layerwise, keras.optimizers.SGD):
    """SGD with a learning rate for each layer, and the weight decay of Keras or torch.

    `"decoupled"` is `keras.optimizers.SGD`: each variable is multiplied by
    `1 - rate * weight_decay`, apart from gradient and momentum. `"l2"` is
    `torch.optim.SGD`, which the recipes of most papers mean:

    ```
    g = clipped gradient + weight_decay * w
    m = momentum * m + g
    w = w - rate * m
    ```

    Here the decay passes through the momentum, and a momentum of 0.9 makes it about ten
    times as strong. Because the momentum accumulates gradients rather than steps, a
    change of the rate affects all of it at once.

    Args:
        layer_shares: Mapping from paths of variables to multipliers of their learning
            rate. They also scale a decoupled decay, which is proportional to the rate,
            but not the L2 term, which is part of the gradient.
        undecayed: Variables with one of these in their names have no weight decay.
        weight_decay_mode: `"decoupled"` (default) or `"l2"`.

    Raises:
        APINetError: For an unknown mode, or Nesterov momentum with `"l2"`.
    """

    def __init__(
        self, *args: Any, weight_decay_mode: str = "decoupled", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        check_choice("weight_decay_mode", weight_decay_mode, WEIGHT_DECAY_MODES)
        if weight_decay_mode == "l2" and self.nesterov:
            raise APINetError(
                "nesterov=True and weight_decay_mode='l2' cannot be combined; set "
                "nesterov=False, or weight_decay_mode='decoupled'."
            )
        self.weight_decay_mode = weight_decay_mode

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Decays one variable, and updates it."""
        if self.weight_decay_mode == "decoupled" or not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        gradient = self._decayed(gradient, variable, learning_rate)
        kept = self.slot(self.momentums, variable)
        step = ops.cast(gradient, variable.dtype) + self.momentum * kept
        self.assign(kept, step)
        self.assign_sub(variable, step * ops.cast(learning_rate, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "weight_decay_mode": self.weight_decay_mode}
