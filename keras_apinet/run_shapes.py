"""The shapes of a run folder's JSON files, in the notation of `keras_apinet.schema`."""

from typing import Any

from keras_apinet.bounds import COUNT, FRACTION, IMAGE_SIZE, SEED, SHARE, TEMPERATURE
from keras_apinet.schema import Shape, names_of_classes

_PLAIN = (None, bool, int, float, str)


def _figure(value: Shape) -> Shape:
    """A figure, with both ends of its interval or with none."""
    ends = ({"low": None, "high": None}, {"low": float, "high": float})
    return tuple({"value": value, **pair} for pair in ends)


def _pair(value: Any) -> str | None:
    two = isinstance(value, list) and len(value) == 2
    return None if two and all(isinstance(x, str) for x in value) else "two texts"


CALIBRATION = {
    "temperature": TEMPERATURE,
    "model?": str,
    "images?": COUNT,
    **{
        f"{name}_{when}?": float
        for name in ("ece", "nll")
        for when in ("before", "after")
    },
}
RUN = {
    "settings": {"resize?": ("fit", "squash"), "backbone?": str, ...: _PLAIN},
    "class_names": names_of_classes,
    "image_size": IMAGE_SIZE,
    "data?": {
        "load?": {
            "name": str,
            "data_dir?": (None, str),
            "validation?": (None, FRACTION),
            "seed?": SEED,
            "level?": (None, str),
            "group_by?": str,
            ...: (),
        },
        "images?": {...: COUNT},
        "fingerprint?": str,
        "held_out?": (None, {...: _PLAIN}),
    },
    "versions?": {...: str},
}
EVALUATION = {
    "data": str,
    "split": str,
    "images": COUNT,
    "metrics": {"top1": _figure(SHARE), ...: _figure((None, float))},
    "calibrated": (
        None,
        {
            "temperature": TEMPERATURE,
            "nll": _figure((None, float)),
            "ece": _figure(float),
        },
    ),
    "per_class": [{"class": str, "images": COUNT, "accuracy": SHARE}],
    "classes_without_images": [str],
    "confused_pairs": [{"classes": _pair, "errors": COUNT}],
}


def shape_of(name: str) -> Shape:
    """The shape of a JSON file of a run folder."""
    if name.startswith("evaluation_"):
        return EVALUATION
    if name.startswith("calibration"):
        return CALIBRATION
    return RUN if name == "run.json" else {}
