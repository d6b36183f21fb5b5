"""Every setting of a training, in one place."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError

METHODS = ("pairwise", "baseline")
OPTIMIZERS = ("adamw", "sgd")
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Recipe:
    """What to train on what, and how; `None` means: chosen from the data or backbone.

    Attributes:
        data: Data set, see `keras_apinet.data.load`.
        data_dir: Where TensorFlow Datasets keeps its sets.
        download: Whether TensorFlow Datasets may download.
        validation: Share of the training images held out, if the set has no own split.
        backbone: Name of the backbone, see `keras_apinet.build`.
        weights: `"imagenet"`, `"none"` or a weights file. Default: `"imagenet"`, and
            random weights for `"tiny"`.
        image_size: px. Default: the backbone's own.
        method: `"pairwise"`, or `"baseline"`: plain cross-entropy, everything else
            equal.
        classes_per_batch: P, classes in a batch (fewer if the set has fewer).
        images_per_class: K, images of each class in a batch.
        warmup_epochs: Passes in which only the head learns, on features of the frozen
            backbone computed once. Default: 30 for pretrained weights, else 0.
        epochs: Passes over the training images in which everything learns.
        steps_per_epoch: Batches in a pass. Default: training images // batch size.
        optimizer: `"adamw"` or `"sgd"` (momentum 0.9).
        learning_rate: Peak learning rate; rises over the first 5 % of the steps, then
            falls to 0 along a cosine. Default: 1e-4 for pretrained weights, else 2e-3.
        head_learning_rate: Learning rate of the warm-up (AdamW).
        weight_decay: Decay of kernels; biases and norms have none.
        clipnorm: Largest norm of the whole gradient.
        batch_norm: `"train"` or `"inference"`, see `APINet`. Default: `"inference"` for
            pretrained weights, else `"train"`.
        augmentation: `"paper"`, `"light"`, `"strong"` or `"none"`.
        resize: `"fit"` or `"squash"`.
        mutual_units: Width of the mutual MLP.
        dropout_rate: Dropout in the mutual MLP and before the classifier.
        margin: Margin of the ranking loss, in probability.
        ranking_weight: Weight of the ranking loss.
        label_smoothing: Share of the target spread over all classes.
        dtype: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        seed: Of everything random.
    """

    data: str = "synthetic_birds"
    data_dir: str | None = None
    download: bool = False
    validation: float = 0.1
    backbone: str = "tiny"
    weights: str | None = None
    image_size: int | None = None
    method: str = "pairwise"
    classes_per_batch: int = 12
    images_per_class: int = 4
    warmup_epochs: int | None = None
    epochs: int = 12
    steps_per_epoch: int | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    head_learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    clipnorm: float = 1.0
    batch_norm: str | None = None
    augmentation: str = "paper"
    resize: str = "fit"
    mutual_units: int = 512
    dropout_rate: float = 0.5
    margin: float = 0.05
    ranking_weight: float = 1.0
    label_smoothing: float = 0.0
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for key, choices in (
            ("method", METHODS),
            ("optimizer", OPTIMIZERS),
            ("dtype", DTYPES),
            ("batch_norm", ("train", "inference", None)),
            ("augmentation", ("paper", "light", "strong", "none")),
            ("resize", ("fit", "squash")),
        ):
            value = getattr(self, key)
            if value not in choices:
                known = [c for c in choices if c]
                near = difflib.get_close_matches(str(value), known, 1)
                raise APINetError(
                    f"{key}={value!r} is not one of {', '.join(known)}"
                    + (f"; did you mean {near[0]!r}?" if near else ".")
                )
        for key, lowest in (
            ("classes_per_batch", 1),
            ("images_per_class", 1),
            ("epochs", 0),
            ("warmup_epochs", 0),
            ("steps_per_epoch", 1),
            ("image_size", 1),
            ("mutual_units", 1),
        ):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < lowest):
                raise APINetError(
                    f"{key}={value!r} must be a whole number of at least {lowest}."
                )
        for key, above in (
            ("learning_rate", True),
            ("head_learning_rate", True),
            ("clipnorm", True),
            ("weight_decay", False),
            ("margin", False),
            ("ranking_weight", False),
        ):
            value = getattr(self, key)
            if value is not None and not (value > 0 or (value == 0 and not above)):
                bound = "above 0" if above else "at least 0"
                raise APINetError(f"{key}={value!r} must be {bound}.")
        for key in ("validation", "dropout_rate", "label_smoothing"):
            value = getattr(self, key)
            if not 0 <= value < 1:
                raise APINetError(f"{key}={value!r} must lie in [0, 1).")
        if self.epochs == 0 and self.warmup_epochs in (0, None):
            raise APINetError(
                "epochs=0 and no warmup_epochs: there is nothing to train."
            )

    @property
    def backbone_weights(self) -> str | None:
        """What `keras_apinet.build` takes as `weights`."""
        if self.weights is None:
            return None if self.backbone == "tiny" else "imagenet"
        return None if self.weights.lower() == "none" else self.weights

    def or_else(self, key: str, pretrained: Any, random: Any) -> Any:
        """A setting, or its default for pretrained or random weights."""
        value = getattr(self, key)
        if value is not None:
            return value
        return pretrained if self.backbone_weights else random

    def asdict(self) -> dict[str, Any]:
        """All settings as plain values."""
        return dataclasses.asdict(self)
