"""Checks of the inputs of `fit`, `evaluate` and `predict` before Keras uses them."""

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
    """Rejects paths and lists, which users may pass instead of an array of images."""
    if isinstance(images, (str, os.PathLike)):
        raise APINetError(
            f"{str(images)!r} is a path, but the model takes images; use "
            "keras_apinet.load_classifier(model_file).predict(path)."
        )
    if isinstance(images, (list, tuple)):
        raise APINetError(
            f"The model takes one array of images, but got a {type(images).__name__} "
            f"of {len(images)}; use numpy.stack for images of one size, or "
            "keras_apinet.load_classifier(model_file).predict for files."
        )


def wrong_shape(shape: Shape, image_size: int | None) -> APINetError:
    """Creates the error for a batch whose shape the model does not accept."""
    side = image_size or "S"
    if len(shape) == 3 and shape[-1] == 3:
        way_out = "pass a single image as image[None]."
    elif len(shape) == 4 and shape[-1] == 3:
        way_out = f"resize to {side} x {side} px (keras_apinet.data.prepare does)."
    else:
        way_out = "put the three channels last."
    return APINetError(
        f"The model needs images [N, {side}, {side}, 3] with pixels 0..255; got "
        f"shape={tuple(shape)}: {way_out}"
    )


def check_labels_shape(labels: Any, num_classes: int) -> None:
    """Rejects text labels and all shapes except `[N]`, `[N, 1]` and `[N, C]`."""
    dtype = str(getattr(labels.dtype, "name", labels.dtype))
    if dtype.startswith(("str", "object", "bytes")):
        example = labels.ravel()[0] if isinstance(labels, np.ndarray) else "a string"
        raise APINetError(
            f"A label is {str(example)!r}, but labels must be numbers from 0 to "
            f"{num_classes - 1}; numpy.unique(names, return_inverse=True)[1] numbers "
            "them."
        )
    shape = tuple(labels.shape)
    if len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None, num_classes)):
        return
    raise APINetError(
        f"Labels of shape={shape} do not match num_classes={num_classes}; pass [N] "
        f"integers or [N, {num_classes}] one-hot rows."
    )


# Names of the arguments after x and y, which may be positional.
_FIT = tuple(inspect.signature(keras.Model.fit).parameters)[3:]
_EVALUATE = tuple(inspect.signature(keras.Model.evaluate).parameters)[3:]


class CheckedModel(keras.Model):
    """A model that checks the images and labels it is given.

    Arrays are checked before the first step. For data sets, the step itself records
    invalid data (`Faults`), and `Watch` stops the training.
    """

    num_classes: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.faults = Faults()
        self._judging = False

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Trains like `keras.Model.fit`, on arrays or a data set of `(images, labels)`.

        Raises:
            APINetError: If images or labels are invalid: for arrays, before the step
                that uses them; for data sets, soon after a step without gradient.
        """
        # Prevents Keras's warning that it cannot shuffle a data set.
        arrays = y is not None or isinstance(x, keras.utils.PyDataset)
        kwargs.update(zip(_FIT, args, strict=False))
        kwargs.setdefault("shuffle", arrays)
        y = self._checked(x, y)
        held = kwargs.get("validation_data")
        if isinstance(held, (tuple, list)) and len(held) in (2, 3):
            kwargs["validation_data"] = (held[0], self._checked(*held[:2]), *held[2:])
        return super().fit(x, y, **self._watched(kwargs))

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Not supported, because a partly quantized model could not be loaded again.

        Raises:
            APINetError: Always; only exported files can be 8-bit.
        """
        raise APINetError(
            "An APINet cannot be quantized in place; export it with precision='int8'."
        )

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluates like `keras.Model.evaluate`; raises the errors of `fit`."""
        kwargs.update(zip(_EVALUATE, args, strict=False))
        y = self._checked(x, y)
        before, self._judging = self._judging, True
        try:
            return super().evaluate(x, y, **self._watched(kwargs))
        finally:
            self._judging = before

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts like `keras.Model.predict`: float32 logits `[N, C]` for images.

        Raises:
            APINetError: For anything but images `[N, H, W, 3]` with pixels 0..255.
        """
        self._checked(x)
        if isinstance(x, np.ndarray) and not len(x):  # Keras asks for one batch
            return np.zeros((0, self.num_classes), np.float32)
        return _sound(super().predict(x, *args, **kwargs))

    def predict_on_batch(self, x: Any) -> Any:
        """Works like `keras.Model.predict_on_batch`; raises the errors of `predict`."""
        self._checked(x)
        return _sound(super().predict_on_batch(x))

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Works like `keras.Model.train_on_batch`; raises the errors of `fit`."""
        return super().train_on_batch(x, self._checked(x, y), *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Works like `keras.Model.test_on_batch`; raises the errors of `fit`."""
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
        # First, so that later callbacks save nothing after a fault.
        watch = Watch(self.faults, self.num_classes)
        return {**kwargs, "callbacks": [watch, *(c for c in given if c is not None)]}

    def _checked(self, images: Any, labels: Any = None) -> Any:
        """Checks images and labels that are arrays, and returns the labels."""
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
        """Checks images or precomputed values."""
        raise NotImplementedError


def _sound(logits: Any) -> Any:
    """Returns the logits, or raises if a row says [NaN, worst pixel, ...]."""
    told = np.isnan(logits[:, 0]) & ~np.isnan(logits[:, 1])
    if told.any():
        raise wrong_pixels(float(logits[told][0, 1]))
    return logits


def finite(images: Any, training: bool | None) -> Any:
    """Replaces NaN in training images, where the step rejects the batch anyway.

    Otherwise, a single NaN would reach the statistics of every batch-norm.
    """
    if isinstance(images, dict) or not training:
        return images
    if not keras.backend.is_float_dtype(images.dtype):
        return images
    return ops.where(ops.isfinite(images), images, ops.zeros_like(images))
