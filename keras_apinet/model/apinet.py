"""APINet: an image backbone that learns from pairs and predicts from single images."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_apinet.compat import flatten_layers
from keras_apinet.distribute import whole_batch
from keras_apinet.errors import APINetError, distinct_names
from keras_apinet.files.bounds import CLASSES, COUNT, check_choice
from keras_apinet.files.schema import with_new_names
from keras_apinet.layers.interaction import AttentivePairwiseInteraction
from keras_apinet.layers.memory import FeatureMemory
from keras_apinet.layers.mining import PairMiner
from keras_apinet.model.backbone import (
    BackboneModel,
    check_names,
    check_unquantized,
    pooling_layer,
    set_momentum,
    split,
)
from keras_apinet.model.faults import outside
from keras_apinet.model.inputs import finite
from keras_apinet.model.training import PairwiseTraining
from keras_apinet.types import Shape, Tensor

BATCH_NORM_POLICIES = ("train", "inference")
POOLINGS = ("average", "token")
# Parts besides the backbone that a user may freeze.
_PARTS = ("interaction", "classifier")


@keras.saving.register_keras_serializable(package="keras_apinet")
class APINet(BackboneModel, PairwiseTraining):
    """A backbone with pooling, pairwise interaction and a shared classifier.

    During training, every image is paired with its nearest neighbors within the batch,
    one of the same class and one of another. The four gated features of each pair go
    through the shared classifier (`PairwiseLoss`). Everywhere else, the model is just
    backbone, pooling and classifier: `softmax(W x + b)` on a single image.

    `compile` only needs an optimizer. With the default `loss=PairwiseLoss()`, `fit`
    trains on pairs and logs `loss`, `cross_entropy`, `ranking_loss`, `accuracy`
    (single-image top-1) and `valid_pairs` (fraction of the 2N pairs that exist). Any
    other loss trains the same layers on single images, as a plain baseline.

    Args:
        backbone: Any `keras.Model` from images `[N, H, W, 3]` to a feature map
            `[N, h, w, D]`, tokens `[N, T, D]` or a vector `[N, D]`.
        num_classes: Number of classes, at least 2.
        scaling: Layer applied to the raw pixels (0..255) before the backbone; `None`
            when the backbone takes raw pixels.
        pooling: `"average"` over positions or tokens, or `"token"` for the first token
            of `[N, T, D]`. Default `"average"`.
        mining: How partners are chosen; see `PairMiner`.
        num_partners: Number of partners per image; see `PairMiner`.
        distance: Distance used for mining; see `PairMiner`. Default `"euclidean"`.
        memory_size: Number M of recent training features to keep, so that partners can
            come from beyond the batch; see `FeatureMemory`. Default 0.
        mutual_units: Width of the mutual MLP. Default 512.
        dropout_rate: Dropout inside the mutual MLP and before the classifier.
            Default 0.5.
        residual_weight: Weight of the ungated features in the gated ones; see
            `AttentivePairwiseInteraction`. Default 1, as in the paper.
        freeze_fraction: Fraction of the backbone's layers, counted from the input, to
            freeze: they get no gradient and their batch-norm keeps its statistics. The
            backbone is cut at the last tensor within this fraction through which all
            data flows. Default 0.
        batch_norm: With `"train"`, the backbone runs in training mode during `fit`;
            with `"inference"`, it always runs in inference mode, so its batch-norm
            keeps the pretrained statistics (and its own dropout is off). Default
            `"train"`.
        batch_norm_momentum: Momentum of the moving statistics under `"train"`, set on
            every batch-norm layer of the backbone; `None` keeps the layers' own.
            Backbones use 0.99 to 0.999, which makes the statistics lag in a run of a
            few hundred steps. Default 0.9.
        class_names: Names of the classes, in label order.
        seed: Seed for dropout and random mining.

    Call arguments:
        inputs: Images `[N, H, W, 3]`, float or uint8, 0..255; or, for training,
            `(images, labels)`. Images can be replaced by precomputed values:
            `{"frozen": x}` with the output of the frozen layers (`frozen_model`), or
            `{"features": x}` with pooled features `[N, D]` (`feature_model`). `fit`
            and `predict` also accept these.
        training: Whether to use dropout and batch statistics.

    Returns:
        Logits `[N, C]`, float32 under any dtype policy. For `(images, labels)`, a
        dictionary of `logits` `[N, C]`; `pair_logits` `[4N, 2, C]` (first images of all
        pairs, then second images; self, other); for each of those rows, `images` (its
        row in the batch, or in the memory from N on) and `valid`; the `labels` of batch
        and memory; and, if the loss has a `single_image_weight`, `single_logits`
        `[N, C]`, computed with dropout.

    Raises:
        APINetError: If a setting or input is invalid; the message includes its value.

    Example:
    >>> model = keras_apinet.build("tiny", num_classes=3, image_size=32)
    >>> model.compile(optimizer="adam")
    >>> images, labels = np.zeros((4, 32, 32, 3), "uint8"), np.array([0, 0, 1, 2])
    >>> history = model.fit(images, labels, verbose=0)
    >>> model.predict(images, verbose=0).shape
    (4, 3)

    Reference:
        Zhuang, Wang, Qiao: Learning Attentive Pairwise Interaction for Fine-Grained
        Classification, AAAI 2020 (arXiv 2002.10191).
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        *,
        scaling: keras.layers.Layer | None = None,
        pooling: str = "average",
        mining: str | tuple[str, str] = "nearest",
        num_partners: int | tuple[int, int] = 1,
        distance: str = "euclidean",
        memory_size: int = 0,
        mutual_units: int = 512,
        dropout_rate: float = 0.5,
        residual_weight: float = 1.0,
        freeze_fraction: float = 0.0,
        batch_norm: str = "train",
        batch_norm_momentum: float | None = 0.9,
        class_names: Sequence[str] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        # Labels pass through here, and 16-bit floats cannot represent every integer.
        super().__init__(**{"autocast": False, **kwargs})
        check_names(backbone, scaling)
        check_choice("batch_norm", batch_norm, BATCH_NORM_POLICIES)
        check_choice("pooling", pooling, POOLINGS)
        CLASSES.check("num_classes", num_classes)
        COUNT.check("memory_size", memory_size)
        num_classes, memory_size = int(num_classes), int(memory_size)
        if class_names is not None and len(class_names) != num_classes:
            raise APINetError(
                f"There are {len(class_names)} class_names for "
                f"num_classes={num_classes}; give one name for each class."
            )
        if class_names is not None:
            distinct_names(class_names)
        self.backbone = backbone
        self.num_classes = num_classes
        self.scaling = scaling
        self.pooling = pooling
        self.freeze_fraction = freeze_fraction
        # These share the backbone's layers, which Keras would otherwise count twice.
        self._halves = split(backbone, freeze_fraction) if freeze_fraction else None
        self._freeze()
        self.batch_norm = batch_norm
        self.batch_norm_momentum = batch_norm_momentum
        if batch_norm == "train" and batch_norm_momentum is not None:
            set_momentum(backbone, batch_norm_momentum)
        self.class_names = None if class_names is None else list(class_names)
        self.memory = FeatureMemory(memory_size, name="memory") if memory_size else None
        self.seed = seed
        dtype = self.dtype_policy
        self.pool = pooling_layer(backbone, pooling)
        self.miner = PairMiner(mining, num_partners, seed, distance, name="miner")
        self.interaction = AttentivePairwiseInteraction(
            *(mutual_units, dropout_rate, seed, residual_weight),
            dtype=dtype,
            name="interaction",
        )
        self.dropout = keras.layers.Dropout(
            dropout_rate, seed=seed, dtype=dtype, name="dropout"
        )
        # The outputs are float32 under any policy.
        self.classifier = keras.layers.Dense(
            num_classes, dtype="float32", name="classifier"
        )
        # Everything is built here: an unbuilt sublayer would silently reload with the
        # wrong weights.
        self.build(backbone.input_shape)

    def build(self, input_shape: Shape) -> None:
        """Creates the weights of the interaction and the classifier."""
        if self.classifier.built:
            return
        features = (None, self.feature_size)
        self.interaction.build(features, features)
        self.dropout.build(features)
        self.classifier.build(features)
        if self.memory is not None:
            self.memory.build(features)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns logits for single images, or all inputs of the pairwise loss."""
        if isinstance(inputs, (tuple, list)):
            images, labels = inputs
            return self._pairwise(finite(images, training), labels, training)
        features = self.features(finite(inputs, training), training=training)
        return self.classifier(self.dropout(features, training=training))

    def _pairwise(
        self, images: Any, labels: Tensor, training: bool | None
    ) -> dict[str, Tensor]:
        # Every replica mines pairs from the global batch and learns from all of it.
        features = whole_batch(self.features(images, training=training))
        labels = whole_batch(ops.convert_to_tensor(labels))
        recent = None if self.memory is None else self.memory.recent()
        anchors, partners, valid = self.miner(features, labels, memory=recent)
        logits = self.classifier(ops.stop_gradient(features))
        own: dict[str, Tensor] = {}
        if getattr(self.loss, "single_image_weight", 0):
            dropped = self.dropout(features, training=training)
            own = {"single_logits": self.classifier(dropped)}
        if self.memory is not None:
            known = {"training": training, "wrong": outside(labels, self.num_classes)}
            features, labels = self.memory(features, labels, **known)
        gated = self.interaction(features, pairs=(anchors, partners), training=training)
        # Rows: first images of all pairs, then second images. Axis 1: self, other.
        stacked = ops.concatenate(
            [ops.stack(gated[:2], axis=1), ops.stack(gated[2:], axis=1)]
        )
        return {
            "logits": logits,
            "pair_logits": self.classifier(self.dropout(stacked, training=training)),
            "images": ops.concatenate([anchors, partners]),
            "valid": ops.concatenate([valid, valid]),
            "labels": labels,
            **own,
        }

    def classifier_model(self, probabilities: bool = True) -> keras.Model:
        """Creates the plain single-image model: scaling, backbone, pooling, classifier.

        It shares its layers, and thus its weights, with this model.

        Args:
            probabilities: Whether to output softmax probabilities instead of logits.
                Default `True`.

        Returns:
            A functional `keras.Model` from `[N, H, W, 3]` pixels 0..255 to `[N, C]`
            float32.
        """
        features = self.feature_model()
        outputs = self.classifier(features.output)
        if probabilities:
            outputs = keras.layers.Activation(
                "softmax", dtype="float32", name="probabilities"
            )(outputs)
        return keras.Model(features.input, outputs, name=f"{self.name}_classifier")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with layers in serialized form."""
        check_unquantized((self.classifier, *flatten_layers(self.backbone)))
        serialize = keras.saving.serialize_keras_object
        parts = _PARTS[1:] if self._was_baseline else _PARTS
        frozen = [name for name in parts if not getattr(self, name).trainable]
        return {
            **super().get_config(),
            "backbone": serialize(self.backbone),
            "num_classes": self.num_classes,
            "scaling": None if self.scaling is None else serialize(self.scaling),
            "pooling": self.pooling,
            "mining": list(self.miner.strategies),
            "num_partners": list(self.miner.num_partners),
            "distance": self.miner.distance,
            "memory_size": 0 if self.memory is None else self.memory.size,
            "mutual_units": self.interaction.mutual_units,
            "dropout_rate": self.interaction.dropout_rate,
            "residual_weight": self.interaction.residual_weight,
            "freeze_fraction": self.freeze_fraction,
            "batch_norm": self.batch_norm,
            "batch_norm_momentum": self.batch_norm_momentum,
            "class_names": self.class_names,
            "seed": self.seed,
            **({"frozen_parts": frozen} if frozen and self.trainable else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Creates a model with new weights from `get_config()` output."""
        config = with_new_names(config)
        for key in ("backbone", "scaling"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        frozen = config.pop("frozen_parts", ())
        model = cls(**config)
        for name in _PARTS:
            if name in frozen:
                getattr(model, name).trainable = False
        return model
