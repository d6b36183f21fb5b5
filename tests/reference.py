"""The paper in plain NumPy loops, float64: what the layers are compared with.

Written from the equations of arXiv 2002.10191, one scalar at a time where that keeps it
readable; nothing here comes from the package.
"""

import math

import numpy as np


def mine(features, labels, intra="nearest", inter="nearest", distance="euclidean"):
    """Anchors, partners, valid: nearest or farthest, lowest index first on ties."""
    x = np.asarray(features, "float64")
    if distance == "cosine":
        x = np.array([row / math.sqrt(sum(value**2 for value in row)) for row in x])
    n = len(x)
    anchors, partners, valid = [], [], []
    for same, strategy in ((True, intra), (False, inter)):
        for i in range(n):
            best, best_distance = None, None
            for j in range(n):
                if j == i or (labels[i] == labels[j]) != same:
                    continue
                distance = math.sqrt(sum((a - b) ** 2 for a, b in zip(x[i], x[j])))
                better = best is None or (
                    distance < best_distance
                    if strategy == "nearest"
                    else distance > best_distance
                )
                if better:
                    best, best_distance = j, distance
            anchors.append(i)
            partners.append(i if best is None else best)
            valid.append(best is not None)
    return np.array(anchors), np.array(partners), np.array(valid)


def sigmoid(z):
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


def interact(x1, x2, w1, b1, w2, b2, r=1.0):
    """Eq. 1 to 6 for each pair; `w1` is [2D, H], `w2` [H, D]. No dropout.

    `r` is what the feature itself counts, 1 in the paper.
    """
    x1, x2 = np.asarray(x1, "float64"), np.asarray(x2, "float64")
    outputs = [np.zeros_like(x1) for _ in range(4)]
    for p in range(len(x1)):
        both = list(x1[p]) + list(x2[p])
        hidden = [
            sum(both[k] * w1[k, h] for k in range(len(both))) + b1[h]
            for h in range(w1.shape[1])
        ]
        for d in range(x1.shape[1]):
            mutual = sum(hidden[h] * w2[h, d] for h in range(len(hidden))) + b2[d]
            g1, g2 = sigmoid(mutual * x1[p, d]), sigmoid(mutual * x2[p, d])
            outputs[0][p, d] = x1[p, d] * (r + g1)
            outputs[1][p, d] = x1[p, d] * (r + g2)
            outputs[2][p, d] = x2[p, d] * (r + g2)
            outputs[3][p, d] = x2[p, d] * (r + g1)
    return outputs


def softmax(logits):
    top = max(logits)
    e = [math.exp(v - top) for v in logits]
    return [v / sum(e) for v in e]


def pairwise_loss(
    labels, self_logits, other_logits, valid=None, margin=0.05, ranking_weight=1.0
):
    """Eq. 8 to 10: `(total, cross-entropy, ranking)`, each a mean over valid rows."""
    cross, ranking, rows = 0.0, 0.0, 0
    for i, c in enumerate(labels):
        if valid is not None and not valid[i]:
            continue
        p_self, p_other = softmax(self_logits[i]), softmax(other_logits[i])
        cross += (-math.log(p_self[c]) - math.log(p_other[c])) / 2
        ranking += max(0.0, p_other[c] - p_self[c] + margin)
        rows += 1
    if not rows:
        return 0.0, 0.0, 0.0
    cross, ranking = cross / rows, ranking / rows
    return cross + ranking_weight * ranking, cross, ranking


def cross_entropy(labels, logits, weights=None):
    """Mean of weighted -log p of single images, over their number."""
    total = 0.0
    for i, c in enumerate(labels):
        weight = 1.0 if weights is None else weights[i]
        total -= weight * math.log(softmax(logits[i])[c])
    return total / len(labels)


def numeric_gradient(function, x, step=1e-5):
    """Central differences of a scalar function at `x`, one element at a time."""
    x = np.array(x, "float64")
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = function(x)
        x[index] = kept - step
        below = function(x)
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient
