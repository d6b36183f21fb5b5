"""Small classifiers whose answers are clear, for the tests of export."""

import numpy as np

import keras_apinet


def clear_classifier(images, labels, names, name="tiny", **options):
    """A model whose head is solved for by ridge regression on its own features."""
    model = keras_apinet.build(
        name, len(names), image_size=images.shape[1], class_names=names, **options
    )
    features = np.asarray(
        model.feature_model().predict(images, verbose=0), dtype="float64"
    )
    mean, scale = features.mean(0), features.std(0) + 1e-6
    x = np.c_[(features - mean) / scale, np.ones(len(features))]
    goal = 6.0 * np.eye(len(names))[labels]
    head = np.linalg.solve(x.T @ x + 1.0 * np.eye(x.shape[1]), x.T @ goal)
    kernel = head[:-1] / scale[:, None]
    model.classifier.set_weights([kernel, head[-1] - mean @ kernel])
    return model


def patterns(count=40, classes=5, side=32, seed=0):
    """Photos of `classes` blurred patterns, with noise, and their classes."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (classes, 4, 4, 3))
    base = coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    labels = np.arange(count) % classes
    images = base[labels] + rng.normal(0, 12, (count, side, side, 3))
    return np.clip(images, 0, 255).astype("uint8"), labels
