"""All training settings, in one place."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError, did_you_mean
from keras_apinet.files.bounds import (
    CLASSES_PER_BATCH,
    FRACTION,
    IMAGE_SIZE,
    IMAGES_PER_CLASS,
    MINUTES,
    SEED,
    STEPS,
    Number,
    check_choice,
    shown,
)
from keras_apinet.files.schema import NEW_NAMES

# Pair mining computes all distances in a batch, so memory grows quadratically.
LARGEST_BATCH = 16_384
# Values for runs that started before these settings existed or changed default.
BEFORE = {
    "group_by": "none",
    "distance": "euclidean",
    "single_image_weight": 0.0,
    "residual_weight": 1.0,
}
MOST_EPOCHS = 1_000_000
_EPOCHS = Number(int, 0, MOST_EPOCHS)
_PARTNERS = ("nearest", "farthest", "random", "none")
_POSITIVE = Number(float, above=0, high=1e30)
_WEIGHT = Number(float, 0, 1e6)


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] = (),
    within: Number | None = None,
) -> Any:
    """A dataclass field with a default, a description and the allowed values."""
    rules = {"text": text, "choices": choices, "within": within}
    return dataclasses.field(default=default, metadata=rules)


@dataclass(frozen=True)
class Recipe:
    """All settings of a training run.

    Each setting is described where it is defined below; `keras-apinet train --help`
    shows the same descriptions. `None` means that the value is chosen from the data or
    the backbone. "Pretrained" means that the backbone does not start from random
    weights.

    Raises:
        APINetError: For invalid values or conflicting settings.

    >>> Recipe(data="photos/", backbone="mobilenet_v2", epochs=20).epochs
    20
    """

    data: str = setting(
        "synthetic_birds", "folder, CSV, archive, TFDS name or synthetic_birds"
    )
    data_dir: str | None = setting(None, "TensorFlow Datasets directory")
    level: str | None = setting(
        None, "FGVC-Aircraft labels: variant, family or manufacturer"
    )
    download: bool = setting(False, "let TensorFlow Datasets download the data")
    validation: float = setting(
        0.1,
        "fraction of the training images to hold out if there is no validation split",
        within=FRACTION,
    )
    group_by: str = setting(
        "photos",
        "how to group photos that are held out together: photos (bursts and "
        "look-alikes of a class), folder, none, column:NAME of a table, or a regular "
        "expression with one group",
    )
    exclude: str | None = setting(None, "CSV of photos to exclude; see data --audit")
    relabel: str | None = setting(
        None, "CSV of photos and their corrected labels; see data --audit"
    )
    box_crop: bool = setting(
        False, "crop to the object's bounding box first, if the data has boxes"
    )

    backend: str | None = setting(
        None,
        "backend required by this recipe (default: any; KERAS_BACKEND decides)",
        choices=("tensorflow", "jax", "torch"),
    )
    backbone: str | None = setting(
        None,
        "name of the backbone; see keras_apinet.backbones (default: tiny for synthetic "
        "birds; efficientnet_lite0 for photos, if its ImageNet weights are installed)",
    )
    weights: str | None = setting(
        None, "imagenet, none or a weights file (default: imagenet; none for tiny)"
    )
    image_size: int | None = setting(
        None,
        "height and width of the images in px (default: the backbone's own)",
        within=IMAGE_SIZE,
    )
    pooling: str = setting(
        "average",
        "average: mean over positions or tokens; token: the class token",
        choices=("average", "token"),
    )
    batch_norm: str = setting(
        "train",
        "train: use batch statistics; inference: keep the moving statistics fixed",
        choices=("train", "inference"),
    )
    batch_norm_momentum: float = setting(
        0.9, "momentum of the moving statistics (batch_norm train)", within=FRACTION
    )

    freeze_fraction: float = setting(
        0.0,
        "fraction of the backbone's layers to freeze, starting at the input",
        within=FRACTION,
    )
    cached_views: int = setting(
        0,
        "augmented views per image to pass through the frozen layers once and cache, "
        "several times faster on a CPU; 0: new views at each step",
        within=Number(int, 0, 10_000),
    )
    cached_views_dir: str | None = setting(
        None,
        "folder that keeps the views for other runs (default: in the run folder until "
        "training ends)",
    )

    method: str = setting(
        "pairwise",
        "pairwise, or baseline: plain cross-entropy, all else equal",
        choices=("pairwise", "baseline"),
    )
    classes_per_batch: int = setting(
        12,
        "classes per batch, P (fewer if the data has fewer)",
        within=CLASSES_PER_BATCH,
    )
    images_per_class: int = setting(
        4, "images per class in a batch, K", within=IMAGES_PER_CLASS
    )
    class_sampling: str = setting(
        "uniform",
        "probability of sampling a class, by its number of images",
        choices=("uniform", "sqrt", "proportional"),
    )
    intra: str = setting("nearest", "partner of the same class", choices=_PARTNERS)
    inter: str = setting("nearest", "partner of another class", choices=_PARTNERS)
    distance: str = setting(
        "cosine",
        "distance used to select partners: cosine, or euclidean as in the paper",
        choices=("euclidean", "cosine"),
    )
    memory_size: int = setting(
        0,
        "recent features beyond the batch to select partners from",
        within=Number(int, 0, 100_000),
    )
    mutual_units: int = setting(
        512, "width of the mutual MLP", within=Number(int, 1, 16_384)
    )
    dropout_rate: float = setting(
        0.5, "dropout rate in the mutual MLP and before the classifier", within=FRACTION
    )
    residual_weight: float = setting(
        0.5,
        "weight of the residual feature added to the gated one: 1 in the paper; 0.5 "
        "gives gated features the same scale as at inference",
        within=Number(float, 0, 10),
    )
    margin: float = setting(
        0.05, "margin of the ranking loss (probability)", within=Number(float, 0, 10)
    )
    ranking_weight: float = setting(1.0, "weight of the ranking loss", within=_WEIGHT)
    single_image_weight: float = setting(
        1.0,
        "weight of the single-image cross-entropy, without gates, added to the pairs' "
        "loss; 0 in the paper",
        within=_WEIGHT,
    )
    label_smoothing: float = setting(
        0.0, "fraction of the target spread over all classes", within=FRACTION
    )

    head_epochs: int | None = setting(
        None,
        "epochs that train only the head (default: 30 if pretrained, else 0)",
        within=_EPOCHS,
    )
    cached_head_features: bool = setting(
        True, "in the head phase, train on cached features of un-augmented images"
    )
    epochs: int = setting(12, "epochs that train all layers", within=_EPOCHS)
    steps_per_epoch: int | None = setting(
        None,
        "batches per epoch (default: training images // batch size)",
        within=STEPS,
    )
    augmentation: str = setting(
        "paper",
        "paper: random crop and flip; light and strong add more; none: deterministic",
        choices=("paper", "light", "strong", "none"),
    )
    resize: str = setting(
        "fit", "fit: keep the aspect ratio; squash: do not", choices=("fit", "squash")
    )

    optimizer: str = setting(
        "adamw", "adamw, or sgd with momentum 0.9", choices=("adamw", "sgd")
    )
    learning_rate: float | None = setting(
        None,
        "peak learning rate (default: 1e-4 without normalization layers, else 3e-4 if "
        "pretrained, else 2e-3)",
        within=_POSITIVE,
    )
    head_learning_rate: float = setting(
        1e-3, "peak learning rate of the head phase (AdamW)", within=_POSITIVE
    )
    schedule: str = setting(
        "cosine",
        "learning-rate schedule over the run, updated every batch",
        choices=("cosine", "linear", "constant", "one_cycle"),
    )
    warmup_fraction: float = setting(
        0.05,
        "fraction of the run used for learning-rate warm-up (one_cycle: always 0.3)",
        within=FRACTION,
    )
    layer_decay: float = setting(
        1.0,
        "learning rate of the backbone's first layer relative to the head's, rising "
        "layer by layer",
        within=Number(float, above=0, high=1),
    )
    weight_decay: float = setting(
        5e-4,
        "weight decay of kernels; layer-wise rates scale it if decoupled",
        within=Number(float, 0, 1000),
    )
    weight_decay_mode: str = setting(
        "decoupled",
        "decoupled: independent of gradient and momentum; l2: added to the clipped "
        "gradient, as in torch's SGD",
        choices=("decoupled", "l2"),
    )
    decay_all: bool = setting(False, "also decay biases and normalization weights")
    clipnorm: float = setting(
        1.0, "maximum global norm of the gradient", within=_POSITIVE
    )
    gradient_accumulation_steps: int = setting(
        1,
        "batches to average gradients over before each weight update, counted over the "
        "epochs after the head phase; an incomplete last group is dropped",
        within=Number(int, 1, 10_000),
    )
    ema_momentum: float = setting(
        0.0,
        "momentum, per weight update, of the averaged weights, which are validated and "
        "saved; 0: no averaging",
        within=FRACTION,
    )
    patience: int = setting(
        0,
        "epochs after the head phase without improvement in validation accuracy before "
        "training stops; 0: never",
        within=_EPOCHS,
    )
    steps_per_execution: int = setting(
        1,
        "batches to run per call of the backend; must divide the batches per epoch",
        within=Number(int, 1, 10_000),
    )
    jit_compile: bool | None = setting(
        None, "compile the step with XLA (default: best for the backend)"
    )
    dtype: str = setting(
        "float32",
        "dtype policy of the layers",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )

    unknown_keep: float = setting(
        0.95,
        "fraction of known photos that `unknown` must not reject; 0: none",
        within=FRACTION,
    )
    tracker: str | None = setting(
        None,
        "service to log each epoch's metrics to, using its Keras callback: wandb or "
        "mlflow",
        choices=("wandb", "mlflow"),
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints within an epoch", within=MINUTES
    )
    keep_checkpoints: int = setting(
        2, "number of checkpoints to keep", within=Number(int, 1, 10_000)
    )
    seed: int = setting(0, "random seed", within=SEED)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name), *kind_of(field.name))
        if self.classes_per_batch * self.images_per_class > LARGEST_BATCH:
            raise APINetError(
                f"classes_per_batch={self.classes_per_batch} times images_per_class="
                f"{self.images_per_class} must be at most {LARGEST_BATCH:,} images."
            )
        if self.epochs == 0 and not self.head_phase_epochs:
            raise APINetError("epochs=0 and no head_epochs: nothing to train; set one.")
        if self.cached_views and not self.freeze_fraction:
            raise APINetError(
                f"cached_views={self.cached_views} requires frozen layers, but "
                "freeze_fraction=0; set freeze_fraction=0.7, or cached_views=0."
            )
        if self.freeze_fraction and not self.backbone_weights:
            raise APINetError(
                f"freeze_fraction={self.freeze_fraction} would freeze layers with "
                "random weights; give weights, or set freeze_fraction=0."
            )
        if self.intra == self.inter == "none":
            raise APINetError(
                "intra='none' and inter='none' leave no pairs to learn from; change "
                "either, or set method='baseline'."
            )
        if self.memory_size and self.method == "baseline":
            raise APINetError(
                f"memory_size={self.memory_size} requires pairs, but method='baseline' "
                "has none; set memory_size=0."
            )
        if self.weight_decay_mode == "l2" and self.optimizer == "adamw":
            raise APINetError(
                "weight_decay_mode='l2' requires optimizer='sgd', but "
                "optimizer='adamw'; change either."
            )

    @property
    def backbone_weights(self) -> str | None:
        """The `weights` argument for `keras_apinet.build`."""
        if self.weights is None:
            drawn = self.backbone is None and self.data == "synthetic_birds"
            return None if drawn or self.backbone == "tiny" else "imagenet"
        return None if self.weights.lower() == "none" else self.weights

    @property
    def head_phase_epochs(self) -> int:
        """Epochs that train only the head; by default 30 if pretrained, otherwise 0."""
        if self.head_epochs is not None:
            return self.head_epochs
        return 30 if self.backbone_weights else 0

    def asdict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "the recipe") -> "Recipe":
        """Creates a recipe from plain values, such as those of `asdict`.

        Args:
            settings: Values by name.
            where: Name of the source in error messages.

        Raises:
            APINetError: For an unknown setting, with the closest match.
        """
        check_names(settings, where)
        return cls(**settings)


def check_names(names: Iterable[str], where: str) -> None:
    """Checks that settings exist.

    Raises:
        APINetError: For the first unknown setting, with the closest match.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in names:
        if name in NEW_NAMES:
            raise APINetError(
                f"The setting {name!r} in {where} is now called {NEW_NAMES[name]!r}."
            )
        if name not in known:
            raise APINetError(
                f"There is no setting {name!r} in {where}" + did_you_mean(name, known)
            )


TYPES = typing.get_type_hints(Recipe)


def kind_of(name: str) -> tuple[type, bool]:
    """The type of a setting, and whether it may be `None`."""
    kinds = typing.get_args(TYPES[name]) or (TYPES[name],)
    return next(k for k in kinds if k is not type(None)), type(None) in kinds


def _check(field: Any, value: Any, kind: type, optional: bool) -> None:
    """Checks the value of a setting against its type and rules."""
    name, rules = field.name, field.metadata
    if value is None and optional:
        return
    if kind in (int, float):
        number = rules["within"]
        # Plain numbers only, because they are stored as JSON and TOML.
        if type(value) not in (int, float) or not number.fits(value):
            raise APINetError(f"{name}={shown(value)} must be {number}.")
    elif not isinstance(value, kind):
        words = "true or false" if kind is bool else "a string"
        raise APINetError(f"{name}={shown(value)} must be {words}.")
    elif isinstance(value, str) and "\0" in value:
        raise APINetError(f"{name}={shown(value)} must be a string without NUL.")
    if rules["choices"]:
        check_choice(name, value, rules["choices"])
