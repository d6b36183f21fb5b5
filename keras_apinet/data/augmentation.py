"""From a photo of any size to `[image_size, image_size, 3]`, with or without chance.

Everything random is drawn from a seed that belongs to one image of one step, so that a
step can be drawn again. Crop, resize and flip are TensorFlow's own: Keras' `RandomCrop`
and `Resizing` need sizes that are known when the pipeline is built, and `RandomFlip`
computes both sides of the image in float32, which takes as long as decoding the photo.
All other augmentations are Keras layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError
from keras_apinet.pixels import as_rgb
from keras_apinet.types import Tensor

AUGMENTATIONS = ("paper", "light", "strong", "none")
RESIZES = ("fit", "squash")
# The paper resizes to 512 px and crops 448.
_CROP = 7 / 8


def check_options(image_size: int, augmentation: str, resize: str) -> None:
    """Checks what the user chose.

    Raises:
        APINetError: for a size below 1 or an unknown name.
    """
    if image_size < 1:
        raise APINetError(f"image_size={image_size} must be at least 1 px.")
    if augmentation not in AUGMENTATIONS:
        raise APINetError(
            f"augmentation={augmentation!r} is not known: use one of "
            f"{', '.join(AUGMENTATIONS)}."
        )
    if resize not in RESIZES:
        raise APINetError(
            f"resize={resize!r} is not known: use one of {', '.join(RESIZES)}."
        )


def crop_and_resize(
    pixels: Tensor,
    image_size: int,
    resize: str,
    seed: Tensor | None = None,
    box: Tensor | None = None,
) -> Tensor:
    """Crops 7/8 of a photo and resizes that to the image size.

    That is the paper's resize to 8/7 of the image size and crop to the image size, in
    the cheaper order: only what is kept is resized, with antialiasing if it shrinks.

    Args:
        pixels: uint8 `[h, w, 3]`.
        image_size: px.
        resize: `"fit"` crops a square, 7/8 of the short side; `"squash"` crops 7/8 of
            height and width each and distorts that to a square.
        seed: int32 `[2]` for a random place and a flip of every other image, or None
            for the centre.
        box: `[4]` left, top, right, bottom in pixels: cut out before everything else,
            or None.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.
    """
    import tensorflow as tf

    if box is not None:
        limit = tf.cast(tf.shape(pixels)[1::-1], tf.float32)
        start = tf.clip_by_value(tf.floor(box[:2]), 0.0, limit - 1.0)
        end = tf.clip_by_value(tf.math.ceil(box[2:]), start + 1.0, limit)
        first, last = tf.cast(start, tf.int32), tf.cast(end, tf.int32)
        pixels = pixels[first[1] : last[1], first[0] : last[0]]
    size = tf.shape(pixels)[:2]
    kept = tf.reduce_min(size) * tf.ones(2, tf.int32) if resize == "fit" else size
    kept = tf.cast(tf.round(tf.cast(kept, tf.float32) * _CROP), tf.int32)
    kept = tf.maximum(kept, 1)
    if seed is None:
        corner = (size - kept) // 2
    else:
        room = size - kept
        share = tf.random.stateless_uniform([3], seed)
        corner = tf.cast(share[:2] * tf.cast(room + 1, tf.float32), tf.int32)
        corner = tf.minimum(corner, room)
    crop = tf.slice(pixels, [corner[0], corner[1], 0], [kept[0], kept[1], 3])
    if seed is not None:
        crop = tf.cond(share[2] < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)
    # Without shrinking, antialiasing changes nothing and takes twice as long.
    target = [image_size, image_size]
    exactly = functools.partial(tf.image.resize, crop, target, antialias=True)
    fast = functools.partial(_shrink_fast, crop, image_size)
    shrink = exactly
    if seed is not None:
        shrink = functools.partial(
            tf.cond, tf.reduce_min(kept) < image_size, exactly, fast
        )
    image = tf.cond(
        tf.reduce_max(kept) > image_size,
        shrink,
        lambda: tf.image.resize(crop, target),
    )
    return tf.ensure_shape(image, [*target, 3])


def _shrink_fast(crop: Tensor, image_size: int) -> Tensor:
    """Nearly the pixels of an antialiased bilinear resize, in a fraction of the time.

    The mean of the area under each new pixel is a little sharper than what evaluation
    sees. That is below 5 % up to a ratio of 1.5. Beyond, a faint blur makes up for it,
    the stronger the more an image shrinks; its strength was fitted to photos.
    """
    import tensorflow as tf

    small = tf.image.resize(crop, [image_size, image_size], method="area")
    ratio = tf.cast(tf.shape(crop)[:2], tf.float32) / image_size

    def blurred() -> Tensor:
        side = 0.06 * tf.clip_by_value(ratio - 1.0, 0.0, 1.0)
        rows, columns = (tf.stack([s, 1.0 - 2.0 * s, s]) for s in tf.unstack(side))
        weights = tf.tile((rows[:, None] * columns)[..., None, None], [1, 1, 3, 1])
        padded = tf.pad(small, [[1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return tf.nn.depthwise_conv2d(padded[None], weights, [1, 1, 1, 1], "VALID")[0]

    return tf.cond(tf.reduce_max(ratio) < 1.5, lambda: small, blurred)


def to_uint8(images: Tensor) -> Tensor:
    """Rounds float pixels in 0..255 to uint8, halves to even as NumPy does."""
    import tensorflow as tf

    return tf.cast(tf.round(images), tf.uint8)


def prepare(
    pixels: ArrayLike,
    image_size: int,
    *,
    resize: str = "fit",
    box: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Makes one photo ready for the model, with the numbers of `evaluation_batches`.

    Args:
        pixels: `[h, w, 3]` in 0..255, such as `read_photo` returns.
        image_size: px of the square that the model sees.
        resize: `"fit"` (keep the aspect ratio, default) or `"squash"`.
        box: left, top, right, bottom of the object in pixels, to crop to, or None.

    Returns:
        uint8 `[image_size, image_size, 3]`, the centre of the photo.

    >>> prepare(np.zeros((40, 60, 3), "uint8"), image_size=32).shape
    (32, 32, 3)
    """
    import tensorflow as tf

    check_options(image_size, "none", resize)
    with tf.device("cpu"):
        place = None if box is None else tf.constant(box, tf.float32)
        image = crop_and_resize(
            tf.constant(as_rgb(pixels)), image_size, resize, box=place
        )
        return np.asarray(to_uint8(image))


