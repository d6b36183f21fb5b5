"""The preparation of photos without TensorFlow against the one in its graphs."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_apinet import data
from keras_apinet.data.graph_preprocessing import crop_and_resize, decode, to_uint8
from keras_apinet.data.readers import as_rgb
from keras_apinet.data.synthetic import draw
from keras_apinet.errors import APINetError

pytestmark = pytest.mark.one_backend


def in_graph(pixels, side, resize="fit"):
    return np.asarray(to_uint8(crop_and_resize(pixels, side, resize)))


def read_in_graph(path):
    return np.asarray(decode(tf.constant(path.read_bytes())))


def nearly_the_same(ours, theirs):
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    # At simple ratios many sums end in .5 exactly, and float32 rounds either way.
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 2e-2


@pytest.mark.parametrize("resize", ["fit", "squash"])
@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(120, 90, 32), (31, 64, 48), (224, 224, 224), (1, 5, 8), (97, 301, 96)],
)
def test_prepare_is_that_of_evaluation(resize, height, width, side, rng):
    photo = rng.integers(0, 256, (height, width, 3)).astype("uint8")
    ours = data.prepare(photo, side, resize=resize)
    nearly_the_same(ours, in_graph(photo, side, resize))


def test_read_photo_is_that_of_evaluation(tmp_path):
    picture = Image.fromarray(draw(3, 5).pixels)
    for name in ("bird.jpg", "bird.png", "bird.webp"):
        picture.save(tmp_path / name)
        ours = data.read_photo(tmp_path / name)
        np.testing.assert_array_equal(ours, read_in_graph(tmp_path / name))


def test_real_photos_are_read_as_in_evaluation(shared):
    for path in sorted((shared / "data/grocery_store/val").rglob("*.jpg"))[::30]:
        theirs = in_graph(read_in_graph(path), 96)
        nearly_the_same(data.prepare(data.read_photo(path), 96), theirs)


def test_a_turned_photo_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (20, 10), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    content = io.BytesIO()
    picture.save(content, "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(content.getvalue())
    assert data.read_photo(tmp_path / "turned.jpg").shape == (20, 10, 3)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((4, 4, 2)), r"shape=\(4, 4, 2\)"),
        (np.full((4, 4, 3), 300.0), "to 300"),
        (np.full((4, 4, 3), np.nan), "nan"),
    ],
)
def test_wrong_pixels(pixels, words):
    with pytest.raises(APINetError, match=words):
        as_rgb(pixels)


def test_what_is_no_photo_is_named(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no photo")
    with pytest.raises(APINetError, match=r"notes\.jpg"):
        data.read_photo(path)
    with pytest.raises(APINetError, match=r"missing\.jpg"):
        data.read_photo(tmp_path / "missing.jpg")
