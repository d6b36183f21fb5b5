"""Compiles functions and their gradients as the backend compiles a training step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras


def compiled(
    function: Callable[..., Any], variables: Sequence[Any] = (), jit: bool = True
) -> Callable[..., Any]:
    """Compiles a function of tensors, or its gradients.

    Args:
        function: Returns tensors, or a scalar if there are variables.
        variables: Keras variables. If given, the compiled function returns the
            gradients of the scalar.
        jit: Whether TensorFlow compiles the function with XLA.
    """
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[
        keras.backend.backend()
    ](function, list(variables), jit)


def _tensorflow(function: Any, variables: list[Any], jit: bool) -> Any:
    import tensorflow as tf

    def run(*inputs: Any) -> Any:
        if not variables:
            return function(*inputs)
        with tf.GradientTape() as tape:
            value = function(*inputs)
        return tape.gradient(value, [v.value for v in variables])

    return tf.function(run, jit_compile=jit, autograph=False)


def _jax(function: Any, variables: list[Any], jit: bool) -> Any:
    import jax

    def run(values: list[Any], *inputs: Any) -> Any:
        # Variables are read from `values`; new states of random seeds are dropped.
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(*inputs)

    made = jax.jit(jax.grad(run) if variables else run)
    return lambda *inputs: made([v.value for v in variables], *inputs)


def _torch(function: Any, variables: list[Any], jit: bool) -> Any:
    import torch

    def run(*inputs: Any) -> Any:
        if not variables:
            with torch.no_grad():
                return function(*inputs)
        return torch.autograd.grad(function(*inputs), [v.value for v in variables])

    return run


def compiled_update(optimizer: Any, variables: Sequence[Any], jit: bool = True) -> Any:
    """Compiles a function of gradients that updates the variables."""
    variables = list(variables)
    optimizer.build(variables)
    if keras.backend.backend() != "jax":
        if keras.backend.backend() == "torch":
            return lambda *gradients: optimizer.apply(list(gradients), variables)
        import tensorflow as tf

        @tf.function(jit_compile=jit, autograph=False)
        def update(*gradients: Any) -> None:
            optimizer.apply(list(gradients), variables)

        return update
    import jax

    apply = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))

    def stateless(*gradients: Any) -> Any:
        states = optimizer.variables
        done = apply(
            [v.value for v in states], list(gradients), [v.value for v in variables]
        )
        for group, values in zip((variables, states), done, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        return done[0]

    return stateless


def finished(outputs: Any) -> None:
    """Waits until the outputs have been computed."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        jax.block_until_ready(outputs)
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        import tensorflow as tf

        # On a GPU TensorFlow returns before the work is done.
        if tf.config.list_logical_devices("GPU"):
            tf.test.experimental.sync_devices()
