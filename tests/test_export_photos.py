"""The predictor's own preparation of photos against the one of evaluation."""

import io

import numpy as np
import pytest
from PIL import Image

from keras_apinet import data
from keras_apinet.data.birds import draw
from keras_apinet.errors import APINetError
from keras_apinet.export import photos

pytestmark = pytest.mark.one_backend


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
    ours = photos.prepare(photo, side, resize)
    nearly_the_same(ours, data.prepare(photo, side, resize=resize))


def test_read_photo_is_that_of_evaluation(tmp_path):
    picture = Image.fromarray(draw(3, 5).pixels)
    for name in ("bird.jpg", "bird.png", "bird.webp"):
        picture.save(tmp_path / name)
        ours = photos.read_photo(tmp_path / name)
        np.testing.assert_array_equal(ours, data.read_photo(tmp_path / name))


def test_real_photos_are_read_as_in_evaluation(shared):
    for path in sorted((shared / "data/grocery_store/val").rglob("*.jpg"))[::30]:
        theirs = data.prepare(data.read_photo(path), 96)
        nearly_the_same(photos.prepare(photos.read_photo(path), 96), theirs)


def test_a_turned_photo_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (20, 10), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    content = io.BytesIO()
    picture.save(content, "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(content.getvalue())
    assert photos.read_photo(tmp_path / "turned.jpg").shape == (20, 10, 3)


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
        photos.as_rgb(pixels)


def test_what_is_no_photo_is_named(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no photo")
    with pytest.raises(APINetError, match=r"notes\.jpg"):
        photos.read_photo(path)
    with pytest.raises(APINetError, match=r"missing\.jpg"):
        photos.read_photo(tmp_path / "missing.jpg")
