"""Every kind of image file is read correctly, or named with a reason."""

import struct
import zlib

import numpy as np
import pytest
from factories import save
from PIL import Image

from keras_apinet.data import (
    Split,
    balanced_batches,
    evaluation_batches,
    prepare,
    read_photo,
)
from keras_apinet.data.birds import draw
from keras_apinet.data.photos.graph_preprocessing import _shrink_fast

pytestmark = pytest.mark.one_backend


def photo(height=40, width=60, seed=0):
    """Smooth colours, so that JPEG keeps them."""
    y, x = np.mgrid[0:height, 0:width]
    r = np.random.default_rng(seed).uniform(0.5, 2, 3)
    waves = [127 + 120 * np.sin(r[c] * (x + c * y) / 20) for c in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


def evaluated(path, size=16, **options):
    split = Split.of_files([str(path)], [0])
    images, labels = next(iter(evaluation_batches(split, image_size=size, **options)))
    assert labels.numpy().tolist() == [0]
    return images.numpy()[0]


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [
        ("plain photo.jpg", None, 14),
        ("grün.png", None, 0),
        ("cmyk.jpg", "CMYK", 14),
        ("grey.jpg", "L", None),
        ("grey.png", "L", None),
        ("palette.gif", None, 40),
        ("palette.png", "P", 60),
        ("rgba.png", "RGBA", 0),
        ("modern.webp", None, 20),
        ("old.bmp", None, 0),
        ("large.tiff", None, 0),
    ],
)
def test_kinds_of_files(tmp_path, name, mode, tolerance):
    pixels = photo()
    path = save(tmp_path / name, pixels, mode)
    read = read_photo(path)
    assert read.shape == (40, 60, 3)
    assert read.dtype == np.uint8
    if tolerance is None:
        want = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        np.testing.assert_allclose(read.astype(int), want.repeat(3, -1), atol=8)
    else:
        np.testing.assert_allclose(read.astype(int), pixels, atol=tolerance)
    # The pipeline reads it too, with the numbers that prediction gets.
    theirs = prepare(read, 16).astype(int)
    np.testing.assert_allclose(evaluated(path), theirs, atol=1)  # sums that end in .5


def test_sixteen_bits_lose_the_lower_eight(tmp_path):
    grey = np.array([[0, 255, 256, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    read = read_photo(tmp_path / "deep.png")
    np.testing.assert_array_equal(read[0, :, 0], [0, 0, 1, 255])


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_of_every_colour(tmp_path, colour_type, channels, rng):
    deep = rng.integers(0, 65536, (5, 7, channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 7, 5, 16, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        check = zlib.crc32(kind + data)
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", check)
    (tmp_path / "deep.png").write_bytes(content)
    want = np.broadcast_to(deep >> 8, (5, 7, 3))
    np.testing.assert_array_equal(read_photo(tmp_path / "deep.png"), want)


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0] = 10, 20, 30, 255
    save(tmp_path / "sticker.png", rgba)
    read = read_photo(tmp_path / "sticker.png")
    np.testing.assert_array_equal(read[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(read[3, 3], [255, 255, 255])
    plain = Image.fromarray(rgba[..., :3])
    plain.save(tmp_path / "one colour.png", transparency=(0, 0, 0))
    np.testing.assert_array_equal(read_photo(tmp_path / "one colour.png"), read)


@pytest.mark.parametrize("name", ["wave.gif", "wave.png", "wave.webp", "wave.tiff"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    path = tmp_path / name
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_photo(path)[0, 0], [255, 0, 0], atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_rotation_is_undone(tmp_path, orientation, order):
    """Pillow writes big-endian or little-endian EXIF; both say how the camera lay."""
    pixels = photo()
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "A camera"
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.jpg", pixels, exif=exif, quality=95)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    stored = np.asarray(Image.open(path)).astype(int)
    np.testing.assert_array_equal(read_photo(path), undo(stored))


def test_rotation_stands_where_other_programs_write_it(tmp_path):
    """In a PNG file, and in a JPEG file behind a colour profile of 12,000 bytes."""
    pixels = photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", pixels, exif=exif)
    np.testing.assert_array_equal(read_photo(path), np.rot90(pixels, -1))
    path = save(tmp_path / "turned.jpg", pixels, exif=exif, quality=95)
    content = (tmp_path / "turned.jpg").read_bytes()
    start = content.index(b"\xff\xe1")
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    profile = b"ICC_PROFILE\0" + bytes(3988)
    segment = b"\xff\xe2" + struct.pack(">H", len(profile) + 2) + profile
    late = content[:start] + 3 * segment + content[start:end] + content[end:]
    (tmp_path / "late.jpg").write_bytes(late)
    assert read_photo(tmp_path / "late.jpg").shape == (60, 40, 3)
    np.testing.assert_array_equal(read_photo(tmp_path / "late.jpg"), read_photo(path))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 20_000), (20_000, 10)])
def test_odd_sizes(tmp_path, height, width):
    path = save(tmp_path / "odd.png", np.full((height, width, 3), 77, np.uint8))
    for resize in ("fit", "squash"):
        assert (evaluated(path, resize=resize) == 77).all()
        batches = balanced_batches(
            Split.of_files([path], [0]),
            classes_per_batch=1,
            images_per_class=3,
            image_size=16,
            resize=resize,
        )
        assert all((images.numpy() == 77).all() for images, _ in batches)


@pytest.mark.parametrize("side", [90, 66, 48, 36, 16])
def test_training_shrinks_as_evaluation_does(side):
    """Means of areas and a faint blur, against Pillow's bilinear resize of drawn birds.

    Under two grey levels on the average, and as sharp: the differences between
    neighbours are the same within 6 %.
    """
    sharpness = []
    for species in range(6):
        pixels = draw(species, seed=7).pixels
        image = Image.fromarray(pixels)
        want = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), float)
        found = np.asarray(_shrink_fast(pixels, side))
        assert np.abs(found - want).mean() < 2
        sharpness.append(
            np.abs(np.diff(found, axis=1)).mean() / np.abs(np.diff(want, axis=1)).mean()
        )
    assert abs(np.mean(sharpness) - 1) < 0.06


def test_the_centre_is_seven_eighths_of_the_short_side():
    """48 x 64: the middle 42 x 42 is kept, rows 3 to 44 and columns 11 to 52."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[3:45, 11:53] = 200
    assert (prepare(pixels, 42) == 200).all()
    pixels[3:45, 11] = 0
    assert (prepare(pixels, 42)[:, 0] == 0).all()


def test_squash_keeps_seven_eighths_of_both_sides():
    """48 x 64: the middle 42 x 56."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[3:45, 4:60] = 200
    assert (prepare(pixels, 42, resize="squash") == 200).all()


def test_a_box_is_cut_out_first():
    """A box of 16 x 16 at (8, 4): its middle 14 x 14 is what remains."""
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[4:20, 8:24] = 90
    assert (prepare(pixels, 14, box=(8, 4, 24, 20)) == 90).all()
    split = Split.of(
        load_reader(pixels), [0], boxes=np.array([[8, 4, 24, 20]], np.float32)
    )
    images, _ = next(iter(evaluation_batches(split, image_size=14, box_crop=True)))
    assert (images.numpy() == 90).all()


def load_reader(pixels):
    from keras_apinet.data.image_data import ArrayReader

    return ArrayReader([pixels].__getitem__, "array")
