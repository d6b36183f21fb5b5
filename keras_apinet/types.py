"""Type aliases for tensors, data sets, logs and shapes."""

from typing import Any

# A tensor of the active Keras backend, a NumPy array or a symbolic `KerasTensor`.
Tensor = Any
# Anything that `keras.Model.fit` takes as its training data.
Dataset = Any
# The logs that Keras passes to a callback.
Logs = dict[str, Any] | None
# The static shape of a tensor; `None` for an unknown dimension.
Shape = tuple[int | None, ...]