def augmenter(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The part of an augmentation that follows the random crop.

    Args:
        name: `"paper"` adds nothing to crop and flip; `"light"` turns by up to 10
            degrees and varies brightness and contrast a little; `"strong"` adds colour
            jitter, two random operations per image as RandAugment does, and random
            erasing; `"none"` is for images that are not cropped at random either.

    Returns:
        A function of a float32 `[s, s, 3]` image in 0..255 and an int32 `[2]` seed.
    """
    import keras
    import tensorflow as tf

    if name in ("paper", "none"):
        return lambda image, seed: image
    make = keras.layers
    pixels: dict[str, Any] = {"value_range": (0, 255), "dtype": "float32"}
    place = {"fill_mode": "reflect", "dtype": "float32"}
    always: list[Any] = []
    one_of: list[Any] = []
    last: list[Any] = []
    if name == "light":
        always += [
            make.RandomRotation(10 / 360, **place),
            make.RandomBrightness(0.1, **pixels),
            make.RandomContrast(0.1, **pixels),
        ]
    if name == "strong":
        always += [
            make.RandomColorJitter(
                brightness_factor=0.2,
                contrast_factor=0.2,
                saturation_factor=(0.4, 0.6),
                hue_factor=0.02,
                **pixels,
            )
        ]
        # keras.layers.RandAugment computes all its operations for every image and keeps
        # two; choosing first does the same for a tenth of the time. Equalization is not
        # among them: with JAX, Keras 3.15 counts its histogram in 256 steps a channel,
        # which takes ten times as long to build as all the others together.
        one_of = [
            make.RandomRotation(30 / 360, **place),
            make.RandomShear(0.3, 0.3, **place),
            make.RandomTranslation(0.15, 0.15, **place),
            make.RandomBrightness(0.3, **pixels),
            make.RandomContrast(0.3, **pixels),
            make.RandomColorDegeneration((0.0, 0.5), **pixels),
            make.RandomSharpness((0.2, 0.8), **pixels),
            make.RandomPosterization((4, 7), **pixels),
            make.Solarization(0.0, (0.7, 1.0), **pixels),
            make.AutoContrast(**pixels),
        ]
        last = [make.RandomErasing(0.25, scale=(0.02, 0.2), **pixels)]

    def augment(image: Tensor, seed: Tensor) -> Tensor:
        seeds = _step_seeds(seed)
        for layer in (*always, *one_of, *last):
            _draw_from(layer, seeds)
        for layer in always:
            image = layer(image, training=True)
        for _ in range(2 if one_of else 0):
            choice = tf.random.stateless_uniform(
                [], seeds.next(), 0, len(one_of), tf.int32
            )
            image = tf.switch_case(
                choice,
                [functools.partial(layer, image, training=True) for layer in one_of],
            )
        for layer in last:
            image = layer(image, training=True)
        return tf.clip_by_value(image, 0.0, 255.0)

    return augment


def _step_seeds(seed: Tensor) -> Any:
    """A Keras seed generator whose seeds follow from `seed` and have no state."""
    import keras
    import tensorflow as tf

    class StepSeeds(keras.random.SeedGenerator):
        def __init__(self) -> None:
            self.drawn = 0

        def next(self, ordered: bool = True) -> Tensor:
            self.drawn += 1
            return tf.random.experimental.stateless_fold_in(seed, self.drawn)

    return StepSeeds()


def _draw_from(layer: Any, seeds: Any) -> None:
    """Makes a preprocessing layer, and those inside it, take its seeds from `seeds`."""
    for part in layer._flatten_layers():
        part._get_seed_generator = lambda backend=None: seeds
