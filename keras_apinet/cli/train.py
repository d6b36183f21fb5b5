"""`keras-apinet train`."""

import argparse
import dataclasses
import typing
from typing import Any

HELP = "train a model and leave everything in a run folder"

# What the command line says about a setting of the recipe, in this order.
SETTINGS = {
    "backbone": "backbone by name (default: tiny, a small network)",
    "weights": "imagenet, none or a weights file (default: imagenet; none for tiny)",
    "image_size": "height and width of the images in px (default: the backbone's own)",
    "method": "pairwise, or baseline: plain cross-entropy (default: pairwise)",
    "classes_per_batch": "classes in a batch, P",
    "images_per_class": "images of each class in a batch, K",
    "warmup_epochs": "epochs in which only the head learns (default: 30 if pretrained)",
    "epochs": "epochs in which all layers learn",
    "steps_per_epoch": "batches in an epoch (default: training images / batch size)",
    "optimizer": "adamw or sgd",
    "learning_rate": "peak learning rate (default: 1e-4 if pretrained, else 2e-3)",
    "head_learning_rate": "learning rate of the warm-up",
    "weight_decay": "decay of kernels",
    "clipnorm": "largest norm of the whole gradient",
    "batch_norm": "train or inference (default: inference if pretrained, else train)",
    "augmentation": "paper, light, strong or none",
    "resize": "fit: keep the aspect ratio; squash: do not",
    "mutual_units": "width of the mutual MLP",
    "dropout_rate": "dropout in the mutual MLP and before the classifier",
    "margin": "margin of the ranking loss",
    "ranking_weight": "weight of the ranking loss",
    "label_smoothing": "share of the target spread over all classes",
    "validation": "share of the training images held out, if there is no own split",
    "dtype": "float32, mixed_bfloat16 or mixed_float16",
    "seed": "seed of everything random",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one option for every setting of the recipe."""
    from keras_apinet.train.recipe import Recipe

    parser.add_argument(
        "--data",
        default="synthetic_birds",
        help="folder, CSV, TFDS name or synthetic_birds (the default)",
    )
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its sets")
    parser.add_argument(
        "--download",
        action="store_true",
        help="let TensorFlow Datasets download the set",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="run folder to make"
    )
    types = typing.get_type_hints(Recipe)
    defaults = {f.name: f.default for f in dataclasses.fields(Recipe)}
    for name, text in SETTINGS.items():
        kinds = typing.get_args(types[name]) or (types[name],)
        kind = next(t for t in kinds if t is not type(None))
        default: Any = defaults[name]
        if default is not None and "default" not in text:
            text = f"{text} (default: {default})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=default,
            metavar={int: "N", float: "X", str: "NAME"}[kind],
            help=text,
        )
    output = parser.add_mutually_exclusive_group()
    for mode, text in (
        ("bar", "progress bar even if the output is no terminal"),
        ("plain", "one line for each epoch"),
        ("quiet", "print nothing but errors"),
    ):
        output.add_argument(
            f"--{mode}", dest="verbose", action="store_const", const=mode, help=text
        )


def run(args: argparse.Namespace) -> int:
    """Trains, then says where everything lies."""
    from keras_apinet.train import Recipe, train

    names = {f.name for f in dataclasses.fields(Recipe)}
    recipe = Recipe(**{k: v for k, v in vars(args).items() if k in names})
    verbose = args.verbose or "auto"
    finished = train(recipe, args.out, verbose)
    if verbose != "quiet":
        print(
            f"Run folder: {finished.folder}\n"
            f"Next: keras-apinet evaluate {finished.folder}\n"
            f"      keras-apinet predict {finished.folder} PHOTO ...\n"
            f"      keras-apinet export {finished.folder} --format tflite"
        )
    return 0
