"""A training from start to end: head warm-up, then all layers."""

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.errors import APINetError
from keras_apinet.losses import CrossEntropy, PairwiseLoss
from keras_apinet.model import APINet, build
from keras_apinet.runs import Run
from keras_apinet.train.callbacks import EpochLine, KeepModels, StopOnNaN
from keras_apinet.train.recipe import Recipe


def train(recipe: Recipe, out: str | Path, verbose: str = "auto") -> Run:
    """Trains a model and leaves it in a new run folder.

    Args:
        recipe: What to train, and how.
        out: The run folder to make; a folder that holds a run is refused.
        verbose: `"bar"`: Keras's progress bar; `"plain"`: a line for each epoch;
            `"quiet"`: nothing; `"auto"`: a bar on a terminal, else plain.

    Returns:
        The finished run.

    Raises:
        APINetError: For data, backbones or settings that do not fit, or a loss that is
            no number.

    Example:
    ```python
    run = train(Recipe(data="photos/", backbone="mobilenet_v2", epochs=20), "runs/a")
    print(run.read("training.json")["val_accuracy"])
    ```
    """
    say = _Speaker(verbose)
    keras.utils.set_random_seed(recipe.seed)
    load: dict[str, Any] = {
        "name": recipe.data,
        "data_dir": recipe.data_dir,
        "validation": recipe.validation,
        "seed": recipe.seed,
    }
    images = data.load(**load, download=recipe.download)
    classes = len(images.class_names)
    if classes < 2:
        raise APINetError(
            f"The data set {recipe.data!r} has {classes} class; telling classes apart "
            "needs at least 2."
        )
    if recipe.dtype != "float32":
        keras.config.set_dtype_policy(recipe.dtype)
    model = build(
        recipe.backbone,
        classes,
        image_size=recipe.image_size,
        weights=recipe.backbone_weights,
        mutual_units=recipe.mutual_units,
        dropout_rate=recipe.dropout_rate,
        batch_norm=recipe.or_else("batch_norm", "inference", "train"),
        class_names=images.class_names,
        seed=recipe.seed,
    )
    image_size = model.image_size or recipe.image_size
    if not image_size:
        raise APINetError(
            f"The backbone {recipe.backbone!r} takes images of any size; give "
            "--image-size."
        )
    if isinstance(load["name"], str) and Path(load["name"]).exists():
        load["name"] = str(Path(load["name"]).resolve())
    run = Run.create(
        out,
        {
            "settings": recipe.asdict(),
            "class_names": list(images.class_names),
            "image_size": image_size,
            "data": {
                "load": load,
                "images": {name: len(split) for name, split in images.splits.items()},
                "fingerprint": images.fingerprint(),
                "held_out": images.held_out,
            },
            "versions": _versions(),
        },
    )
    counts = ", ".join(f"{len(s):,} {name}" for name, s in images.splits.items())
    say(
        f"{recipe.data}: {classes} classes, {counts} images\n"
        f"{recipe.backbone} at {image_size} px, {model.count_params():,} parameters, "
        f"{recipe.method}, on {keras.backend.backend()}"
    )
    return _fit(model, images, recipe, run, image_size, say)


