"""The two-part loss: cross-entropy over gated features, and the ranking of scores."""

from typing import Any

import keras
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import FRACTION
from keras_apinet.layers.mining import class_indices, is_one_hot
from keras_apinet.types import Tensor


def label_log_probabilities(
    labels: Tensor, logits: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Computes the log-likelihood of the target and of the labeled class.

    Args:
        labels: `[M]` or `[M, 1]` integer classes, or `[M, C]` one-hot or soft labels.
        logits: `[M, ..., C]`, any float dtype; the arithmetic is float32.
        label_smoothing: Fraction of the target spread evenly over all classes.

    Returns:
        `(target, true)`, each `[M, ...]` float32: `sum_c t_c log p_c` under the
        (smoothed, soft) target t, and `log p_c` of the labeled (most likely) class.
        A label outside 0 to C - 1 yields NaN, so invalid labels show up immediately on
        every backend instead of being learned.
    """
    logits = ops.cast(logits, "float32")
    # log p = logits - total. Only sums over classes are kept: storing all log p would
    # duplicate the largest array.
    total = ops.logsumexp(logits, axis=-1)
    num_classes = logits.shape[-1]
    inner = (1,) * (len(logits.shape) - 2)
    classes = class_indices(labels)
    inside = ops.logical_and(classes >= 0, classes < num_classes)
    index = ops.reshape(ops.where(inside, classes, 0), (-1, *inner, 1))
    index = ops.broadcast_to(index, (*ops.shape(logits)[:-1], 1))
    true = ops.squeeze(ops.take_along_axis(logits, index, axis=-1), axis=-1) - total
    true = ops.where(ops.reshape(inside, (-1, *inner)), true, float("nan"))
    if is_one_hot(labels):
        soft = ops.cast(ops.reshape(labels, (-1, *inner, num_classes)), "float32")
        target = ops.sum(soft * logits, axis=-1) - ops.sum(soft, axis=-1) * total
    else:
        target = true
    if label_smoothing:
        uniform = ops.mean(logits, axis=-1) - total
        target = (1.0 - label_smoothing) * target + label_smoothing * uniform
    return target, true


@keras.saving.register_keras_serializable(package="keras_apinet")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy on single images: the plain baseline for `PairwiseLoss`.

    Combines two Keras losses: it takes integer labels and supports label smoothing.

    Args:
        label_smoothing: Fraction of the target spread evenly over all classes.
            Default 0.
        reduction: As in `keras.losses.Loss`. Default `"sum_over_batch_size"`.
        name: Name of the loss.

    Call arguments:
        y_true: `[N]` or `[N, 1]` integer classes, or `[N, C]` one-hot.
        y_pred: `[N, C]` logits.

    Raises:
        APINetError: If the smoothing is outside [0, 1).

    Example:
    >>> round(float(CrossEntropy()(np.array([0]), np.array([[0.0, 0.0]]))), 4)
    0.6931
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        FRACTION.check("label_smoothing", label_smoothing)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each image, `[N]` float32."""
        return -label_log_probabilities(y_true, y_pred, self.label_smoothing)[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="keras_apinet")
class PairwiseLoss(keras.losses.Loss):
    """Cross-entropy on gated features plus a hinge that ranks self above other.

    For an image of class c, with `p = softmax(W x + b)` of its self and other features:

    ```
    cross-entropy = mean(-log p_self(c), -log p_other(c))                     (Eq. 9)
    ranking       = max(0, p_other(c) - p_self(c) + margin)                   (Eq. 10)
    loss          = mean over rows of cross-entropy + ranking_weight * ranking (Eq. 8)
    ```

    Each row is one image of one pair; averaged over both images of every pair, this is
    the paper's loss. Softmax and hinge are computed in float32 under any dtype policy.
    For single images (validation), which have no pairs, the loss is the cross-entropy.

    Args:
        margin: Margin by which the self score should exceed the other, in probability.
            Default 0.05.
        ranking_weight: Weight (lambda) of the ranking term. Default 1.
        single_image_weight: Weight of the cross-entropy on the ungated features of the
            single images, so that training also sees what is used at test time.
            `APINet` adds it to the mean over pairs. Default 0, as in the paper.
        label_smoothing: Fraction of the target spread evenly over all classes, in the
            cross-entropy only. Default 0.
        reduction: As in `keras.losses.Loss`. Default `"sum_over_batch_size"`.
        name: Name of the loss.

    Call arguments:
        y_true: `[M]` or `[M, 1]` integer classes, or `[M, C]` one-hot.
        y_pred: `[M, 2, C]` logits for the self feature and the other feature, in that
            order; or `[M, C]` logits for single images.
        sample_weight: `[M]`.

    Returns:
        A scalar; `[M]` with `reduction=None`. A label outside 0 to C - 1 yields NaN.

    Raises:
        APINetError: If the margin or a weight is negative, the smoothing is outside
            [0, 1), or the logits have an unsupported shape.

    Example:
    >>> loss = PairwiseLoss()
    >>> logits = np.array([[[2.0, 0.0], [0.0, 0.0]]])   # self is sure, other is not
    >>> round(float(loss(np.array([0]), logits)), 4)
    0.41

    Reference:
        Zhuang, Wang, Qiao: Learning Attentive Pairwise Interaction for Fine-Grained
        Classification, AAAI 2020 (arXiv 2002.10191), section 3.
    """

    def __init__(
        self,
        margin: float = 0.05,
        ranking_weight: float = 1.0,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "pairwise_loss",
        *,
        single_image_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        for key, value in (
            ("margin", margin),
            ("ranking_weight", ranking_weight),
            ("single_image_weight", single_image_weight),
        ):
            if not value >= 0:
                raise APINetError(f"{key}={value!r} must be at least 0.")
        FRACTION.check("label_smoothing", label_smoothing)
        self.margin = margin
        self.ranking_weight = ranking_weight
        self.single_image_weight = single_image_weight
        self.label_smoothing = label_smoothing

    def terms(self, y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
        """Computes both unweighted parts of the loss for each row.

        Returns:
            `(cross_entropy, ranking)`, each `[M]` float32.
        """
        shape = tuple(y_pred.shape)
        if len(shape) != 2 and (len(shape) != 3 or shape[1] != 2):
            raise APINetError(
                "PairwiseLoss needs logits [M, 2, C] (self, other) or [M, C]; got "
                f"shape={shape}."
            )
        target, true = label_log_probabilities(y_true, y_pred, self.label_smoothing)
        if len(shape) == 2:
            return -target, ops.zeros_like(target)
        scores = ops.exp(true)
        ranking = ops.relu(scores[:, 1] - scores[:, 0] + self.margin)
        return -ops.mean(target, axis=1), ranking

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Computes the loss of each row, `[M]` float32."""
        cross, ranking = self.terms(y_true, y_pred)
        return cross + self.ranking_weight * ranking

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "margin": self.margin,
            "ranking_weight": self.ranking_weight,
            "label_smoothing": self.label_smoothing,
            "single_image_weight": self.single_image_weight,
        }
