"""Backbones by name: facts, scaling, weights files, presets, and every way to err."""

import inspect
import json
import os
import re
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import check_layer

from keras_apinet import backbones
from keras_apinet.backbones import PixelScaling, creation, networks
from keras_apinet.backbones.catalogue import find
from keras_apinet.backbones.scaling import keras_scaling
from keras_apinet.errors import APINetError

FACTS = {info.name: info for info in backbones.available()}


def features(backbone, pixels):
    scaled = pixels if backbone.scaling is None else backbone.scaling(pixels)
    return backbone.model.predict_on_batch(scaled)


def weights_of(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def same_weights(model, other):
    pairs = zip(weights_of(model), weights_of(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (2, 32, 32, 3)).astype("uint8")


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / "tiny.weights.h5"
    networks.tiny(32).save_weights(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Every download fails as it does without a connection."""

    def get_file(fname, origin, **_):
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno -2] no network")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)


# The table


@pytest.mark.one_backend
def test_every_classifier_of_keras_is_listed():
    functions = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    listed = {info.builder for info in FACTS.values() if info.source == "keras"}
    assert listed == set(functions)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg16", "tiny"])
def test_facts_are_those_of_the_model(name):
    backbone = backbones.create(name, weights=None)
    info = FACTS[name]
    assert backbone.image_size == info.image_size
    assert backbone.model.input_shape == (None, info.image_size, info.image_size, 3)
    assert backbone.model.count_params() == info.parameters
    assert backbone.model.output_shape[-1] == info.feature_size
    assert not backbone.pretrained


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["mobilenet_v1", "xception"])
def test_the_smallest_image_is_the_smallest_that_keras_takes(name):
    info = FACTS[name]
    size = info.smallest_image_size
    assert min(backbones.create(name, size, None).model.output_shape[1:]) > 0
    with pytest.raises(ValueError, match="at least"):
        getattr(keras.applications, info.builder)(
            weights=None, include_top=False, input_shape=(size - 1, size - 1, 3)
        )
    with pytest.raises(APINetError, match=f"image_size={size - 1} is too small"):
        backbones.create(name, size - 1, weights=None)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("efficientnet", "EfficientNetV2B0"),
        ("resnet", "ResNet50"),
        ("mobilenet", "MobileNetV2"),
        ("densenet", "DenseNet121"),
        ("convnext", "ConvNeXtTiny"),
        ("resnet50", "ResNet50"),
        ("ResNet101V2", "ResNet101V2"),
        ("resnet101_v2", "ResNet101V2"),
        ("mobilenet_v3_small", "MobileNetV3Small"),
        ("MobileNetV3Small", "MobileNetV3Small"),
        ("mobilenet_v1", "MobileNet"),
        ("efficientnet_v2_b0", "EfficientNetV2B0"),
        ("efficientnetv2-b0", "EfficientNetV2B0"),
        ("EfficientNetB0", "EfficientNetB0"),
        ("DENSENET161", "densenet161"),
    ],
)
def test_names_in_any_spelling(name, builder):
    assert find(name).builder == builder


@pytest.mark.one_backend
def test_no_two_backbones_answer_to_one_name():
    names = [
        re.sub("_", "", spelling)
        for info in FACTS.values()
        for spelling in (info.name, *info.short_names)
    ]
    assert len(names) == len(set(names))


@pytest.mark.one_backend
def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(APINetError, match=r"name='resnt50'.*did you mean 'resnet50'"):
        backbones.create("resnt50")
    with pytest.raises(APINetError, match=r"name='zzz' \(keras_apinet.*available"):
        backbones.create("zzz")
    with pytest.raises(APINetError, match=r"name=50"):
        backbones.create(50)


# The networks of our own


@pytest.mark.slow
@pytest.mark.one_backend
def test_densenet161_is_the_published_one_wired_as_keras_wires_its_densenets():
    """28,681,000 parameters (Huang et al. 2017, and every implementation since), of
    which the classifier of 1,000 classes has 2208 * 1000 + 1000; and the layers of
    DenseNet-121 in their order, but for the depths."""
    model = backbones.create("densenet161", 64, weights=None).model
    trainable = sum(w.shape.num_elements() for w in model.trainable_weights)
    assert trainable == 28_681_000 - 2_209_000
    assert model.count_params() == FACTS["densenet161"].parameters
    assert model.output_shape == (None, 2, 2, 2208)

    def kinds_of_layers(model):
        return dict.fromkeys(
            (type(layer), re.sub(r"block\d+|_?\d+$", "", layer.name))
            for layer in model.layers
        )

    theirs = keras.applications.DenseNet121(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    assert list(kinds_of_layers(model)) == list(kinds_of_layers(theirs))
    assert model.get_layer("bn").epsilon == theirs.get_layer("bn").epsilon


@pytest.mark.one_backend
def test_nobody_publishes_keras_weights_of_densenet161():
    with pytest.raises(APINetError, match=r"'densenet161'.*weights=None.*weights file"):
        backbones.create("densenet161")


def test_tiny_takes_raw_pixels_to_a_feature_map(pixels):
    backbone = backbones.create("tiny", 32)
    assert not backbone.pretrained
    maps = features(backbone, pixels)
    assert maps.shape == (2, 2, 2, 96)
    assert np.isfinite(maps).all()
    kinds = {type(layer).__name__ for layer in backbone.model.layers}
    assert kinds == {"InputLayer", "Conv2D", "BatchNormalization", "ReLU", "Add"}


# Scaling


@pytest.mark.one_backend
@pytest.mark.parametrize("name", [n for n in FACTS if FACTS[n].source == "keras"])
def test_scaling_is_what_keras_does_before_the_model(name, pixels):
    info = FACTS[name]
    module = getattr(keras.applications, info.builder).__module__.rsplit(".", 1)[1]
    expected = getattr(keras.applications, module).preprocess_input(
        pixels.astype("float32")
    )
    scaling = keras_scaling(info.scaling)
    ours = pixels if scaling is None else ops.convert_to_numpy(scaling(pixels))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_pixel_scaling_by_hand():
    """Red 10, green 20, blue 30: factor and summand per channel, then BGR."""
    pixels = np.array([[[[10, 20, 30]]]], "uint8")
    scaling = PixelScaling(scale=[0.1, 0.2, 0.3], offset=[1, -2, 3.5])
    np.testing.assert_allclose(
        ops.convert_to_numpy(scaling(pixels))[0, 0, 0], [2, 2, 12.5], rtol=1e-6
    )
    to_bgr = PixelScaling(scale=2, offset=[1, 2, 3], to_bgr=True)
    np.testing.assert_allclose(
        ops.convert_to_numpy(to_bgr(pixels))[0, 0, 0], [61, 42, 23], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixel_scaling_is_a_layer_like_any(dtype, pixels, tmp_path):
    scaling = PixelScaling(scale=[0.1, 0.2, 0.3], offset=-1.0, to_bgr=True)
    check_layer(scaling, [pixels.astype(dtype)], tmp_path)


def test_pixel_scaling_computes_in_float32_whatever_the_policy():
    """200.3 is 200.25 in float16: minus 200 that would be 0.25 instead of 0.3."""
    scaling = PixelScaling(offset=-200.0, dtype="mixed_float16")
    scaled = scaling(ops.convert_to_tensor([[[[200.3] * 3]]], dtype="float32"))
    assert keras.backend.standardize_dtype(scaled.dtype) == "float16"
    np.testing.assert_allclose(ops.convert_to_numpy(scaled), 0.3, atol=1e-3)


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [[1, 2], "red", [1, 2, "x"], [[1, 2, 3]], np.nan])
def test_pixel_scaling_refuses_what_is_not_a_number_per_channel(value):
    with pytest.raises(APINetError, match="offset="):
        PixelScaling(offset=value)


# Image size


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        (16, "image_size=16 is too small"),
        (0, "image_size=0"),
        (-3, "image_size=-3"),
        (96.0, "image_size=96.0"),
        ("96", "image_size='96'"),
        (True, "image_size=True"),
        ((96, 96), r"image_size=\(96, 96\)"),
    ],
)
def test_image_sizes_that_make_no_sense(image_size, message):
    with pytest.raises(APINetError, match=message):
        backbones.create("tiny", image_size)


@pytest.mark.one_backend
def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(APINetError, match="image_data_format='channels_first'"):
            backbones.create("tiny")
    finally:
        keras.config.set_image_data_format("channels_last")


# Weights files


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_from_a_file(suffix, tmp_path):
    trained = networks.tiny(32)
    path = tmp_path / f"tiny{suffix}"
    (trained.save if suffix == ".keras" else trained.save_weights)(path)
    backbone = backbones.create("tiny", 64, weights=path)
    assert backbone.pretrained
    assert same_weights(backbone.model, trained)
    assert same_weights(backbones.create("tiny", weights=str(path)).model, trained)


@pytest.mark.one_backend
def test_weights_from_a_file_of_the_older_kind(tmp_path):
    """Keras' own downloads are of this kind: layers by name in an `.h5`."""
    trained = networks.tiny(32)
    trained.compile("adam", "mse")
    trained.optimizer.build(trained.trainable_variables)
    trained.save(tmp_path / "tiny.h5")
    backbone = backbones.create("tiny", 32, weights=tmp_path / "tiny.h5")
    assert same_weights(backbone.model, trained)


@pytest.mark.one_backend
@pytest.mark.parametrize("weights", ["imagnet", "missing.weights.h5", "", 3, "."])
def test_weights_that_are_nothing_known(weights):
    with pytest.raises(APINetError, match=rf"weights={weights!r}.*'imagenet'"):
        backbones.create("tiny", weights=weights)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["tiny.pkl", "tiny.pth", "tiny.npz"])
def test_files_of_other_kinds_are_not_opened(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(APINetError, match=rf"{name}' is of no known kind"):
        backbones.create("tiny", weights=tmp_path / name)


@pytest.mark.one_backend
@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_corrupt_file(suffix, content, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(APINetError, match=rf"broken{suffix}' cannot be read"):
        backbones.create("tiny", 32, weights=path)


@pytest.mark.one_backend
def test_a_truncated_file(tiny_file):
    content = tiny_file.read_bytes()
    tiny_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(APINetError, match=r"tiny\.weights\.h5' cannot be read"):
        backbones.create("tiny", 32, weights=tiny_file)


@pytest.mark.one_backend
def test_a_file_of_another_backbone(tiny_file):
    with pytest.raises(
        APINetError, match=r"tiny\.weights\.h5' holds \d+ arrays.*'mobilenet_v3_small'"
    ):
        backbones.create("mobilenet_v3_small", 32, weights=tiny_file)


@pytest.mark.one_backend
def test_a_file_of_another_width(tiny_file):
    with h5py.File(tiny_file, "r+") as file:
        kernel = file["layers/conv2d/vars/0"][...]
        del file["layers/conv2d/vars/0"]
        file["layers/conv2d/vars/0"] = kernel[..., :8]
    with pytest.raises(APINetError, match=r"weights\.h5' does not match .*'tiny'"):
        backbones.create("tiny", 32, weights=tiny_file)


@pytest.mark.one_backend
def test_a_file_of_a_deeper_network_whose_first_layers_fit(tmp_path):
    """Keras alone loads such a file without a word."""
    image = keras.layers.Input((32, 32, 3))
    tiny = networks.tiny(32)
    deeper = keras.layers.Conv2D(4, 1)(tiny(image))
    flat = keras.Model(image, deeper)
    path = tmp_path / "with_top.weights.h5"
    keras.Model(tiny.input, keras.layers.Dense(4)(tiny.output)).save_weights(path)
    networks.tiny(32).load_weights(path)
    with pytest.raises(APINetError, match="without its classifier"):
        backbones.create("tiny", 32, weights=path)
    flat.save_weights(path)
    with pytest.raises(APINetError, match="without its classifier"):
        backbones.create("tiny", 32, weights=path)


@pytest.mark.slow
def test_mobilenet_v2_with_its_imagenet_file(shared, pixels):
    """Keras' own model, file and preprocessing give the expected features."""
    path = shared / "weights" / "mobilenet_v2_imagenet_notop.weights.h5"
    backbone = backbones.create("mobilenet_v2", 32, weights=path)
    theirs = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    theirs.load_weights(path)
    expected = theirs.predict_on_batch(
        keras.applications.mobilenet_v2.preprocess_input(pixels.astype("float32"))
    )
    np.testing.assert_allclose(features(backbone, pixels), expected, atol=1e-4)
    with pytest.raises(APINetError, match="'resnet50'"):
        backbones.create("resnet50", 32, weights=path)


# Published weights


@pytest.mark.one_backend
def test_a_failed_download_says_what_was_fetched_and_the_way_out(no_network):
    with pytest.raises(
        APINetError,
        match=r"'resnet50': URL fetch failure on https://\S+resnet50\S+\.h5.*"
        r"pass its path as weights",
    ):
        backbones.create("resnet50", 32)


@pytest.mark.one_backend
def test_published_weights_for_any_image_size(monkeypatch, tmp_path):
    """No warning that 40 px takes the weights of 224 px: warnings are errors here."""
    trained = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    path = tmp_path / "published.weights.h5"
    trained.save_weights(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: path)
    backbone = backbones.create("mobilenet_v2", 40)
    assert backbone.pretrained
    assert same_weights(backbone.model, trained)


@pytest.mark.slow
@pytest.mark.one_backend
def test_efficientnet_from_a_file_equals_efficientnet_fetched(
    monkeypatch, tmp_path, pixels
):
    """With `weights="imagenet"` Keras adds a layer that a weights file needs too."""
    trained = keras.applications.EfficientNetB0(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    # What is trained from scratch holds no ImageNet statistics.
    assert not creation.holds_imagenet_deviation(trained)
    for layer in trained.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign([0.485, 0.456, 0.406])
            layer.adapt_variance.assign([0.229, 0.224, 0.225])
            layer.finalize_state()
    path = tmp_path / "published.weights.h5"
    trained.save_weights(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *_, **__: path)
    fetched = backbones.create("efficientnet_b0", 32)
    from_file = backbones.create("efficientnet_b0", 32, weights=path)
    expected = features(fetched, pixels.astype("float32"))
    assert fetched.scaling is None
    np.testing.assert_allclose(
        features(from_file, pixels), expected, atol=1e-5 * np.abs(expected).max()
    )


def test_a_network_that_the_backend_cannot_build(monkeypatch):
    """As NASNetMobile on torch."""

    def refuse(**_):
        raise ValueError("not available with this backend")

    monkeypatch.setattr(keras.applications, "NASNetMobile", refuse)
    with pytest.raises(APINetError, match=r"'nasnet_mobile': not available with this"):
        backbones.create("nasnet_mobile", weights=None)


# Presets


@pytest.fixture
def keras_cv_preset(tmp_path):
    """A folder in KerasCV's preset layout, of a backbone from explicit arguments."""
    keras_cv = pytest.importorskip("keras_cv")

    def make(include_rescaling):
        backbone = keras_cv.models.ResNetV2Backbone(
            stackwise_filters=[4, 8],
            stackwise_blocks=[2, 2],
            stackwise_strides=[1, 2],
            include_rescaling=include_rescaling,
        )
        folder = tmp_path / f"rescaling_{include_rescaling}"
        folder.mkdir()
        config = keras.saving.serialize_keras_object(backbone)
        config["weights"] = "model.weights.h5"
        (folder / "config.json").write_text(json.dumps(config))
        backbone.save_weights(folder / "model.weights.h5")
        return backbone, folder

    return make


@pytest.mark.parametrize("include_rescaling", [True, False])
def test_keras_cv_from_a_folder(include_rescaling, keras_cv_preset, pixels):
    original, folder = keras_cv_preset(include_rescaling)
    backbone = backbones.create(f"keras_cv:{folder}", 32)
    assert backbone.pretrained
    assert backbone.model.input_shape == (None, 32, 32, 3)
    assert (backbone.scaling is None) == include_rescaling
    factor = 1.0 if include_rescaling else 1 / 255
    expected = original.predict_on_batch(pixels.astype("float32") * np.float32(factor))
    assert expected.shape == (2, 4, 4, 32)
    np.testing.assert_allclose(
        features(backbone, pixels.astype("float32")), expected, atol=1e-4
    )


@pytest.mark.one_backend
def test_keras_cv_without_weights_or_with_those_of_a_file(keras_cv_preset, tmp_path):
    original, folder = keras_cv_preset(True)
    fresh = backbones.create(f"keras_cv:{folder}", weights=None)
    assert fresh.image_size == 224
    assert not fresh.pretrained
    assert not same_weights(fresh.model, original)
    path = tmp_path / "other.weights.h5"
    fresh.model.save_weights(path)
    loaded = backbones.create(f"keras_cv:{folder}", 32, weights=path)
    assert same_weights(loaded.model, fresh.model)
    networks.tiny(32).save_weights(path)
    with pytest.raises(APINetError, match=r"other\.weights\.h5' holds .* 'keras_cv:"):
        backbones.create(f"keras_cv:{folder}", 32, weights=path)


@pytest.mark.one_backend
def test_keras_cv_presets_that_are_not_there(tmp_path, monkeypatch):
    pytest.importorskip("keras_cv")
    with pytest.raises(
        APINetError, match=r"'resnet50_v2_imagnet'.*did you mean 'resnet50_v2_imagenet"
    ):
        backbones.create("keras_cv:resnet50_v2_imagnet")
    with pytest.raises(APINetError, match=f"'keras_cv:{tmp_path}'.*save_to_preset"):
        backbones.create(f"keras_cv:{tmp_path}")

    def offline(handle, path):
        raise ConnectionError(f"no network for {path}")

    monkeypatch.setattr("kagglehub.model_download", offline)
    with pytest.raises(
        APINetError,
        match=r"'keras_cv:resnet50_v2_imagenet' \(kaggle://keras/resnetv2/\S+\): no "
        r"network for config.json; check the connection or give a local preset folder",
    ):
        backbones.create("keras_cv:resnet50_v2_imagenet")


def test_keras_hub_from_a_folder_with_its_converter(tmp_path, pixels):
    keras_hub = pytest.importorskip("keras_hub")
    original = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    original.save_to_preset(str(tmp_path))
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(32, 32), scale=[0.01, 0.02, 0.03], offset=[-1.0, 0.0, 1.0]
    )
    converter.save_to_preset(str(tmp_path))
    backbone = backbones.create(f"keras_hub:{tmp_path}")
    assert backbone.pretrained
    assert backbone.image_size == 32
    assert backbone.model.input_shape == (None, 32, 32, 3)
    expected = original.predict_on_batch(ops.convert_to_numpy(converter(pixels)))
    np.testing.assert_allclose(features(backbone, pixels), expected, atol=1e-4)
    fresh = backbones.create(f"keras_hub:{tmp_path}", 64, weights=None)
    assert fresh.model.input_shape == (None, 64, 64, 3)
    assert not same_weights(fresh.model, original)


@pytest.mark.one_backend
def test_keras_hub_tokens_from_a_dictionary_of_one_image(tmp_path, pixels):
    """DINOv2 takes `{"images": ...}`, and other image sizes than its own."""
    keras_hub = pytest.importorskip("keras_hub")
    original = keras_hub.models.DINOV2Backbone(
        patch_size=8,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=32,
        image_shape=(32, 32, 3),
    )
    original.save_to_preset(str(tmp_path))
    backbone = backbones.create(f"keras_hub:{tmp_path}")
    assert (backbone.image_size, backbone.pretrained) == (32, True)
    expected = original.predict_on_batch({"images": pixels.astype("float32") / 255})
    np.testing.assert_allclose(features(backbone, pixels), expected, atol=1e-5)
    larger = backbones.create(f"keras_hub:{tmp_path}", 64)
    assert larger.model.output_shape == (None, 1 + 8 * 8, 16)


@pytest.mark.one_backend
def test_keras_hub_presets_that_are_not_of_images(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    with pytest.raises(APINetError, match=r"'dinov2_smal'.*did you mean 'dinov2_small"):
        backbones.create("keras_hub:dinov2_smal")
    keras_hub.models.BertBackbone(
        vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
    ).save_to_preset(str(tmp_path))
    with pytest.raises(APINetError, match=r"does not map images \[N, H, W, 3\]"):
        backbones.create(f"keras_hub:{tmp_path}")


@pytest.mark.one_backend
def test_keras_hub_image_size_that_its_weights_do_not_fit(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=16,
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
    ).save_to_preset(str(tmp_path))
    with pytest.raises(APINetError, match=r"image_size=64; its own is 32"):
        backbones.create(f"keras_hub:{tmp_path}", 64)
    assert backbones.create(f"keras_hub:{tmp_path}", 64, None).image_size == 64


@pytest.mark.one_backend
def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(APINetError, match="pip install keras-hub"):
        backbones.create("keras_hub:dinov2_small")


@pytest.mark.one_backend
def test_libraries_of_presets_are_imported_on_use_only():
    code = (
        "import sys, keras; before = {*sys.modules}; "
        "from keras_apinet import backbones; backbones.available(); "
        "print({'keras_cv', 'keras_hub', 'tensorflow'} & ({*sys.modules} - before))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "numpy"},
    )
    assert answer.stdout.strip() == "set()"
