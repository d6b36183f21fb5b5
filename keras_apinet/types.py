"""Aliases for what the backends and data sets hand around."""

from typing import Any

# A tensor of the active Keras backend, a NumPy array or a symbolic `KerasTensor`.
Tensor = Any
# Anything that `keras.Model.fit` takes as its training data.
Dataset = Any
# The figures that Keras tells a callback.
Logs = dict[str, Any] | None
# The static shape of a tensor; `None` for an unknown dimension.
Shape = tuple[int | None, ...]
