"""Contrast maps: the regions of two photos that distinguish their classes."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from keras_apinet.data import prepare
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.evaluate.feature_maps import FeatureMaps, as_array, fused
from keras_apinet.model.apinet import APINet

# From no evidence to the peak; readable in grayscale and with color blindness.
_HEAT = np.array([[60, 10, 90], [190, 40, 100], [250, 140, 20], [255, 240, 130]], float)
_FOR, _AGAINST = np.array([255, 150, 20.0]), np.array([40, 120, 255.0])


@dataclass(frozen=True, eq=False)
class Contrast:
    """What a model compares in two photos a and b; axis 0 is always (a, b).

    Attributes:
        images: `[2, S, S, 3]` uint8, the photos as seen by the model.
        classes: The two classes being compared, of a and of b.
        probabilities: `[2, C]` float, single-image predictions; rows sum to 1.
        gates: `[2, D]` float32 in 0..1: the gate of the mutual vector on each channel.
        own: `[2, S, S]` float32 in -1..1: evidence for the photo's own class in the
            gated features `x_i * (r + g_i)`, r = `residual_weight`.
        other: The same for the class of the other photo.
        difference: `[2, S, S]` float32 in -1..1: evidence for the photo's own class
            minus evidence for the other class.
        where: `[2, S, S]` float32 in 0..1: importance of each position for the decision
            between the two classes; the peak is 1.
        contributions: `[2, D]` float32: contribution of each channel to the difference
            between the scores of the two classes, own minus other.
        distinguishing: `[2, k]` int, channels with the most evidence for a, and for b.
        shared: `[k]` int, channels with the most evidence for both classes in both.
    """

    images: NDArray[np.uint8]
    classes: tuple[int, int]
    probabilities: NDArray[np.float64]
    gates: NDArray[np.float32]
    own: NDArray[np.float32]
    other: NDArray[np.float32]
    difference: NDArray[np.float32]
    where: NDArray[np.float32]
    contributions: NDArray[np.float32]
    distinguishing: NDArray[np.int64]
    shared: NDArray[np.int64]


def contrast(
    model: APINet,
    image_a: ArrayLike,
    image_b: ArrayLike,
    *,
    classes: tuple[int, int] | None = None,
    temperature: float = 1.0,
    channels: int = 4,
    feature_maps: FeatureMaps | None = None,
) -> Contrast:
    """Compares two photos like the model does, and localizes the differences.

    The mutual vector of the pair gates the channels of each photo with `g_i`. The
    difference between the two classes' scores of `x_i * (r + g_i)` is distributed over
    the positions of the photo: exactly on the last feature map (gate-weighted class
    activation), and by activation times gradient on finer maps. `where` is the mean
    over all resolutions.

    Args:
        model: A trained model.
        image_a: `[h, w, 3]`, 0..255. Photos that do not have the model's input size are
            preprocessed as for prediction: center crop, then resize.
        image_b: The same.
        classes: The classes to compare, of a and of b. Defaults to the predicted
            classes; if both photos have the same one, b is the runner-up of both.
        temperature: Temperature of the probabilities. Defaults to 1.
        channels: Number of `distinguishing` and `shared` channels, k. Defaults to 4.
        feature_maps: `FeatureMaps(model)`, to create it once for many pairs.

    Returns:
        Maps, scores and channels.

    Raises:
        APINetError: If the features have no spatial positions, or `classes` are not two
            different classes of the model.

    ```python
    result = keras_apinet.evaluate.contrast(model, photo_a, photo_b)
    y, x = np.unravel_index(result.where[0].argmax(), result.where[0].shape)
    ```
    """
    feature_maps = feature_maps or FeatureMaps(model)
    images = _sized(model, image_a, image_b)
    activations = feature_maps.activations(ops.convert_to_tensor(images))
    features = model.pool(activations[-1])
    logits = as_array(model.classifier(features))
    log_p = log_softmax(logits / temperature)
    pair = _two_classes(classes, log_p, model.num_classes)

    x = as_array(features)
    a_self, _, b_self, _ = model.interaction(features[:1], features[1:], training=False)
    gated = np.concatenate([as_array(a_self), as_array(b_self)])
    # x_i_self = x_i (r + g_i); where x_i is 0 the gate is sigmoid(0).
    r = float(model.interaction.residual_weight)
    factors = np.divide(gated, x, out=np.full_like(x, r + 0.5), where=np.abs(x) > 1e-12)
    kernel = as_array(model.classifier.kernel)
    own_weights = factors * kernel[:, list(pair)].T
    other_weights = factors * kernel[:, list(pair[::-1])].T

    size = images.shape[1]
    own = feature_maps.evidence(activations, own_weights)
    other = feature_maps.evidence(activations, other_weights)
    differences = [p - q for p, q in zip(own, other, strict=True)]
    where = fused([np.abs(d) for d in differences], size)
    peak = where.max(axis=(1, 2), keepdims=True)

    contributions = x * (own_weights - other_weights)
    both = np.minimum(*(x * factors)) * np.minimum(*kernel[:, list(pair)].T)
    k = min(channels, x.shape[1])
    return Contrast(
        images=images,
        classes=pair,
        probabilities=np.exp(log_p),
        gates=np.clip(factors - r, 0, 1),
        own=fused(own, size),
        other=fused(other, size),
        difference=fused(differences, size),
        where=np.clip(where / np.maximum(peak, 1e-12), 0, 1),
        contributions=contributions,
        distinguishing=np.argsort(-contributions, axis=1, kind="stable")[:, :k],
        shared=np.argsort(-both, kind="stable")[:k],
    )


def class_activation(
    model: APINet,
    image: ArrayLike,
    class_index: int | None = None,
    *,
    feature_maps: FeatureMaps | None = None,
) -> NDArray[np.float32]:
    """Localizes the evidence for a class in a photo, relative to the mean class.

    Args:
        model: A trained model.
        image: `[h, w, 3]`, 0..255, preprocessed as for prediction if it does not have
            the model's input size.
        class_index: The class. Defaults to the predicted class.
        feature_maps: `FeatureMaps(model)`, to create it once for many photos.

    Returns:
        `[S, S]` float32 in 0..1; the peak is 1, unless there is no evidence at all.
    """
    feature_maps = feature_maps or FeatureMaps(model)
    images = _sized(model, image)
    activations = feature_maps.activations(ops.convert_to_tensor(images))
    if class_index is None:
        logits = as_array(model.classifier(model.pool(activations[-1])))
        class_index = int(logits[0].argmax())
    kernel = as_array(model.classifier.kernel)
    weights = kernel[:, class_index] - kernel.mean(axis=1)
    evidence = feature_maps.evidence(activations, weights[None])
    positive = fused([np.maximum(one, 0) for one in evidence], images.shape[1])[0]
    return np.asarray(np.clip(positive / max(float(positive.max()), 1e-12), 0, 1))


def _two_classes(
    classes: tuple[int, int] | None, log_p: NDArray[np.float64], count: int
) -> tuple[int, int]:
    if classes is not None:
        a, b = (int(c) for c in classes)
        if a == b or not (0 <= a < count and 0 <= b < count):
            raise APINetError(
                f"classes={classes!r} must be two different class indices from 0 to "
                f"{count - 1}."
            )
        return a, b
    a, b = (int(c) for c in log_p.argmax(axis=1))
    if a == b:
        # All other probabilities may round to 0, so compare logarithms.
        others = np.logaddexp(*log_p)
        others[a] = -np.inf
        b = int(others.argmax())
    return a, b


def _sized(model: APINet, *images: ArrayLike) -> NDArray[np.uint8]:
    """Photos at the model's input size, `[n, S, S, 3]` uint8."""
    arrays = [np.asarray(image) for image in images]
    for array in arrays:
        if array.ndim != 3 or array.shape[-1] != 3:
            raise APINetError(
                f"A photo must be [h, w, 3] of pixels 0..255; got shape={array.shape}."
            )
    size = model.image_size or min(arrays[0].shape[:2])
    return np.stack(
        [
            np.clip(np.rint(a), 0, 255).astype(np.uint8)
            if a.shape[:2] == (size, size)
            else prepare(a, size)
            for a in arrays
        ]
    )