def _fit(
    model: APINet,
    images: data.ImageData,
    recipe: Recipe,
    run: Run,
    image_size: int,
    say: "_Speaker",
) -> Run:
    settings: dict[str, Any] = {
        "classes_per_batch": min(recipe.classes_per_batch, len(images.class_names)),
        "images_per_class": recipe.images_per_class,
        "seed": recipe.seed,
        "epoch_steps": recipe.steps_per_epoch,
    }
    batches = data.balanced_batches(
        images.splits["train"],
        image_size=image_size,
        augmentation=recipe.augmentation,
        resize=recipe.resize,
        **settings,
    )
    steps, batch_size = batches.plan.epoch_steps, batches.plan.batch_size
    validation = None
    if "val" in images.splits:
        validation = data.evaluation_batches(
            images.splits["val"], image_size=image_size, resize=recipe.resize
        )
    keep = KeepModels(run)
    log = keras.callbacks.CSVLogger(str(run.folder / "log.csv"), append=True)

    total = max(1, recipe.epochs * steps)
    rising = max(1, total // 20)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, total - rising),
        warmup_target=recipe.or_else("learning_rate", 1e-4, 2e-3),
        warmup_steps=rising,
    )
    warmup = recipe.or_else("warmup_epochs", 30, 0)
    if warmup:
        say(f"Head warm-up: {warmup} epochs on features of the frozen backbone")
        _warm_up(model, images, recipe, image_size, settings, warmup, say)
    model.compile(_optimizer(recipe.optimizer, rate, recipe), loss=_loss(recipe))
    model.optimizer.build(model.trainable_variables)
    if warmup:
        scores = {}
        if validation is not None:
            scores = model.evaluate(validation, verbose=0, return_dict=True)
            say(f"After the warm-up: validation {scores['accuracy']:.1%}")
        keep.set_model(model)
        keep.on_epoch_end(0, {f"val_{k}": v for k, v in scores.items()})
    if recipe.epochs:
        finite = StopOnNaN()
        lines = [EpochLine("Epoch", recipe.epochs, steps * batch_size)]
        with batches.report:
            model.fit(
                batches,
                validation_data=validation,
                epochs=recipe.epochs,
                verbose=1 if say.bar else 0,
                callbacks=[finite, keep, log, *(lines if say.lines else [])],
            )
        finite.check()
    best = keep.best or (0.0, 0.0)
    result = {
        "best_epoch": keep.best_epoch - (1 if warmup else 0),
        "val_accuracy": best[0] if validation is not None else None,
        "unreadable": dict(batches.report.failed),
    }
    run.write("training.json", result)
    if validation is not None:
        where = result["best_epoch"] or "the warm-up"
        say(f"Best validation accuracy {best[0]:.1%}, after epoch {where}")
    return run


def _warm_up(
    model: APINet,
    images: data.ImageData,
    recipe: Recipe,
    image_size: int,
    settings: dict[str, Any],
    epochs: int,
    say: "_Speaker",
) -> None:
    """Trains interaction and classifier on features that are computed once.

    The backbone is frozen and sees no augmentation here, so that its features never
    change: an epoch costs what the head costs.
    """
    split = images.splits["train"]
    ordered = data.evaluation_batches(
        split, image_size=image_size, resize=recipe.resize, on_error="skip"
    )
    features, labels = [], []
    extractor = model.feature_model()
    progress = keras.utils.Progbar(len(split), verbose=1 if say.bar else 0)
    for batch, batch_labels in ordered:
        features.append(
            np.asarray(extractor.predict_on_batch(np.asarray(batch)), "float32")
        )
        labels.append(np.asarray(batch_labels))
        progress.add(len(batch_labels))
    model.backbone.trainable = False
    head = _FeatureBatches(np.concatenate(features), np.concatenate(labels), settings)
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.head_learning_rate, epochs * len(head)
    )
    model.compile(_optimizer("adamw", rate, recipe), loss=_loss(recipe))
    finite = StopOnNaN()
    model.fit(head, epochs=epochs, verbose=0, callbacks=[finite])
    finite.check()
    model.backbone.trainable = True


class _FeatureBatches(keras.utils.PyDataset):
    """Balanced batches of features that lie in memory."""

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.features, self.labels = features, labels
        self.plan = data.BatchPlan(labels, **settings)
        self.epoch = 0

    def __len__(self) -> int:
        return self.plan.epoch_steps

    def __getitem__(self, step: int) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = self.plan.indices(self.epoch, step)
        return self.features[rows], self.labels[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1


def _loss(recipe: Recipe) -> keras.losses.Loss:
    if recipe.method == "pairwise":
        return PairwiseLoss(
            recipe.margin, recipe.ranking_weight, recipe.label_smoothing
        )
    return CrossEntropy(recipe.label_smoothing)


def _optimizer(name: str, rate: Any, recipe: Recipe) -> keras.optimizers.Optimizer:
    options = {"weight_decay": recipe.weight_decay, "global_clipnorm": recipe.clipnorm}
    if name == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, **options)
    else:
        optimizer = keras.optimizers.AdamW(rate, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("keras-apinet", "keras", keras.backend.backend(), "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


class _Speaker:
    """What a person sees: a bar, lines, or nothing."""

    def __init__(self, verbose: str) -> None:
        if verbose == "auto":
            verbose = "bar" if sys.stdout.isatty() else "plain"
        self.bar = verbose == "bar"
        self.lines = verbose != "quiet"

    def __call__(self, text: str) -> None:
        if self.lines:
            print(text, flush=True)
