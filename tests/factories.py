"""Photos, folders of them, and small classifiers whose answers are clear."""

import numpy as np
from PIL import Image

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


def pattern_folders(root, count, classes):
    """A folder for each of the `patterns`, photos of 40 x 40 px in it."""
    for i, (image, label) in enumerate(zip(*patterns(count, classes, 40))):
        save(root / f"{label:02}" / f"{i}.png", image)
    return root


def save(path, pixels, mode=None, **options):
    """Writes an image file, with the folders above it, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return str(path)


def class_folders(root, classes, count, pixels_of):
    """`<class>/0.png` and on in each class; `pixels_of(class number, photo number)`."""
    for label, name in enumerate(classes):
        for i in range(count):
            save(root / name / f"{i}.png", pixels_of(label, i).astype("uint8"))
    return root


def photos_and_weights(root, rng):
    """Settings of a recipe: three classes of 40 photos, weights of a tiny backbone."""
    class_folders(
        root / "photos", "abc", 40, lambda *_: rng.integers(0, 256, (40, 40, 3))
    )
    weights = root / "tiny.weights.h5"
    keras_apinet.build("tiny", 3, 32, None).backbone.save_weights(weights)
    return {"data": str(root / "photos"), "weights": str(weights)}


def media_pipe_names(mediapipe, path, images):
    """What MediaPipe calls `[n, s, s, 3]` uint8 images by a `.tflite` file."""
    tasks = mediapipe.tasks
    options = tasks.vision.ImageClassifierOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(path)), max_results=1
    )
    with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
        return [
            classifier.classify(
                mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
            )
            .classifications[0]
            .categories[0]
            .category_name
            for image in images
        ]
