"""Sources of an export: a run folder, a `.keras` file, or a model in memory."""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from keras_apinet.compat import flatten_layers
from keras_apinet.errors import APINetError
from keras_apinet.export.runtime.classifier_info import ClassifierInfo, recipe_hash
from keras_apinet.loading import load
from keras_apinet.model.apinet import APINet
from keras_apinet.open_world.families import FILE, families_in
from keras_apinet.open_world.unknown import Unknown, open_unknown, with_unknown
from keras_apinet.runs import Run

UNKNOWN = "unknown"
_SIXTEEN_BITS = {"mixed_bfloat16", "mixed_float16", "bfloat16", "float16"}


@dataclass(frozen=True)
class Source:
    """A trained model and its metadata.

    Attributes:
        model: The model.
        info: Metadata for its exported files.
        place: The run folder or the model's file; `None` for a model in memory.
        run: The run, if there is one, which knows the photos.
        unknown: Adds the class `unknown`, the last of `info.class_names`.
    """

    model: APINet
    info: ClassifierInfo
    place: Path | None = None
    run: Run | None = None
    unknown: Unknown | None = None

    def logits_model(self) -> keras.Model:
        """Creates the model from pixels to float32 logits, including any `unknown`."""
        model = in_float32(self.model.classifier_model(probabilities=False))
        if self.unknown is None:
            return model
        return with_unknown(model, self.unknown, self.info.temperature)


def open_source(
    source: Any,
    *,
    which: str = "best",
    image_size: int | None = None,
    class_names: Any = None,
    temperature: float | None = None,
    license: str | None = None,
    unknown: bool | None = False,
) -> Source:
    """Finds the model and its metadata; the arguments are those of `Exporter`.

    The source may also be a `Run`, and `unknown=None` adds the class if the run can.
    """
    run: Run | None = None
    place: Path | None = None
    if isinstance(source, APINet):
        model = source
    elif isinstance(source, (Run, str, os.PathLike)):
        place = source.folder if isinstance(source, Run) else Path(source)
        if isinstance(source, Run):
            run = source
        elif place.is_dir():
            run = Run.open(place)
        elif beside := Run.of_model(place):  # which knows how photos are prepared
            run, which = beside
        model = run.model(which) if run else load(place)
    else:
        raise APINetError(
            f"A {type(source).__name__} cannot be exported; pass an APINet, a run "
            "folder or a .keras file."
        )
    size = model.image_size or image_size or (run.image_size if run else None)
    if not size:
        raise APINetError(
            "The backbone takes images of any size; set image_size, in px."
        )
    if image_size and image_size != size:
        raise APINetError(
            f"image_size={image_size} does not match the model's {size} px; omit it."
        )
    names = class_names or (run.class_names if run else None) or model.class_names
    if not names:
        warnings.warn(
            f"The model has no class names, so its classes are named 0 to "
            f"{model.num_classes - 1}; pass class_names=[...] to "
            "keras_apinet.build or to the export.",
            stacklevel=2,
        )
        names = [str(number) for number in range(model.num_classes)]
    if len(names) != model.num_classes:
        raise APINetError(
            f"There are {len(names)} class names for a model of {model.num_classes} "
            "classes; pass one name per class, or the run's own model."
        )
    settings = run.settings if run else {}
    if temperature is None:
        temperature = run.temperature(which, model) if run else 1.0
    info = ClassifierInfo(
        class_names=tuple(str(name) for name in names),
        image_size=int(size),
        resize=settings.get("resize", "fit"),
        backbone=str(settings.get("backbone") or model.backbone.name),
        temperature=temperature,
        recipe_hash=recipe_hash(settings) if settings else None,
        license=license,
        families=families_in(run.read(FILE), names) if run else None,
    )
    found = None
    if run and unknown is not False:
        found = open_unknown(run, model, which)
    if unknown and found is None:
        raise APINetError(
            "This model has no threshold for unknown photos; train with "
            "--validation 0.2, or run `keras-apinet evaluate RUN --foreign FOLDER`."
        )
    if found is not None:
        # `unknown`, the answer if no class is confident, belongs to no family.
        own = None if info.families is None else (*info.families, UNKNOWN)
        names = (*info.class_names, UNKNOWN)
        info = replace(info, class_names=names, families=own, unknown=True)
    return Source(model, info, place, run, found)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model itself if it computes in float32, otherwise a float32 copy.

    Converters only partly support 16 bits, and files have their own precision.
    """
    if all(layer.compute_dtype == "float32" for layer in flatten_layers(model)):
        return model
    config = _replaced(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(config, safe_mode=True)
    copy.set_weights(model.get_weights())
    return copy


def _replaced(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _replaced(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(value) for value in config)
    return "float32" if isinstance(config, str) and config in _SIXTEEN_BITS else config
