"""What `keras-apinet predict` takes for photos."""

import os

import numpy as np
import pytest
from PIL import Image

from keras_apinet.data.photos.files import listed_photos
from keras_apinet.errors import APINetError
from keras_apinet.open_world.features import write_photo_features

pytestmark = pytest.mark.one_backend


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("new/b.jpg", "new/a.PNG", "new/deep/c.jpg", "new/.hidden/d.jpg"):
        os.makedirs(os.path.dirname(name), exist_ok=True)
        pixels = np.full((40, 40, 3), 90, np.uint8)
        Image.fromarray(pixels).save(name, "PNG" if name.endswith("PNG") else None)
    (tmp_path / "new/notes.txt").write_text("no photo")
    (tmp_path / "new/._b.jpg").write_text("a resource fork")
    (tmp_path / "list.csv").write_text("label,path\nx,new/b.jpg\ny,gone.jpg\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["new"], ["new/a.PNG", "new/b.jpg", "new/deep/c.jpg"]),
        (["new/*.jpg"], ["new/b.jpg"]),
        (["new/**/*.jpg"], ["new/b.jpg", "new/deep/c.jpg"]),
        (["list.csv"], ["new/b.jpg", "gone.jpg"]),
        (["gone.jpg", "new/a.PNG"], ["gone.jpg", "new/a.PNG"]),
    ],
)
def test_files_folders_patterns_and_tables(photos, names, expected):
    assert listed_photos(names) == expected


def test_a_file_whose_name_is_a_pattern_is_that_file(photos):
    (photos / "a[1].jpg").write_bytes(b"")
    assert listed_photos(["a[1].jpg"]) == ["a[1].jpg"]


@pytest.mark.parametrize("name", ["empty", "*.webp", "none.csv"])
def test_where_there_are_no_photos_it_is_said(photos, name):
    (photos / "none.csv").write_text("path\n")
    with pytest.raises(APINetError, match="no photos in"):
        listed_photos([name])


def test_a_table_needs_a_column_path(photos):
    (photos / "t.csv").write_text("file\na.jpg\n")
    with pytest.raises(APINetError, match="columns file"):
        listed_photos(["t.csv"])


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_features_of_photos_are_those_of_the_model(photos, ending, capsys):
    import keras_apinet
    from keras_apinet.cli import main

    model = keras_apinet.build("tiny", 2, 32, None, class_names=["a", "b"])
    model.save("m.keras")
    names = ["new/a.PNG", "gone.jpg", "new/b.jpg"]
    to = f"f{ending}"
    command = ["predict", "m.keras", *names, "--features", to]
    assert main(command) == 2  # one is gone, the others are answered
    # Photos of one grey are that grey at any size.
    expected = np.asarray(model.features(np.full((1, 32, 32, 3), 90, np.float32)))[0]
    if ending == ".npz":
        with np.load(to) as file:
            found, of = file["features"], file["photos"].tolist()
    else:
        rows = [line.split(",") for line in (photos / to).read_text().splitlines()]
        assert rows[0][:2] == ["photo", "feature_0"]
        of = [row[0] for row in rows[1:]]
        found = np.array([row[1:] for row in rows[1:]], float)
    assert of == ["new/a.PNG", "new/b.jpg"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (2, len(expected))
    capsys.readouterr()
    assert main(command) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--force"]) == 2
    assert "1 of 3 photos cannot be read" in capsys.readouterr().err


def test_features_need_a_model_that_keeps_them(photos, capsys):
    from keras_apinet.cli import main

    (photos / "m.tflite").write_bytes(b"")
    assert main(["predict", "m.tflite", "new", "--features", "f.npz"]) == 2
    assert "give a run folder or a .keras file for --features" in (
        capsys.readouterr().err
    )


def test_cells_of_a_table_are_read_as_those_of_a_training(photos):
    (photos / "t.csv").write_text('Path,label\n " new/b.jpg" ,x\n')
    assert listed_photos(["t.csv"]) == ["new/b.jpg"]
    with pytest.raises(APINetError, match=r"'gone\.csv' cannot be read .No such file"):
        listed_photos(["gone.csv"])


def test_thumbnails_of_storage_boxes_are_no_photos(photos):
    thumbnail = photos / "new/@eaDir/b.jpg/THUMB_M.jpg"
    thumbnail.parent.mkdir(parents=True)
    thumbnail.write_bytes(b"")
    assert listed_photos(["new"]) == ["new/a.PNG", "new/b.jpg", "new/deep/c.jpg"]


def test_names_that_are_not_utf_8_stay_what_they_are(tmp_path):
    features = np.ones((1, 2), "float32")
    write_photo_features(tmp_path / "f.csv", ["a\udce9.jpg"], features)
    assert b"a\xe9.jpg,1,1" in (tmp_path / "f.csv").read_bytes()
