"""Splits that keep twins together, near-duplicates, and layouts of folders."""

import json
import os
import socket

import numpy as np
import pytest
from photo_files import photos as files
from PIL import Image, ImageEnhance

from keras_apinet.cli import main
from keras_apinet.data import load
from keras_apinet.data.marks import read_marks
from keras_apinet.errors import APINetError
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend


def photo(path, seed, shift=0, **options):
    """A picture of coarse random patches; the same seed gives the same scene."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    scene = Image.fromarray(patches).resize((72, 72), Image.Resampling.BICUBIC)
    scene.crop((shift, 0, shift + 64, 64)).save(path, **options)


def names_of(split):
    return [os.path.basename(split.reference(i)) for i in range(len(split))]


def test_bursts_are_held_out_whole(tmp_path):
    """Ten scenes of four photos in each class, named so that the order says nothing."""
    for label in range(2):
        for scene in range(10):
            for i in range(4):
                name = f"c{label}/{i}_{scene}.png"
                photo(tmp_path / name, scene + 100 * label, shift=i)
    data = load(tmp_path, validation=0.1)
    parts = {}
    for name, split in data.splits.items():
        for i in range(len(split)):
            scene = split.labels[i], split.reference(i).rpartition("_")[2]
            parts.setdefault(scene, set()).add(name)
    assert {len(splits) for splits in parts.values()} == {1}
    assert np.bincount(data.splits["val"].labels).tolist() == [4, 4]
    assert data.held_out["groups"] == 2
    assert "Held out 8 of 80 photos in 2 whole groups." in data.notes
    assert load(tmp_path).fingerprint() == data.fingerprint()
    # A new class, and a photo of a held-out scene, leave the rest as it was.
    before = names_of(data.splits["val"])
    for i in range(8):
        photo(tmp_path / f"new/{i}.png", 500 + i)
    after = names_of(load(tmp_path, validation=0.1).splits["val"])
    assert [n for n in after if "_" in n] == before


def test_one_camera_within_half_a_minute_is_a_burst(tmp_path):
    for i in range(12):
        exif = Image.Exif()
        exif[0x0110] = "camera"
        second = i // 4 * 600 + i % 4 * 20
        text = f"2024:05:01 10:{second // 60:02}:{second % 60:02}"
        exif.get_ifd(0x8769)[0x9003] = text
        photo(tmp_path / f"a/{i:02}.jpg", i, exif=exif)
        photo(tmp_path / f"b/{i:02}.jpg", 50 + i)
    data = load(tmp_path, validation=0.3)
    val = data.splits["val"].take(data.splits["val"].labels == 0)
    moments = {int(name[:2]) // 4 for name in names_of(val)}
    assert len(val) == 4
    assert len(moments) == 1


def test_a_class_of_one_burst_is_trained_on(tmp_path):
    for i in range(6):
        photo(tmp_path / f"a/{i}.png", 1, shift=i % 3)
        photo(tmp_path / f"b/{i}.png", 10 + i)
    data = load(tmp_path)
    assert np.bincount(data.splits["train"].labels)[0] == 6
    assert any("one group each" in n and "'a'" in n for n in data.notes)


def test_patterns_folders_and_columns_group(tmp_path):
    for label in "ab":
        for bird in range(5):
            for i in range(2):
                photo(tmp_path / f"d/{label}/bird{bird}/{i}.png", bird)
    lines = ["path,label,Bird"]
    for label in "ab":
        for bird in range(5):
            lines += [f"d/{label}/bird{bird}/{i}.png,{label},{bird}" for i in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    for source, how in (
        ("d", r"(bird\d)"),
        ("d", "folder"),
        ("t.csv", "column:Bird"),
    ):
        data = load(tmp_path / source, validation=0.2, group_by=how)
        birds = {}
        for name, split in data.splits.items():
            for i in range(len(split)):
                where = split.reference(i).split("/")
                birds.setdefault(where[-2], set()).add(name)
        assert data.splits["val"].labels.tolist() == [0, 0, 1, 1]
        assert data.held_out["group_by"] == how
        if how != "folder":
            assert {len(x) for x in birds.values()} == {1}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("(", "not a regular expression"),
        ("bird", "no group in parentheses"),
        ("(zebra)", "matches none"),
        ("(png)", "into one group"),
        ("column:bird", "needs a table"),
        ("column:", "names no column"),
        ("folder", "every class into one group"),
    ],
)
def test_bad_groupings_are_named(tmp_path, how, message, capsys):
    for label in "ab":
        for i in range(3):
            photo(tmp_path / label / f"{i}.png", i)
    with pytest.raises(APINetError, match=message):
        load(tmp_path, group_by=how)
    assert main(["data", str(tmp_path), "--group-by", how]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_missing_columns_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,bird\na.png,a,1\n")
    with pytest.raises(APINetError, match=r"columns path, label, bird"):
        load(tmp_path / "t.csv", group_by="column:plant")


@pytest.mark.slow
def test_near_duplicates_are_reported_and_drawn(tmp_path, capsys):
    for i in range(8):
        photo(tmp_path / f"d/train/a/{i}.png", i)
        photo(tmp_path / f"d/train/b/{i}.png", 20 + i)
        photo(tmp_path / f"d/test/b/{i}.png", 40 + i)
    with Image.open(tmp_path / "d/train/a/3.png") as image:
        ImageEnhance.Brightness(image).enhance(0.95).save(
            tmp_path / "d/test/b/twin.jpg", quality=70
        )
    sheet = tmp_path / "sheet.png"
    command = ["data", str(tmp_path / "d"), "--sheet", str(sheet), "--validation", "0"]
    assert main([*command, "--image-size", "32", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    pair = [str(tmp_path / "d/train/a/3.png"), str(tmp_path / "d/test/b/twin.jpg")]
    assert report["leakage"] == []
    assert report["near_leakage"] == [pair]
    assert report["near_conflicts"] == [pair]
    with Image.open(sheet) as image:
        tall = image.height
    os.remove(tmp_path / "d/test/b/twin.jpg")
    assert main([*command, "--image-size", "32", "--force"]) == 0
    assert "near-duplicates across splits (leakage): none" in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert tall - image.height > 128


LAYOUTS = {
    "training_set/{c} test_set/{c}": {"train", "test"},
    "train_images/{c} val_images/{c}": {"train", "val"},
    "seg_train/seg_train/{c} seg_test/seg_test/{c}": {"train", "test"},
    "data/data/train/{c} data/data/test/{c}": {"train", "test"},
    "Training/{c} Testing/{c} Validation/{c}": {"train", "val", "test"},
    "TRAIN/{c} Valid/{c}": {"train", "val"},
    "train/{c} dev/{c}": {"train", "val"},
    "train/{c} eval/{c}": {"train", "val"},
    "images/train/{c} images/test/{c}": {"train", "test"},
    "birds-200/train2017/{c} birds-200/val2017/{c}": {"train", "val"},
    "{c}/train {c}/test": {"train", "test"},
    "traindata/{c} testdata/{c}": {"train", "test"},
    "TrainImages/{c} TestImages/{c}": {"train", "test"},
    "photos/{c}": {"train"},
    "{c}": {"train"},
    "{c}/day": {"train"},
    "__MACOSX/{c} .git/{c} {c}/@eaDir {c}": {"train"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_read_as_they_are_meant(tmp_path, layout):
    for pattern in layout.split():
        for c in ("apple", "pear"):
            photo(tmp_path / pattern.format(c=c) / "1.png", 1)
    data = load(tmp_path, validation=0)
    assert data.class_names == ("apple", "pear")
    assert {name: len(split) for name, split in data.splits.items()} == dict.fromkeys(
        LAYOUTS[layout], 2
    )


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("train/1.png test/1.png", "no class folders"),
        ("1.png 2.png", "2 images, but no class folders"),
        ("train/a/1.png Train/a/1.png", "2 folders for the 'train' split"),
        ("a/1.png b/1.png test/a/1.png", "move the training classes into 'train'"),
        ("a/train/1.png a/test/1.png b/1.png", "split every class or none"),
        ("train/Apple/1.png test/apple/1.png", "differ only in spaces, case"),
    ],
)
def test_layouts_without_a_meaning_are_refused(tmp_path, paths, message):
    for path in paths.split():
        photo(tmp_path / path, 1)
    with pytest.raises(APINetError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        ("train/1.png car/1.png plane/1.png", ("car", "plane", "train")),
        ("train_station/x/1.png test_tube/x/1.png", ("test_tube", "train_station")),
    ],
)
def test_classes_that_sound_like_splits_stay_classes(tmp_path, paths, classes):
    for path in paths.split():
        photo(tmp_path / path, 1)
    assert load(tmp_path, validation=0).class_names == classes


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    for path in ("a/1.png", "b/1.png", "loose.png"):
        photo(tmp_path / path, 1)
    for name in ("1.HEIC", "2.heic", "3.cr2"):
        (tmp_path / "a" / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    os.symlink("self.png", tmp_path / "a/self.png")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the paths of sockets are short
    server.bind("a/s.png")
    server.close()
    notes = " ".join(load(tmp_path, validation=0).notes)
    assert "1 .cr2 (raw camera data: develop them to JPEG)" in notes
    assert "3 entries that are not regular files" in notes
    assert "1 images directly in" in notes


def test_names_that_are_nearly_the_same_are_pointed_out(tmp_path):
    for name in ("Red apple", "red Apple ", "pear"):
        photo(tmp_path / name / "1.png", 1)
    notes = load(tmp_path, validation=0).notes
    assert any("'Red apple' and 'red Apple '" in note for note in notes)


def test_cells_of_tables_are_stripped(tmp_path):
    for i in range(3):
        photo(tmp_path / f"{i}.png", i)
    lines = [
        '"path" , Label',
        '0.png, "apple"',
        "1.png,apple\u00a0",
        ' 2.png ,"apple "',
    ]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(lines), "utf-8")
    data = load(tmp_path / "t.csv", validation=0)
    assert data.class_names == ("apple",)
    assert names_of(data.splits["train"]) == ["0.png", "1.png", "2.png"]


def test_photos_of_16_bits_are_told_apart(tmp_path):
    """As they are read for training: to a reader of 8 bits they are all white."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(20):
            small = rng.integers(0, 2**16, (6, 6)).astype(np.uint16)
            large = Image.fromarray(small.repeat(8, 0).repeat(8, 1))
            large.save(tmp_path / name / f"{i}.png")
    assert len(load(tmp_path).splits["val"]) >= 2


