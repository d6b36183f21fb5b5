"""The shapes of a run folder's JSON files, in the notation of `files.schema`."""

import os
from typing import Any

from keras_apinet.files import schema
from keras_apinet.files.bounds import (
    COUNT,
    FRACTION,
    IMAGE_SIZE,
    KEEP,
    SEED,
    SHARE,
    TEMPERATURE,
    Number,
)
from keras_apinet.files.schema import Shape, names_of_classes

_PLAIN = (None, bool, int, float, str)


def _figure(value: Shape, **more: Shape) -> Shape:
    """Returns the shape of a figure, with both ends of its interval or neither."""
    ends = ({"low": None, "high": None}, {"low": float, "high": float})
    return tuple({"value": value, **pair, **more} for pair in ends)


def _pair(value: Any) -> str | None:
    two = isinstance(value, list) and len(value) == 2
    return None if two and all(isinstance(x, str) for x in value) else "two texts"


def _ends(value: Any) -> str | None:
    two = isinstance(value, list) and len(value) == 2
    return None if two and all(map(SHARE.fits, value)) else "two shares"


CALIBRATION: Shape = {
    "temperature": TEMPERATURE,
    "reason?": (None, str),
    "method?": str,
    "model?": str,
    "images?": COUNT,
    "right?": COUNT,
    "weights?": str,
    **{
        f"{name}_{when}?": float
        for name in ("ece", "nll")
        for when in ("before", "after")
    },
}
UNKNOWN: Shape = {
    "keep": KEEP,
    "slope": Number(float, above=0),
    "logits?": bool,
    "images?": COUNT,
    "weights": str,
    "arrays": str,
}
TRAINING: Shape = {
    "best_epoch?": COUNT,
    "val_accuracy?": (None, SHARE),
    "unreadable?": {...: str},
}
FAMILIES: Shape = {"families": {...: str}, "source?": str}
RUN: Shape = {
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
            "exclude?": (None, str),
            "relabel?": (None, str),
            ...: (),
        },
        "images?": {...: COUNT},
        "fingerprint?": str,
        "held_out?": (None, {...: _PLAIN}),
    },
    "versions?": {...: str},
}
_BOTH: dict[Any, Shape] = {
    "data": str,
    "split": str,
    "images": COUNT,
    "classes_without_images": [str],
}
# Format of earlier versions, without the number of images of each figure.
_EARLIER: dict[Any, Shape] = {
    **_BOTH,
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
    "confused_pairs": [{"classes": _pair, "errors": COUNT}],
    "warnings?": (),
}
_CONFIDENCE: dict[Any, Shape] = {
    **dict.fromkeys(("value", "low", "high", "accuracy", "confidence"), float),
    "images": COUNT,
    "verdict": (None, "over-confident", "under-confident"),
}
_ERRORS: dict[Any, Shape] = {
    name: _figure(float, images=COUNT) for name in ("nll", "ece")
}
_NOW: dict[Any, Shape] = {
    **_BOTH,
    "given": bool,
    "whole": bool,
    "model": str,
    "classes": COUNT,
    "left_out": COUNT,
    "unreadable": {...: str},
    "metrics": {
        "top1": _figure(SHARE, images=COUNT),
        **_ERRORS,
        ...: _figure((None, float), images=COUNT),
    },
    "confidence": _CONFIDENCE,
    "calibrated": (
        None,
        {
            "temperature": TEMPERATURE,
            **_ERRORS,
            "confidence": _CONFIDENCE,
            "reason": (None, str),
        },
    ),
    "per_class": [
        {
            "class": str,
            "images": COUNT,
            "accuracy": SHARE,
            "intervals": {"recall": _ends},
        }
    ],
    "errors": COUNT,
    "confused_pairs": [{"classes": _pair, "errors": COUNT, "of": COUNT}],
    "groups": {},
    "warnings": [str],
}
EVALUATION: Shape = (_NOW, _EARLIER)


def file_of(name: str, which: str) -> str:
    """What a file about a run's `"best"` model is called for another: `x_last.json`."""
    stem, ending = os.path.splitext(name)
    return name if which == "best" else f"{stem}_{which}{ending}"


def shape_of(name: str) -> Shape:
    """Returns the shape of a JSON file in a run folder."""
    if name.startswith("evaluation_"):
        return EVALUATION
    if name.startswith("calibration"):
        return CALIBRATION
    if name.startswith("unknown"):
        return UNKNOWN
    if name == "families.json":
        return FAMILIES
    if name == "training.json":
        return TRAINING
    if name == "held_out.json":
        return {"photos": [str]}
    if name == "advice.json":
        return {"advice": [str], "model?": str}
    if name.startswith("open_"):
        # What was measured -> a sentence; earlier versions only had sentences.
        names: dict[str, Shape] = dict.fromkeys(("data?", "photos?", "weights?"), str)
        names["files?"] = {...: _pair}
        return {"model": str, **names, "sentences": ([str], {...: str})}
    return RUN if name == "run.json" else {}


def remedy_for(name: str) -> str:
    """Returns what to do about a damaged JSON file in a run folder."""
    if name.startswith(("evaluation_", "calibration", "unknown", "open_")):
        asked = ""
        if name.startswith("unknown"):
            asked = " --foreign FOLDER"
        elif name.startswith("open_"):
            asked = " --foreign FOLDER or --confidence P"
        command = f"`keras-apinet evaluate{asked}`"
        return f"it is damaged: remove it, and {command} makes it again"
    return schema.DAMAGED
