"""What is given to `fit`, `evaluate` and `predict`, looked at before Keras takes it."""

import os
from typing import Any

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.types import Shape


def check_images(images: Any) -> None:
    """Refuses what is no array or data set of images, but looks like a wish for one.

    Raises:
        APINetError: For paths and lists.
    """
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
    """The error for a batch that the model cannot take.

    Args:
        shape: What came.
        image_size: px, `None` for any.
    """
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
    """Refuses labels of another shape or kind than the model learns from.

    Args:
        labels: An array or tensor, whose values do not matter.
        num_classes: C.

    Raises:
        APINetError: For text, and all but `[N]`, `[N, 1]` and `[N, C]`.
    """
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
