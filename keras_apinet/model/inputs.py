"""What is given to `fit`, `evaluate` and `predict`, looked at before Keras takes it."""

import inspect
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.model.faults import Faults, Watch, outside, wrong_label
from keras_apinet.pixels import check_pixels, wrong_pixels
from keras_apinet.types import Shape


def check_images(images: Any) -> None:
    """Refuses paths and lists, which are no images, but look like a wish for them."""
    if isinstance(images, (str, os.PathLike)):
        raise APINetError(
            f"{str(images)!r} is a path, and the model takes images; use "
            "keras_apinet.load_classifier(model_file).predict(path)."
        )
    if isinstance(images, (list, tuple)):
        raise APINetError(
            f"The model takes one array of images, but a {type(images).__name__} of "
            f"{len(images)} came; use numpy.stack for images of one size, and "
            "keras_apinet.load_classifier(model_file).predict for files."
        )


def wrong_shape(shape: Shape, image_size: int | None) -> APINetError:
    """The error for a batch of a shape that the model cannot take."""
    side = image_size or "S"
    if len(shape) == 3 and shape[-1] == 3:
        way_out = "give a single image as image[None]."
    elif len(shape) == 4 and shape[-1] == 3:
        way_out = f"resize to {side} x {side} px (keras_apinet.data.prepare does)."
    else:
        way_out = "three channels come last."
    return APINetError(
        f"The model needs images [N, {side}, {side}, 3] of pixels 0..255; got "
        f"shape={tuple(shape)}: {way_out}"
    )


def check_labels_shape(labels: Any, num_classes: int) -> None:
    """Refuses labels that are text, and all shapes but `[N]`, `[N, 1]` and `[N, C]`."""
    dtype = str(getattr(labels.dtype, "name", labels.dtype))
    if dtype.startswith(("str", "object", "bytes")):
        example = labels.ravel()[0] if isinstance(labels, np.ndarray) else "a string"
        raise APINetError(
            f"A label is {str(example)!r}, but labels are numbers from 0 to "
            f"{num_classes - 1}; numpy.unique(names, return_inverse=True)[1] numbers "
            "them."
        )
    shape = tuple(labels.shape)
    if len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None, num_classes)):
        return
    raise APINetError(
        f"Labels of shape={shape} do not fit num_classes={num_classes}; give [N] "
        f"integers or [N, {num_classes}] one-hot rows."
    )


# Names of the arguments after x and y, which may be given by position.
_FIT = tuple(inspect.signature(keras.Model.fit).parameters)[3:]
_EVALUATE = tuple(inspect.signature(keras.Model.evaluate).parameters)[3:]


class CheckedModel(keras.Model):
    """A model of images and labels that looks at what it is given.

    Arrays are checked before a step takes them; of data sets, the step itself notes
    what does not fit (`Faults`), and `Watch` ends the training.
    """

    num_classes: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults = Faults()
        self._judging = False

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.fit`, for arrays or a data set of `(images, labels)`.

        Raises:
            APINetError: For images or labels that do not fit, before the step with
                them in arrays, soon after it in data sets; such a step has no gradient.
        """
        # Keras would warn that it cannot shuffle a data set; nobody asked it to.
        arrays = y is not None or isinstance(x, keras.utils.PyDataset)
        kwargs.update(zip(_FIT, args, strict=False))
        kwargs.setdefault("shuffle", arrays)
        y = self._checked(x, y)
        held = kwargs.get("validation_data")
        if isinstance(held, (tuple, list)) and len(held) in (2, 3):
            kwargs["validation_data"] = (held[0], self._checked(*held[:2]), *held[2:])
        return super().fit(x, y, **self._watched(kwargs))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refused: what was quantized in part could not be read back.

        Raises:
            APINetError: Always; exported files can be of 8 bits.
        """
        raise APINetError(
            "An APINet is not quantized itself; export it with precision='int8'."
        )

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`; raises as `fit` does."""
        kwargs.update(zip(_EVALUATE, args, strict=False))
        y = self._checked(x, y)
        before, self._judging = self._judging, True
        try:
            return super().evaluate(x, y, **self._watched(kwargs))
        finally:
            self._judging = before

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`: float32 logits `[N, C]` of images.

        Raises:
            APINetError: For anything but images `[N, H, W, 3]` of pixels 0..255.
        """
        self._checked(x)
        if isinstance(x, np.ndarray) and not len(x):  # Keras asks for one batch
            return np.zeros((0, self.num_classes), np.float32)
        return _sound(super().predict(x, *args, **kwargs))

    def predict_on_batch(self, x: Any) -> Any:
        """As `keras.Model.predict_on_batch`; raises as `predict` does."""
        self._checked(x)
        return _sound(super().predict_on_batch(x))

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`; raises as `fit` does."""
        return super().train_on_batch(x, self._checked(x, y), *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`; raises as `fit` does."""
        before, self._judging = self._judging, True
        try:
            return super().test_on_batch(x, self._checked(x, y), *args, **kwargs)
        finally:
            self._judging = before

    def _watched(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        callbacks = kwargs.get("callbacks")
        if not self.compiled or isinstance(callbacks, keras.callbacks.CallbackList):
            return kwargs
        given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
        # First, so that nothing is saved of what a fault made.
        watch = Watch(self.faults, self.num_classes)
        return {**kwargs, "callbacks": [watch, *(c for c in given if c is not None)]}

    def _checked(self, images: Any, labels: Any = None) -> Any:
        """Labels as an array, after a look at what is an array already."""
        check_images(images)
        if isinstance(images, np.ndarray):
            self._check_inputs(images)
            check_pixels(images)
        if isinstance(labels, (list, tuple)):
            labels = np.asarray(labels)
        if isinstance(labels, np.ndarray):
            check_labels_shape(labels, self.num_classes)
            wrong = ops.convert_to_numpy(outside(labels, self.num_classes))
            if wrong.any():
                value = float(labels.reshape(-1)[wrong][0])
                raise wrong_label(value, self.num_classes)
        return labels

    def _check_inputs(self, inputs: Any) -> None:
        """Checks images, or what stands for them."""
        raise NotImplementedError


def _sound(logits: Any) -> Any:
    """Logits, unless the step found wrong pixels: then [NaN, what was wrong, ...]."""
    told = np.isnan(logits[:, 0]) & ~np.isnan(logits[:, 1])
    if told.any():
        raise wrong_pixels(float(logits[told][0, 1]))
    return logits


def finite(images: Any, training: bool | None) -> Any:
    """Images without NaN in training, where the step refuses the batch anyway.

    One NaN would otherwise reach the statistics of every batch-norm.
    """
    if isinstance(images, dict) or not training:
        return images
    if not keras.backend.is_float_dtype(images.dtype):
        return images
    return ops.where(ops.isfinite(images), images, ops.zeros_like(images))
