"""Random augmentation of training images, after the crop.

All randomness comes from a seed specific to one image of one step, so that a step can
be reproduced. The operations are Keras layers, except for the crop and the flip in
`graph_preprocessing`.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_apinet.files.bounds import IMAGE_SIZE, check_choice
from keras_apinet.types import Tensor

AUGMENTATIONS = ("paper", "light", "strong", "none")
RESIZES = ("fit", "squash")


def check_options(image_size: int, augmentation: str, resize: str) -> None:
    """Checks the user's choice."""
    IMAGE_SIZE.check("image_size", image_size)
    check_choice("augmentation", augmentation, AUGMENTATIONS)
    check_choice("resize", resize, RESIZES)


def augmenter(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the part of an augmentation that follows the random crop.

    Args:
        name: `"paper"` adds nothing to crop and flip; `"light"` rotates by up to 10
            degrees and slightly varies brightness and contrast; `"strong"` adds color
            jitter, two random operations per image as in RandAugment, and random
            erasing; `"none"` is for images that are not randomly cropped either.

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
    if name == "light":
        always += [
            make.RandomRotation(10 / 360, **place),
            make.RandomBrightness(0.1, **pixels),
            make.RandomContrast(0.1, **pixels),
        ]
    if name == "strong":
        # keras.layers.RandAugment computes all its operations for every image and keeps
        # two; choosing first gives the same in a tenth of the time. Equalization is not
        # included: on JAX, Keras 3.15 computes its histogram in 256 steps per channel,
        # which takes ten times longer to build than all other operations together.
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
        erase = make.RandomErasing((1.0, 1.0), scale=(0.02, 0.2), **pixels)

    def augment(image: Tensor, seed: Tensor) -> Tensor:
        seeds = _step_seeds(seed)
        for layer in always:
            image = _apply(layer, image, seeds)
        if name == "strong":
            image = _colours(image, seeds)
            for _ in range(2):
                choice = tf.random.stateless_uniform(
                    [], seeds.next(), 0, len(one_of), tf.int32
                )
                image = tf.switch_case(
                    choice,
                    [functools.partial(_apply, op, image, seeds) for op in one_of],
                )
            # Erases one image in eight; the layer would compute it for all of them.
            image = tf.cond(
                tf.random.stateless_uniform([], seeds.next()) < 0.125,
                lambda: _apply(erase, image, seeds),
                lambda: image,
            )
        return tf.clip_by_value(image, 0.0, 255.0)

    return augment


def _colours(image: Tensor, seeds: Any) -> Tensor:
    """Applies random brightness, contrast, saturation and hue as one matrix per pixel.

    Saturation scales, and hue rotates, the chroma in the YIQ color space. Using four
    Keras layers took ten times as long.
    """
    import tensorflow as tf

    low = [-0.2 * 255, 0.8, 2 / 3, -0.01]
    high = [0.2 * 255, 1.2, 3 / 2, 0.01]
    drawn = tf.random.stateless_uniform([4], seeds.next(), low, high)
    brightness, contrast, saturation, hue = tf.unstack(drawn)
    i = saturation * tf.cos(2 * np.pi * hue)
    q = saturation * tf.sin(2 * np.pi * hue)
    chroma = tf.convert_to_tensor([[1.0, 0.0, 0.0], [0.0, i, q], [0.0, -q, i]])
    to_yiq, to_rgb = (
        tf.squeeze(convert(tf.eye(3)[:, None]))
        for convert in (tf.image.rgb_to_yiq, tf.image.yiq_to_rgb)
    )
    mean = tf.reduce_mean(image, [0, 1])
    colours = to_yiq @ chroma @ to_rgb
    offset = (1 - contrast) * tf.tensordot(mean, colours, 1) + brightness
    pixels = tf.reshape(image, [-1, 3]) @ (contrast * colours) + offset
    return tf.reshape(pixels, tf.shape(image))


def _step_seeds(seed: Tensor) -> Any:
    """A stateless Keras seed generator that derives its seeds from `seed`."""
    import keras
    import tensorflow as tf

    class StepSeeds(keras.random.SeedGenerator):
        def __init__(self) -> None:
            self.drawn = 0

        def next(self, ordered: bool = True) -> Tensor:
            self.drawn += 1
            return tf.random.experimental.stateless_fold_in(seed, self.drawn)

    return StepSeeds()


def _apply(layer: Any, image: Tensor, seeds: Any) -> Tensor:
    """Applies a preprocessing layer to an image, with seeds from `seeds`."""
    layer.get_random_transformation = functools.partial(
        type(layer).get_random_transformation, layer, seed=seeds
    )
    return layer(image, training=True)
