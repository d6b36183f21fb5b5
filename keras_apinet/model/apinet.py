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
    """Backbone, pooling, pairwise interaction and one classifier.

    In training every image is paired inside its batch with its nearest neighbour of the
    same class and of another; the four gated features of each pair go through the one
    classifier (`PairwiseLoss`). Everywhere else the model is backbone, pooling and
    classifier: `softmax(W x + b)` on one image.

    `compile` needs nothing but an optimizer. With the default `loss=PairwiseLoss()`
    `fit` trains on pairs and logs `loss`, `cross_entropy`, `ranking_loss`, `accuracy`
    (single-image top-1) and `valid_pairs` (share of the 2N pairs that exist). Any other
    loss trains the same backbone and classifier on single images: the plain baseline.

    Args:
        backbone: Any `keras.Model` from images `[N, H, W, 3]` to a feature map
            `[N, h, w, D]`, tokens `[N, T, D]` or a vector `[N, D]`.
        num_classes: Number of classes, at least 2.
        scaling: Layer applied to the raw pixels (0..255) before the backbone; `None`
            when the backbone takes raw pixels.
        pooling: `"average"` over places or tokens, or `"token"`: the first token of
            `[N, T, D]`. Default `"average"`.
        mining: How partners are chosen, see `PairMiner`.
        num_partners: Partners of each image, see `PairMiner`.
        distance: What near and far mean in mining, see `PairMiner`. Default
            `"euclidean"`.
        memory_size: Features of recent training images that are kept, M, so that
            partners are looked for beyond the batch; see `FeatureMemory`. Default 0.
        mutual_units: Width of the mutual MLP. Default 512.
        dropout_rate: Dropout inside the mutual MLP and before the classifier.
            Default 0.5.
        residual_weight: What features count beside their gates, see the interaction.
            Default 1, the paper's.
        freeze_fraction: Share of the backbone's layers, from the images on, that stay
            unchanged: they get no gradient and their batch-norm keeps its statistics.
            The cut is at the last place up to there that everything flows through.
            Default 0.
        batch_norm: `"train"`: the backbone runs in training mode while fitting;
            `"inference"`: it always runs in inference mode, so that batch-norm keeps
            the statistics it came with (and its own dropout is off). Default
            `"train"`.
        batch_norm_momentum: Momentum of the moving statistics under `"train"`, set on
            every batch-norm of the backbone; `None` leaves them as they are. Backbones
            come with 0.99 to 0.999, whose statistics lag behind a run of a few hundred
            steps. Default 0.9.
        class_names: Names of the classes, in the order of the labels.
        seed: Seed of the dropout and of random mining.

    Call arguments:
        inputs: Images `[N, H, W, 3]`, float or uint8, 0..255; or, for training,
            `(images, labels)`. In place of images it takes what was computed from them
            before, if it is told what that is: `{"frozen": x}` with what the frozen
            layers give (`frozen_model`), or `{"features": x}` with pooled features
            `[N, D]` (`feature_model`). `fit` and `predict` take these as well.
        training: Whether dropout and batch statistics are active.

    Returns:
        Logits `[N, C]`, float32 under any dtype policy. For `(images, labels)` a
        dictionary: `logits` `[N, C]`, `pair_logits` `[4N, 2, C]` (first images of all
        pairs, then second images; self, other), for each of its rows `images` (row of
        the batch, from N on of the memory) and `valid`, and the `labels` of batch and
        memory; `single_logits` `[N, C]`, after dropout, if the loss has a
        `single_image_weight`.

    Raises:
        APINetError: For settings or inputs that do not fit, naming the value.

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
        # Labels come through here, and 16 bits do not hold whole numbers of any size.
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
        # The layers are the backbone's; Keras would count them twice if it saw these.
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
        # What users see is float32 under any policy.
        self.classifier = keras.layers.Dense(
            num_classes, dtype="float32", name="classifier"
        )
        # Everything is built at once: a sublayer left unbuilt would reload with wrong
        # weights and no error.
        self.build(backbone.input_shape)

    def build(self, input_shape: Shape) -> None:
        """Makes the weights of the interaction and the classifier."""
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
        """Logits of single images, or everything the pairwise loss needs."""
        if isinstance(inputs, (tuple, list)):
            images, labels = inputs
            return self._pairwise(finite(images, training), labels, training)
        features = self.features(finite(inputs, training), training=training)
        return self.classifier(self.dropout(features, training=training))

    def _pairwise(
        self, images: Any, labels: Tensor, training: bool | None
    ) -> dict[str, Tensor]:
        # All replicas of a step mine and learn from the whole batch.
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
        # Rows: first images of all pairs, then second images; axis 1: self, other.
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
        """The plain single-image model: scaling, backbone, pooling, classifier.

        It shares its layers, and so its weights, with this model.

        Args:
            probabilities: Whether the output is softmax probabilities or logits.
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
        """The constructor's arguments; layers in Keras's serialized form."""
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
        """The model of a `get_config()`, with new weights."""
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