def test_files_that_are_refused_are_not_unpacked(tmp_path):
    for i, content in enumerate([files()["PNG, 30,000 x 30,000"]] * 2):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{i}.png").write_bytes(content)
    # PostScript, which Pillow would give to another program.
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (tmp_path / "a/2.png").write_bytes(drawing)
    train = load(tmp_path, validation=None).splits["train"]
    assert not read_marks(train)["seen"].any()


def test_damaged_notes_on_photos_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    for i in range(3):
        photo(tmp_path / "set/a" / f"{i}.png", i)
    train = load(tmp_path / "set", validation=None).splits["train"]
    first = read_marks(train)
    (store,) = (tmp_path / "home").rglob("marks_*.npy")
    whole = store.read_bytes()
    store.write_bytes(whole.replace(b"{'descr'", b"{('descr"))
    np.testing.assert_array_equal(read_marks(train)["hash"], first["hash"])


def test_a_column_that_is_there_twice_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,Label\n0.png,1,cat\n")
    with pytest.raises(APINetError, match="2 columns 'label'"):
        load(tmp_path / "t.csv", validation=0)


def test_labels_of_thousands_of_digits_are_names(tmp_path):
    photo(tmp_path / "0.png", 1)
    long = "9" * 5000
    (tmp_path / "t.csv").write_text(f"path,label\n0.png,{long}\n0.png,10\n")
    assert load(tmp_path / "t.csv", validation=0).class_names == ("10", long)


