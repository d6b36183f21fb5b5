"""Training on several devices and hosts, with `keras.distribution` on JAX and
`tf.distribute` on TensorFlow.

The recipe's batch is the global batch. Devices share it and pairs are mined over all of
it, so training on several devices gives the same result as on one.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras

from keras_apinet.errors import APINetError, reason
from keras_apinet.files.bounds import DEVICES, PROCESS_INDEX, PROCESSES
from keras_apinet.types import Dataset, Tensor


@dataclass(frozen=True)
class Devices:
    """Devices and processes to train on.

    Attributes:
        count: Number of devices of this process that share each batch. Defaults to 1,
            or to all devices if there are several processes.
        model: Number of devices that share the classes of the classifier, a divisor of
            `count`; JAX only, for very many classes. Defaults to 1.
        coordinator: `host:port` of process 0, if there are several processes.
        processes: Total number of processes. Defaults to 1.
        process_index: Index of this process, from 0.

    Raises:
        APINetError: For numbers that are inconsistent or not supported by the backend.
    """

    count: int | None = None
    model: int = 1
    coordinator: str | None = None
    processes: int = 1
    process_index: int = 0

    def __post_init__(self) -> None:
        if self.count is not None:
            DEVICES.check("count", self.count)
        DEVICES.check("model", self.model)
        PROCESSES.check("processes", self.processes)
        PROCESS_INDEX.check("process_index", self.process_index)
        if self.process_index >= self.processes:
            raise APINetError(
                f"process_index={self.process_index} must be in 0 to "
                f"{self.processes - 1} for processes={self.processes}."
            )
        if (self.processes > 1) != (self.coordinator is not None):
            raise APINetError(
                f"processes={self.processes} and coordinator={self.coordinator!r} are "
                "inconsistent: several processes need the HOST:PORT of the first, one "
                "process needs none."
            )
        if self.model > 1 and ((self.count or 1) % self.model or self.processes > 1):
            raise APINetError(
                f"model={self.model} devices for the classifier must divide "
                f"count={self.count} devices of a single process."
            )

    @property
    def several(self) -> bool:
        """Whether there are several devices or processes."""
        return (self.count or 1) > 1 or self.processes > 1


class Placement:
    """Placement of batches and variables on the devices; created by `place`.

    Attributes:
        shares: Number of parts that a global batch is split into.
        processes: Total number of processes.
        process_index: Index of this process.
    """

    def __init__(self, devices: Devices, shares: int, strategy: Any = None) -> None:
        self.shares = shares
        self.processes = devices.processes
        self.process_index = devices.process_index
        self._strategy = strategy

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.process_index == 0

    @property
    def replicas(self) -> Sequence[str]:
        """TensorFlow device names, if it trains on several devices."""
        return () if self._strategy is None else self._strategy.extended.worker_devices

    def scope(self) -> AbstractContextManager[Any]:
        """Scope in which to create the model and its optimizer."""
        if self._strategy is None:
            return contextlib.nullcontext()
        scope: AbstractContextManager[Any] = self._strategy.scope()
        return scope

    def check_batch(self, size: int) -> None:
        """Checks that a global batch can be split evenly."""
        if size % self.shares:
            raise APINetError(
                f"A batch of {size} images cannot be shared by {self.shares} devices; "
                "choose --classes-per-batch and --images-per-class with a product that "
                "is a multiple of that."
            )

    def filled(self, batches: Dataset, batch_size: int, images: int) -> Dataset:
        """Evaluation batches that can be split evenly over the devices.

        The last batch is padded with copies of weight 0. With several processes, each
        gets its own rows.

        Args:
            batches: `(images, labels)`, all of `batch_size` except the last.
            batch_size: A multiple of `shares`.
            images: Total number of images.

        Returns:
            `(images, labels, weights)`, or `batches` if nothing is shared.
        """
        import tensorflow as tf

        if self.shares == 1:
            return batches
        part = batch_size // self.processes
        mine = slice(self.process_index * part, (self.process_index + 1) * part)
        # Keras divides by all rows; this restores the mean over the real ones.
        weight = -(-images // batch_size) * batch_size / images

        def fill(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            count = tf.shape(pixels)[0]
            rows = tf.range(batch_size)[mine]
            weights = tf.where(rows < count, tf.constant(weight, tf.float32), 0.0)
            rows = tf.minimum(rows, count - 1)
            shape = [part, *pixels.shape[1:]]
            return (
                tf.ensure_shape(tf.gather(pixels, rows), shape),
                tf.ensure_shape(tf.gather(labels, rows), [part]),
                tf.ensure_shape(weights, [part]),
            )

        # With several replicas, TensorFlow ends a data set of unknown length with an
        # empty batch, whose loss of 0 Keras would count.
        length = tf.data.experimental.assert_cardinality(-(-images // batch_size))
        return batches.map(fill).apply(length)


@contextlib.contextmanager
def place(devices: Devices) -> Iterator[Placement]:
    """Distributes what is built inside over the devices, if the backend supports it."""
    backend = keras.backend.backend()
    if not devices.several:
        yield Placement(devices, 1)
    elif backend == "jax":
        before = keras.distribution.distribution()
        distribution = _on_jax(devices)
        keras.distribution.set_distribution(distribution)
        try:
            shares = distribution.device_mesh.devices.size // devices.model
            yield Placement(devices, shares)
        finally:
            keras.distribution.set_distribution(before)
    elif backend == "tensorflow" and devices.processes == 1:
        yield Placement(devices, devices.count or 1, _on_tensorflow(devices))
    else:
        raise _no_engine(devices)


def start_processes(devices: Devices) -> None:
    """Connects the training processes; call it before any use of the backend."""
    if devices.processes == 1:
        return
    if keras.backend.backend() != "jax":
        raise _no_engine(devices)
    try:
        keras.distribution.initialize(
            devices.coordinator, devices.processes, devices.process_index
        )
    except Exception as error:
        raise APINetError(
            f"Process {devices.process_index} of {devices.processes} cannot reach the "
            f"coordinator {devices.coordinator!r} ({reason(error)}); start "
            "process 0 there, and all others with the same --coordinator and "
            "--processes."
        ) from error


def _no_engine(devices: Devices) -> APINetError:
    """The error for a backend that does not support the requested devices."""
    what = f"{devices.count} devices"
    if devices.processes > 1:
        what = f"{devices.processes} processes"
    only_jax = devices.processes > 1 or devices.model > 1
    return APINetError(
        f"{what} cannot train together on the backend {keras.backend.backend()!r}; "
        f"set KERAS_BACKEND=jax{'' if only_jax else ' or tensorflow'}."
    )


def _on_jax(devices: Devices) -> Any:
    found = keras.distribution.list_devices()
    if devices.count is not None and devices.processes == 1:
        found = _enough(found, devices.count)
    if devices.model == 1:
        # Every process already samples its own rows.
        return keras.distribution.DataParallel(devices=found, auto_shard_dataset=False)
    mesh = keras.distribution.DeviceMesh(
        (len(found) // devices.model, devices.model), ("batch", "classes"), found
    )
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*classifier/kernel"] = (None, "classes")
    layout[".*classifier/bias"] = ("classes",)
    return keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
    )


def _on_tensorflow(devices: Devices) -> Any:
    import tensorflow as tf

    if devices.model > 1:
        raise APINetError(
            f"model={devices.model}: only JAX can distribute the classifier; set "
            "KERAS_BACKEND=jax, or omit it."
        )
    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices(
        "CPU"
    )
    names = _enough([device.name for device in found], devices.count or 1)
    return tf.distribute.MirroredStrategy(names)


def _enough(found: list[str], wanted: int) -> list[str]:
    if len(found) < wanted:
        raise APINetError(
            f"{wanted} devices were requested, but there are {len(found)} "
            f"({', '.join(found[:4])}); request fewer with --devices."
        )
    return found[:wanted]


def out_of_memory(error: BaseException) -> bool:
    """Whether a backend error means that memory ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        bool(names & {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"})
        or "RESOURCE_EXHAUSTED" in str(error)
        or "out of memory" in str(error).lower()
    )


def peak_memory() -> int | None:
    """Peak memory of the first GPU in bytes; `None` without a GPU."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.local_devices()[0]
        stats = device.memory_stats() if device.platform != "cpu" else None
        return stats.get("peak_bytes_in_use") if stats else None
    if backend == "torch":
        torch = sys.modules["torch"]
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return None
    return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
