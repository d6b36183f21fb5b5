"""The preparation of photos without TensorFlow against the one in its graphs."""

import io

import numpy as np
import pytest
import tensorflow as tf
from factories import class_folders
from PIL import Image

import keras_apinet
from keras_apinet import data
from keras_apinet.data.birds import draw
from keras_apinet.data.photos import preprocessing
from keras_apinet.data.photos.graph_preprocessing import (
    crop_and_resize,
    decode,
    to_uint8,
)
from keras_apinet.errors import APINetError
from keras_apinet.export.photos import (
    representative_photos,
    verification_photos,
)
from keras_apinet.export.sources import open_source
from keras_apinet.pixels import as_rgb
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend


def two_classes():
    return keras_apinet.build(
        "tiny", 2, 32, None, mutual_units=4, class_names=["a", "b"]
    )


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


@pytest.fixture
def numbered(tmp_path):
    """Photos whose grey level is their number, as one split or as several."""

    def make(**counts):
        number, splits = 0, {}
        for name, count in counts.items():
            pixels = np.arange(number, number + count, dtype="uint8")
            pixels = np.tile(pixels[:, None, None, None], (1, 32, 32, 3))
            labels = np.arange(count, dtype="int32") % 2
            splits[name] = keras_apinet.data.as_split((pixels, labels))
            number += count
        return keras_apinet.data.ImageData("numbered", ("a", "b"), splits)

    return make


def numbers(found):
    return found.images[:, -1, -1, 0].tolist()


@pytest.mark.parametrize(
    ("counts", "proof", "ranges"),
    [
        ({"train": 6, "val": 4}, [6, 7, 8, 9], [0, 1, 2, 3, 4, 5]),
        ({"train": 7}, [0, 2, 4, 6], [1, 3, 5]),
        ({"test": 4}, [0, 2], [1, 3]),
    ],
)
def test_no_photo_sets_int8_ranges_and_proves_them(counts, proof, ranges, numbered):
    model = two_classes()
    source, given = open_source(model), numbered(**counts)
    assert numbers(verification_photos(source, given, 99, apart=True)) == proof
    assert numbers(representative_photos(source, given, apart=True)) == ranges
    if len(counts) == 1:
        photos = np.stack([given.splits[next(iter(counts))].read(i) for i in range(4)])
        assert numbers(verification_photos(source, photos, 99, apart=True)) == [0, 2]
        assert numbers(representative_photos(source, photos, apart=True)) == [1, 3]
        assert len(verification_photos(source, photos, 99)) == 4


def test_one_photo_cannot_set_ranges_and_prove_them(numbered):
    model = two_classes()
    with pytest.raises(APINetError, match=r"but got 1; pass more .* 'dynamic'"):
        representative_photos(open_source(model), numbered(train=1), apart=True)


def test_unreadable_photos_of_an_export_are_counted(tmp_path):
    class_folders(tmp_path, "ab", 8, lambda label, i: np.full((32, 32, 3), i))
    model = two_classes()
    given = keras_apinet.data.load(tmp_path, validation=0)
    (tmp_path / "a/0.png").write_bytes(b"no image")
    found = verification_photos(open_source(model), given, 99)
    assert len(found) == 15
    # Strangers get the file that says so: no paths of this machine.
    assert found.origin.endswith(f"of {tmp_path.name} (1 could not be read)")
    (tmp_path / "b/0.png").write_bytes(b"no image")
    with pytest.raises(APINetError, match="2 of 16 images cannot be read"):
        verification_photos(open_source(model), given, 99)


def test_a_single_image_is_no_set_of_photos():
    source = open_source(two_classes())
    with pytest.raises(APINetError, match=r"shape \(32, 32, 3\); pass images"):
        verification_photos(source, np.zeros((32, 32, 3), "uint8"), 100)


@pytest.mark.parametrize("as_tensor", [tf.constant, np.asarray])
def test_one_photo_of_any_library_is_one_photo(as_tensor, tmp_path, rng):
    keras_apinet.export.export_classifier(
        two_classes(), tmp_path / "a.onnx", verify=False
    )
    classifier = keras_apinet.load_classifier(tmp_path / "a.onnx")
    photo = rng.integers(0, 256, (32, 32, 3), np.uint8)
    assert len(classifier.predict(as_tensor(photo))) == 1
    assert len(classifier.predict(as_tensor(photo[None].repeat(2, 0)))) == 2
    Image.fromarray(photo).save(tmp_path / "a.png")
    assert len(classifier.predict(np.array([str(tmp_path / "a.png")] * 3))) == 3


def test_ranges_of_int8_are_not_set_on_drawings(tmp_path):
    """A run whose photos are gone, and its model file."""
    described = {"settings": {}, "class_names": ["a", "b"], "image_size": 32}
    load = {"name": str(tmp_path / "gone")}
    run = Run.create(tmp_path / "run", {**described, "data": {"load": load}})
    two_classes().save(run.folder / "best.keras")
    source = open_source(run.folder / "best.keras")
    with pytest.raises(APINetError, match="int8 needs representative photos"):
        representative_photos(source, None)
    assert len(verification_photos(source, None, 100)) == 16


def test_a_run_json_of_somebody_else_is_not_read(tmp_path):
    two_classes().save(tmp_path / "best.keras")
    (tmp_path / "run.json").write_text('{"lr": 1}')
    assert keras_apinet.load_classifier(tmp_path / "best.keras").class_names == [
        *("a", "b")
    ]
    (tmp_path / "run.json").write_text('{"settings": 1}')
    with pytest.raises(APINetError, match=r"run\.json"):
        keras_apinet.load_classifier(tmp_path / "best.keras")


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 90}),
        ("JPEG", {"quality": 30, "subsampling": 2}),
        ("PNG", {}),
    ],
)
def test_ordinary_files_are_decoded_without_python(form, options, monkeypatch, rng):
    """Whose threads would wait for each other."""
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(9, 0).repeat(9, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    expected = preprocessing.decode(file.getvalue())

    def refused(content):
        raise AssertionError("decoded in Python")

    monkeypatch.setattr(preprocessing, "is_plain_jpeg", refused)
    monkeypatch.setattr(preprocessing, "decode", refused)
    np.testing.assert_array_equal(decode(file.getvalue()), expected)