def test_what_was_held_out_stays_held_out_as_the_data_grows(tmp_path):
    """Also where the data has moved; new photos are not judged on."""
    for name in "ab":
        for i in range(20):
            photo(tmp_path / "set" / name / f"{i}.png", seed=ord(name) * 100 + i)
    options = {"group_by": "none", "validation": 0.2}
    images = load(tmp_path / "set", **options)
    described = {"name": str(tmp_path / "set"), **options}
    kept = {"held_out": dict(images.held_out), "fingerprint": images.fingerprint()}
    run = Run.create(
        tmp_path / "run",
        {
            "settings": {},
            "class_names": ["a", "b"],
            "image_size": 32,
            "data": kept | {"load": described},
        },
    )
    run.keep_data(images)
    assert run.data().fingerprint() == images.fingerprint()
    held = names_of(images.splits["val"])
    for i in range(20, 60):
        photo(tmp_path / "set" / "a" / f"{i}.png", seed=i)
    (tmp_path / "set" / "b" / held[-1]).unlink()
    # Drawn anew, the split would hold others.
    anew = load(tmp_path / "set", **options).splits["val"]
    assert names_of(anew) != held[:-1]
    os.rename(tmp_path / "set", tmp_path / "moved")
    grown = run.data(str(tmp_path / "moved"))
    assert names_of(grown.splits["val"]) == held[:-1]
    assert len(grown.splits["train"]) == 72
    assert grown.held_out["fraction"] == 0.2
    del run.description["data"]["held_out"]  # which a run need not tell
    again = run.data(str(tmp_path / "moved"))
    assert again.fingerprint() == grown.fingerprint()