def with_heat(image: ArrayLike, where: ArrayLike) -> NDArray[np.uint8]:
    """Overlays a map `[S, S]` in 0..1 on a photo `[S, S, 3]`; a ring marks the peak."""
    values = np.asarray(where, np.float64)
    steps = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(values, steps, c) for c in _HEAT.T], axis=-1)
    opacity = 0.9 * np.clip(values, 0, 1)[..., None] ** 1.3
    result = _grey(image) * (1 - opacity) + colours * opacity
    if values.max() > 0:
        y, x = np.unravel_index(values.argmax(), values.shape)
        rows, columns = np.indices(values.shape)
        radius, width = 0.07 * len(values), max(1.0, 0.008 * len(values))
        distance = np.abs(np.hypot(rows - y, columns - x) - radius)
        result[distance <= 2 * width] = 0
        result[distance <= width] = 255
    return np.asarray(result, np.uint8)


def with_signs(image: ArrayLike, values: ArrayLike) -> NDArray[np.uint8]:
    """Overlays a signed map in -1..1 on a photo: orange is for, blue against."""
    signed = np.asarray(values, np.float64)[..., None]
    opacity = 0.85 * np.clip(np.abs(signed), 0, 1) ** 0.8
    colours = np.where(signed > 0, _FOR, _AGAINST)
    return np.asarray(_grey(image) * (1 - opacity) + colours * opacity, np.uint8)


def _grey(image: ArrayLike) -> NDArray[np.float64]:
    """Grayscale photo `[S, S, 1]`, so that only the map has color."""
    return np.asarray(np.asarray(image, np.float64).mean(axis=-1, keepdims=True))


def data_uri(image: ArrayLike, side: int | None = None, quality: int = 82) -> str:
    """An image, uint8 `[h, w, 3]`, as the `data:` URI of a JPEG of `side` px."""
    picture = Image.fromarray(np.asarray(image, np.uint8))
    if side:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
