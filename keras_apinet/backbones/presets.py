"""Backbones from KerasCV and KerasHub presets, by name or from a local folder."""

import importlib
import os
from pathlib import Path
from typing import Any, cast

import keras

from keras_apinet.backbones.scaling import PixelScaling
from keras_apinet.backbones.weights import explained, load_file, one_line
from keras_apinet.errors import APINetError, did_you_mean

# The libraries, each with its argument name for the shape of a backbone's images.
SOURCES = {"keras_cv": "input_shape", "keras_hub": "image_shape"}
# For presets that take images of any size.
_IMAGE_SIZE = 224


def create(
    source: str,
    preset: str,
    image_size: int | None,
    weights: str | os.PathLike[str] | None,
    file: Path | None,
) -> tuple[keras.Model, PixelScaling | None, int, bool]:
    """Returns the model, its scaling, its image size and whether it is pretrained.

    Args:
        source: The library to import, `"keras_cv"` or `"keras_hub"`.
        preset: A preset's name or handle, or a folder that `save_to_preset` wrote.
        image_size: Height and width, px; `None` for the preset's own.
        weights: `None` for random weights; anything else loads the preset's own
            weights unless `file` is given.
        file: A weights file to load instead of the preset's own weights.

    Raises:
        APINetError: If the library is missing, or the preset is unknown, cannot be
            reached, has no weights, or does not map images to features.
    """
    name = f"{source}:{preset}"
    shape_name = SOURCES[source]
    backbone_class = _import(source).models.Backbone
    handle = _handle(source, preset)
    way_out = (
        "give a folder that save_to_preset wrote"
        if os.path.isdir(handle)
        else "check the connection or give a local preset folder"
    )

    def load(load_weights: bool, **config: Any) -> keras.Model:
        return explained(
            lambda: backbone_class.from_preset(
                handle, load_weights=load_weights, **config
            ),
            f"could not load preset {name!r} ({handle})",
            f"{way_out}; weights=None skips its weights",
        )

    # The configuration alone defines the input images. Reading it downloads no weights
    # and only costs building the model twice.
    model = load(False)
    _check(model, name)
    scaling, converted_size = _scaling(source, handle, model)
    own_size = _image_shape(model)[1] or converted_size or _IMAGE_SIZE
    size = image_size or own_size
    config = {} if _image_shape(model)[1] == size else {shape_name: (size, size, 3)}
    pretrained = weights is not None
    if config or (pretrained and file is None):
        try:
            model = load(pretrained and file is None, **config)
        except APINetError as error:
            if size == own_size:
                raise
            raise APINetError(
                f"{error} (asked for image_size={size}; its own is {own_size})"
            ) from error
    if file is not None:
        load_file(model, file, name)
    if isinstance(model.input, dict):
        model = keras.Model(_image(model), model.output, name=model.name)
    return model, scaling, size, pretrained


def _import(source: str) -> Any:
    try:
        return importlib.import_module(source)
    except ImportError as error:
        package = source.replace("_", "-")
        raise APINetError(
            f"backbones '{source}:...' need the package {package}: "
            f"pip install {package} ({one_line(error)})"
        ) from error


def _handle(source: str, preset: str) -> str:
    """Returns a handle that `from_preset` of any class in the library accepts."""
    if os.path.isdir(preset):
        # An absolute path is never mistaken for a preset of the same name.
        return os.path.abspath(preset)
    if "://" in preset:
        return preset
    models = _import(source).models
    known: dict[str, Any] = {}
    for member in vars(models).values():
        if isinstance(member, type) and issubclass(member, models.Backbone):
            known.update(cast("Any", member).presets)
    if preset in known:
        return str(known[preset]["kaggle_handle"])
    raise APINetError(
        f"{source} has no preset {preset!r}, and there is no such folder"
        + did_you_mean(preset, known, 4)
    )


def _image(model: keras.Model) -> Any:
    inputs = model.input
    return next(iter(inputs.values())) if isinstance(inputs, dict) else inputs


def _image_shape(model: keras.Model) -> tuple[int | None, ...]:
    return tuple(_image(model).shape)


def _check(model: keras.Model, name: str) -> None:
    images_only = (
        len(model.inputs) == 1
        and len(_image_shape(model)) == 4
        and _image_shape(model)[-1] == 3
    )
    features = len(model.outputs) == 1 and len(model.outputs[0].shape) in (2, 3, 4)
    if not (images_only and features):
        raise APINetError(
            f"preset {name!r} does not map images [N, H, W, 3] to one feature map, "
            f"token sequence or vector: its inputs are "
            f"{[tuple(x.shape) for x in model.inputs]}, its outputs "
            f"{[tuple(x.shape) for x in model.outputs]}"
        )


def _scaling(
    source: str, handle: str, model: keras.Model
) -> tuple[PixelScaling | None, int | None]:
    """Returns the layer that scales pixels and the matching image size."""
    unit = PixelScaling(scale=1 / 255, name="pixel_scaling")
    if source == "keras_cv":
        inside = model.get_config().get("include_rescaling")
        return (None if inside else unit), None
    keras_hub = _import(source)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(handle)
    except (FileNotFoundError, ValueError):
        # A preset without a converter does not specify its pixel range.
        return unit, None
    scaling = PixelScaling(
        scale=1.0 if converter.scale is None else converter.scale,
        offset=0.0 if converter.offset is None else converter.offset,
        name="pixel_scaling",
    )
    return scaling, converter.image_size and converter.image_size[0]