def test_a_share_that_groups_do_not_allow_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        for i in range(20):
            photo(tmp_path / name / f"{i}.png", seed=ord(name) * 100 + i)
    notes = load(tmp_path, validation=0.9, group_by=r"(\d+)\.png").notes
    assert any(
        "50% instead of the requested 90%: every class" in note for note in notes
    )
    options = ["--validation", "0.9", "--group-by", r"(\d+)\.png"]
    assert main(["data", str(tmp_path), *options]) == 0
    assert "90% of each class requested" in " ".join(capsys.readouterr().out.split())


def test_a_table_that_moved_is_held_out_as_it_was(tmp_path):
    """Of absolute paths, through a link, with a photo twice and one that is missing."""
    rows = ["path,label"]
    for name in "ab":
        for i in range(20):
            photo(tmp_path / "set" / name / f"{i}.png", seed=ord(name) * 100 + i)
            rows += [f"{tmp_path}/set/{name}/{i}.png,{name}"] * (1 + (i == 3))
    rows.append(f"{tmp_path}/set/a/gone.png,a")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "t.csv").write_text("\n".join(rows))
    (tmp_path / "link.csv").symlink_to(tmp_path / "there" / "t.csv")
    options = {"group_by": "none", "validation": 0.3}
    images = load(tmp_path / "link.csv", **options)
    run = Run.create(
        tmp_path / "run",
        {
            "settings": {},
            "class_names": ["a", "b"],
            "image_size": 32,
            "data": {
                "load": {"name": str(tmp_path / "there" / "t.csv"), **options},
                "held_out": dict(images.held_out),
                "fingerprint": images.fingerprint(),
            },
        },
    )
    run.keep_data(images)
    assert run.data().fingerprint() == images.fingerprint()
    (tmp_path / "else").mkdir()
    os.rename(tmp_path / "there" / "t.csv", tmp_path / "else" / "t.csv")
    there = run.data(str(tmp_path / "else" / "t.csv"))
    assert there.fingerprint() == images.fingerprint()
    (tmp_path / "only.csv").write_text("path,label,split\nset/a/0.png,a,test\n")
    with pytest.raises(APINetError, match="no training images"):
        run.data(str(tmp_path / "only.csv"))
