"""Every setting of a training, in one place."""

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

# Pairs are sought among all images of a batch: the table of distances grows squarely.
LARGEST_BATCH = 16_384
# Of runs that began before there was such a setting, or with another default.
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
    """A field of a dataclass: its default, what it means, and which values it takes."""
    rules = {"text": text, "choices": choices, "within": within}
    return dataclasses.field(default=default, metadata=rules)


@dataclass(frozen=True)
class Recipe:
    """What to train on what, and how.

    Every setting is described where it is defined, below; `keras-apinet train --help`
    shows the same texts. `None` means: chosen from the data or the backbone.
    "Pretrained" means that the backbone starts from weights rather than at random.

    Raises:
        APINetError: For a value that a setting does not take, or settings that
            contradict each other.

    >>> Recipe(data="photos/", backbone="mobilenet_v2", epochs=20).epochs
    20
    """

    data: str = setting(
        "synthetic_birds", "folder, CSV, archive, TFDS name or synthetic_birds"
    )
    data_dir: str | None = setting(None, "where TensorFlow Datasets keeps its sets")
    level: str | None = setting(
        None, "which labels of FGVC-Aircraft: variant, family or manufacturer"
    )
    download: bool = setting(False, "let TensorFlow Datasets download the set")
    validation: float = setting(
        0.1,
        "share of the training images held out, if the set has no validation split",
        within=FRACTION,
    )
    group_by: str = setting(
        "photos",
        "what is held out together: photos (bursts and look-alikes of a class), "
        "folder, none, column:NAME of a table, or a regular expression with a group",
    )
    exclude: str | None = setting(None, "CSV of photos to leave out, see data --audit")
    relabel: str | None = setting(
        None, "CSV of photos and the label that each is to get, see data --audit"
    )
    box_crop: bool = setting(
        False, "crop to the object's box first, where the set has boxes"
    )

    backend: str | None = setting(
        None,
        "backend this recipe is for (default: any; KERAS_BACKEND decides)",
        choices=("tensorflow", "jax", "torch"),
    )
    backbone: str | None = setting(
        None,
        "backbone by name, see keras_apinet.backbones (default: tiny for drawn birds; "
        "for photos efficientnet_lite0, if its ImageNet weights are installed)",
    )
    weights: str | None = setting(
        None, "imagenet, none or a weights file (default: imagenet; none for tiny)"
    )
    image_size: int | None = setting(
        None,
        "side of the square images in px (default: the backbone's own)",
        within=IMAGE_SIZE,
    )
    pooling: str = setting(
        "average",
        "average over places or tokens, or token: the class token",
        choices=("average", "token"),
    )
    batch_norm: str = setting(
        "train",
        "train: batch statistics; inference: statistics stay as they are",
        choices=("train", "inference"),
    )
    batch_norm_momentum: float = setting(
        0.9, "momentum of the moving statistics under train", within=FRACTION
    )

    freeze_fraction: float = setting(
        0.0,
        "share of the backbone's layers, from the images on, that stay unchanged",
        within=FRACTION,
    )
    cached_views: int = setting(
        0,
        "augmented views of each image that the frozen layers see, once, which is "
        "several times as fast on a CPU; 0: new ones at each step",
        within=Number(int, 0, 10_000),
    )
    cached_views_dir: str | None = setting(
        None,
        "where the views are kept for other runs (default: in the run folder until "
        "the training ends)",
    )

    method: str = setting(
        "pairwise",
        "pairwise, or baseline: plain cross-entropy, everything else equal",
        choices=("pairwise", "baseline"),
    )
    classes_per_batch: int = setting(
        12,
        "classes in a batch, P (fewer if the set has fewer)",
        within=CLASSES_PER_BATCH,
    )
    images_per_class: int = setting(
        4, "images of each class in a batch, K", within=IMAGES_PER_CLASS
    )
    class_sampling: str = setting(
        "uniform",
        "how often a class is drawn, by the number of its images",
        choices=("uniform", "sqrt", "proportional"),
    )
    intra: str = setting("nearest", "partner of the same class", choices=_PARTNERS)
    inter: str = setting("nearest", "partner of another class", choices=_PARTNERS)
    distance: str = setting(
        "cosine",
        "what near and far mean for partners: cosine: the angle alone, or euclidean, "
        "as in the paper",
        choices=("euclidean", "cosine"),
    )
    memory_size: int = setting(
        0,
        "recent features, beyond the batch, among which partners are sought",
        within=Number(int, 0, 100_000),
    )
    mutual_units: int = setting(
        512, "width of the mutual MLP", within=Number(int, 1, 16_384)
    )
    dropout_rate: float = setting(
        0.5, "dropout in the mutual MLP and before the classifier", within=FRACTION
    )
    residual_weight: float = setting(
        0.5,
        "what a feature counts beside its gates: 1 in the paper; 0.5 makes gated "
        "features as large as a test's",
        within=Number(float, 0, 10),
    )
    margin: float = setting(
        0.05, "margin of the ranking loss, in probability", within=Number(float, 0, 10)
    )
    ranking_weight: float = setting(1.0, "weight of the ranking loss", within=_WEIGHT)
    single_image_weight: float = setting(
        1.0,
        "weight of the images' own cross-entropy, without gates, beside the pairs'; 0 "
        "in the paper",
        within=_WEIGHT,
    )
    label_smoothing: float = setting(
        0.0, "share of the target spread over all classes", within=FRACTION
    )

    head_epochs: int | None = setting(
        None,
        "epochs in which only the head learns (default: 30 if pretrained, else 0)",
        within=_EPOCHS,
    )
    cached_head_features: bool = setting(
        True, "train the head alone on features of un-augmented images, computed once"
    )
    epochs: int = setting(12, "epochs in which all layers learn", within=_EPOCHS)
    steps_per_epoch: int | None = setting(
        None,
        "batches in an epoch (default: training images // batch size)",
        within=STEPS,
    )
    augmentation: str = setting(
        "paper",
        "random crop and flip; light and strong add more; none has no chance in it",
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
        "peak learning rate (default: 1e-4 without normalisation layers, else 3e-4 if "
        "pretrained, else 2e-3)",
        within=_POSITIVE,
    )
    head_learning_rate: float = setting(
        1e-3, "peak learning rate of the head phase (AdamW)", within=_POSITIVE
    )
    schedule: str = setting(
        "cosine",
        "how the rate falls over the run, batch by batch",
        choices=("cosine", "linear", "constant", "one_cycle"),
    )
    warmup_fraction: float = setting(
        0.05,
        "share of the run over which the rate rises first (one_cycle: always 0.3)",
        within=FRACTION,
    )
    layer_decay: float = setting(
        1.0,
        "learning rate of the backbone's first layer as a share of the head's, "
        "rising layer by layer",
        within=Number(float, above=0, high=1),
    )
    weight_decay: float = setting(
        5e-4,
        "decay of kernels; layer-wise rates scale a decoupled one",
        within=Number(float, 0, 1000),
    )
    weight_decay_mode: str = setting(
        "decoupled",
        "decoupled: apart from gradient and momentum; l2: in the clipped gradient, as "
        "torch's SGD",
        choices=("decoupled", "l2"),
    )
    decay_all: bool = setting(False, "decay biases and norms as well")
    clipnorm: float = setting(
        1.0, "largest norm of the whole gradient", within=_POSITIVE
    )
    gradient_accumulation_steps: int = setting(
        1,
        "batches whose gradients are averaged before the weights change, counted over "
        "the epochs after the head phase; an incomplete last group is dropped",
        within=Number(int, 1, 10_000),
    )
    ema_momentum: float = setting(
        0.0,
        "momentum of the average of the weights that is validated and kept, per change "
        "of the weights; 0: none",
        within=FRACTION,
    )
    patience: int = setting(
        0,
        "epochs after the head phase without a better validation before it stops; "
        "0: never",
        within=_EPOCHS,
    )
    steps_per_execution: int = setting(
        1,
        "batches handed to the backend at a time, a divisor of the batches of an epoch",
        within=Number(int, 1, 10_000),
    )
    jit_compile: bool | None = setting(
        None, "compile the step with XLA (default: what the backend does best)"
    )
    dtype: str = setting(
        "float32",
        "arithmetic of the layers",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )

    unknown_keep: float = setting(
        0.95, "share of known photos that `unknown` spares; 0: none", within=FRACTION
    )
    tracker: str | None = setting(
        None,
        "service that is told each epoch's figures, by its Keras callback: wandb or "
        "mlflow",
        choices=("wandb", "mlflow"),
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints inside an epoch", within=MINUTES
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept", within=Number(int, 1, 10_000)
    )
    seed: int = setting(0, "seed of everything random", within=SEED)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name), *kind_of(field.name))
        if self.classes_per_batch * self.images_per_class > LARGEST_BATCH:
            raise APINetError(
                f"classes_per_batch={self.classes_per_batch} times images_per_class="
                f"{self.images_per_class} must be at most {LARGEST_BATCH:,} images."
            )
        if self.epochs == 0 and not self.head_phase_epochs:
            raise APINetError("epochs=0 and no head_epochs: there is nothing to train.")
        if self.cached_views and not self.freeze_fraction:
            raise APINetError(
                f"cached_views={self.cached_views} are what frozen layers see, and "
                "freeze_fraction=0; set freeze_fraction=0.7, or cached_views=0."
            )
        if self.freeze_fraction and not self.backbone_weights:
            raise APINetError(
                f"freeze_fraction={self.freeze_fraction} keeps layers unchanged, and "
                "these are random; give weights, or freeze_fraction=0."
            )
        if self.intra == self.inter == "none":
            raise APINetError(
                "intra='none' and inter='none': there is no pair to learn from; choose "
                "one, or method='baseline'."
            )
        if self.memory_size and self.method == "baseline":
            raise APINetError(
                f"memory_size={self.memory_size} is for pairs, and method='baseline' "
                "has none; set memory_size=0."
            )
        if self.weight_decay_mode == "l2" and self.optimizer == "adamw":
            raise APINetError(
                "weight_decay_mode='l2' is for optimizer='sgd', and "
                "optimizer='adamw' has a decoupled one; change either."
            )

    @property
    def backbone_weights(self) -> str | None:
        """What `keras_apinet.build` takes as `weights`."""
        if self.weights is None:
            drawn = self.backbone is None and self.data == "synthetic_birds"
            return None if drawn or self.backbone == "tiny" else "imagenet"
        return None if self.weights.lower() == "none" else self.weights

    @property
    def head_phase_epochs(self) -> int:
        """Epochs of the head alone; by default 30 if pretrained, otherwise 0."""
        if self.head_epochs is not None:
            return self.head_epochs
        return 30 if self.backbone_weights else 0

    def asdict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, settings: Mapping[str, Any], where: str = "the recipe") -> "Recipe":
        """A recipe of plain values, such as `asdict` gives.

        Args:
            settings: Values by name.
            where: What to call the source in an error.

        Raises:
            APINetError: For an unknown setting, with the nearest known one.
        """
        check_names(settings, where)
        return cls(**settings)


def check_names(names: Iterable[str], where: str) -> None:
    """Checks that settings exist.

    Raises:
        APINetError: For the first that does not, with the nearest that does.
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
    """Checks one value of a setting of a type, and whether it may be `None`."""
    name, rules = field.name, field.metadata
    if value is None and optional:
        return
    if kind in (int, float):
        number = rules["within"]
        # Plain numbers only: they have to go into JSON and TOML.
        if type(value) not in (int, float) or not number.fits(value):
            raise APINetError(f"{name}={shown(value)} must be {number}.")
    elif not isinstance(value, kind):
        words = "true or false" if kind is bool else "a text"
        raise APINetError(f"{name}={shown(value)} must be {words}.")
    elif isinstance(value, str) and "\0" in value:
        raise APINetError(f"{name}={shown(value)} must be a text without NUL.")
    if rules["choices"]:
        check_choice(name, value, rules["choices"])
