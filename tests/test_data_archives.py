"""Miniatures of the real archives: the raw readers and TFDS' own builders agree."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from factories import save
from PIL import Image

from keras_apinet.data import load
from keras_apinet.errors import APINetError

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CLASSES, TRAIN, TEST = 3, 3, 2
DOGS = 120


def jpeg(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), np.uint8)
    save(path, pixels.repeat(10, 0).repeat(10, 1), quality=90)


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def images(classes=CLASSES):
    """Class from 1, number in the class, number in all, whether it is for training."""
    number = 0
    for c in range(1, classes + 1):
        for i in range(TRAIN + TEST):
            number += 1
            yield c, i, number, i < TRAIN


def cub(root):
    name = "{0:03}.Bird_{0}/Bird_{0}_{1:04}_{2}.jpg"
    files = [(n, c, t, name.format(c, i, n)) for c, i, n, t in images()]
    for n, _, _, file in files:
        jpeg(root / "images" / file, n)
        mask = Image.new("L", (40, 30), 255)
        path = root.parent / "segmentations" / file.replace(".jpg", ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    write(root / "images.txt", [f"{n} {f}" for n, _, _, f in files])
    write(root / "image_class_labels.txt", [f"{n} {c}" for n, c, _, _ in files])
    write(root / "train_test_split.txt", [f"{n} {int(t)}" for n, _, t, _ in files])
    write(root / "bounding_boxes.txt", [f"{n} 4.0 6.0 20.0 12.0" for n, *_ in files])
    write(root / "classes.txt", [f"{c} {c:03}.Bird_{c}" for c in (1, 2, 3)])


def cars(root):
    from scipy.io import savemat

    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
    rows = {"train": [], "test": []}
    for c, _, n, training in images():
        split = "train" if training else "test"
        jpeg(root / f"cars_{split}" / f"{n:05}.jpg", n)
        rows[split].append((4, 6, 24, 18, c, f"{n:05}.jpg"))
    for split, name in (
        ("train", "devkit/cars_train_annos.mat"),
        ("test", "cars_test_annos_withlabels.mat"),
    ):
        table = np.array([tuple(r) for r in rows[split]], [(f, object) for f in fields])
        (root / "devkit").mkdir(exist_ok=True)
        savemat(root / name, {"annotations": table[None]})
    names = np.array(["Car A", "Car B", "Car C"], object)
    savemat(root / "devkit/cars_meta.mat", {"class_names": names[None]})


def dogs(root):
    from scipy.io import savemat

    lists = {"train": [], "test": []}
    # TFDS' builder insists on all the breeds.
    for c, _, n, training in images(DOGS):
        breed = f"n02085{c:03}-{'aB'[c % 2]}reed"
        file = f"n02085{c:03}_{n}"
        jpeg(root / "Images" / breed / f"{file}.jpg", n)
        box = "<xmin>4</xmin><ymin>6</ymin><xmax>24</xmax><ymax>18</ymax>"
        write(
            root / "Annotation" / breed / file,
            [
                "<annotation><size><width>40</width><height>30</height></size>",
                f"<object><bndbox>{box}</bndbox></object></annotation>",
            ],
        )
        lists["train" if training else "test"].append(f"{breed}/{file}.jpg")
    (root / "lists").mkdir()
    for split, files in lists.items():
        column = np.array(files, object)[:, None]
        savemat(root / "lists" / f"{split}_list.mat", {"file_list": column})


def flowers(root):
    from scipy.io import savemat

    labels, sets = [], {"trnid": [], "valid": [], "tstid": []}
    for c, i, n, training in images():
        jpeg(root / "jpg" / f"image_{n:05}.jpg", n)
        labels.append(c)
        sets["valid" if i == 0 else "trnid" if training else "tstid"].append(n)
    savemat(root / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(root / "setid.mat", {k: np.array([v]) for k, v in sets.items()})


def pets(root):
    lines = {"trainval": [], "test": []}
    for c, _, n, training in images():
        # TFDS' builder writes some images anew, all of them with small numbers.
        n += 1000
        breed = ["Abyssinian", "american_bulldog", "basset_hound"][c - 1]
        jpeg(root / "images" / f"{breed}_{n}.jpg", n)
        mask = root / "annotations" / "trimaps" / f"{breed}_{n}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 30), 1).save(mask)
        lines["trainval" if training else "test"].append(f"{breed}_{n} {c} 1 1")
    for name, rows in lines.items():
        write(root / "annotations" / f"{name}.txt", rows)


MAKERS = {
    "caltech_birds2011": cub,
    "cars196": cars,
    "stanford_dogs": dogs,
    "oxford_flowers102": flowers,
    "oxford_iiit_pet": pets,
}
ROOTS = {"caltech_birds2011": "CUB_200_2011"}


def local_files(name, folder):
    """What each file of the real address unpacks to, in the miniature."""
    root = folder / ROOTS.get(name, "")
    return {
        "CUB_200_2011": folder,
        "segmentations": folder / "segmentations",
        "cars_train": folder,
        "cars_test.tgz": folder,
        "car_devkit": folder,
        "cars_test_annos_withlabels": root / "cars_test_annos_withlabels.mat",
        "lists.tar": root / "lists",
        "annotation.tar": root / "Annotation",
        "102flowers": folder,
        "imagelabels": root / "imagelabels.mat",
        "setid": root / "setid.mat",
        "images.tar.gz": folder,
        "annotations.tar.gz": folder,
    }


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Makes a miniature and has the real builder prepare it, without the network."""
    import tensorflow_datasets as tfds

    def run(name, file_format):
        folder = tmp_path / name
        root = folder / ROOTS.get(name, "")
        root.mkdir(parents=True)
        MAKERS[name](root)
        whole = tmp_path / f"{name}.tar"
        with tarfile.open(whole, "w") as tar:
            tar.add(root, arcname=root.name)
        places = local_files(name, folder)

        def find(url):
            # The longest known part of the address decides.
            keys = [key for key in places if key.lower() in url.lower()]
            return str(places[max(keys, key=len)])

        def tree(function, value):
            if isinstance(value, dict):
                return {k: function(v) for k, v in value.items()}
            return (
                [function(v) for v in value]
                if isinstance(value, list)
                else (function(value))
            )

        manager = tfds.download.DownloadManager
        monkeypatch.setattr(
            manager, "download", lambda self, urls: tree(lambda _: str(whole), urls)
        )
        monkeypatch.setattr(
            manager, "download_and_extract", lambda self, urls: tree(find, urls)
        )
        builder = tfds.builder(
            name, data_dir=str(tmp_path / "tfds"), file_format=file_format
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        return root

    return run


def contents(split):
    """Digest of the pixels -> label and box in pixels."""
    result = {}
    for i in range(len(split)):
        pixels = split.read(i)
        box = None
        if split.boxes is not None:
            scale = [40, 30, 40, 30] if split.boxes_are_fractions else 1
            box = np.round(split.boxes[i] * scale, 3).tolist()
        result[hashlib.sha256(pixels.tobytes()).hexdigest()] = (split.labels[i], box)
    return result


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("name", MAKERS)
def test_builder_and_raw_reader_give_the_same(name, file_format, prepare, tmp_path):
    if name == "caltech_birds2011":
        pytest.importorskip("cv2")
    root = prepare(name, file_format)
    stored = load(f"tfds:{name}", data_dir=tmp_path / "tfds", validation=0)
    raw = load(root, validation=0)
    assert set(stored.splits) == set(raw.splits)
    assert {"train", "test"} <= set(raw.splits)
    classes = DOGS if name == "stanford_dogs" else CLASSES
    assert len(raw.class_names) == classes
    for split in raw.splits:
        assert contents(raw.splits[split]) == contents(stored.splits[split])
    assert sum(len(s) for s in raw.splits.values()) == classes * (TRAIN + TEST)


def test_nabirds(tmp_path):
    """NABirds has CUB's files, names of images without digits, and a hierarchy."""
    cub(tmp_path / "nabirds")
    write(tmp_path / "nabirds/classes.txt", ["0 Birds", "1 A", "2 B", "3 C", "7 Ducks"])
    write(tmp_path / "nabirds/hierarchy.txt", ["7 0", "1 7", "2 7", "3 0"])
    data = load(tmp_path, validation=0)
    assert data.class_names == ("A", "B", "C")
    assert data.groups == {"parent": ("Ducks", "Ducks", "Birds")}
    assert [len(s) for s in data.splits.values()] == [9, 6]


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (None, ("707-320", "727-200", "A300")),
        ("family", ("Boeing 707", "Boeing 727", "A300 family")),
        ("manufacturer", ("Boeing", "Airbus")),
    ],
)
def test_aircraft_levels(tmp_path, level, names):
    root = tmp_path / "fgvc-aircraft-2013b" / "data"
    tree = {
        "variant": ["707-320", "727-200", "A300"],
        "family": ["Boeing 707", "Boeing 727", "A300 family"],
        "manufacturer": ["Boeing", "Boeing", "Airbus"],
    }
    for kind, plural in (
        ("variant", "variants"),
        ("family", "families"),
        ("manufacturer", "manufacturers"),
    ):
        write(root / f"{plural}.txt", list(dict.fromkeys(tree[kind])))
        for s, split in enumerate(("train", "val", "test")):
            write(
                root / f"images_{kind}_{split}.txt",
                [f"{s}{c} {name}" for c, name in enumerate(tree[kind])],
            )
    for s in range(3):
        for c in range(3):
            jpeg(root / "images" / f"{s}{c}.jpg", 10 * s + c)
    write(root / "images_box.txt", ["00 4 6 24 18"])
    data = load(root.parent, level=level)
    assert data.class_names == names
    assert [len(s) for s in data.splits.values()] == [3, 3, 3]
    assert data.splits["train"].boxes[0].tolist() == [4, 6, 24, 18]
    if level is None:
        assert data.groups["manufacturer"] == ("Boeing", "Boeing", "Airbus")
    with pytest.raises(APINetError, match="level='colour'"):
        load(root, level="colour")


def test_an_archive_that_is_not_whole_is_named(tmp_path):
    cub(tmp_path / "CUB_200_2011")
    (tmp_path / "CUB_200_2011/classes.txt").unlink()
    with pytest.raises(APINetError, match=r"incomplete.*classes\.txt"):
        load(tmp_path)


def test_half_finished_and_unknown_tfds_sets_are_told(tmp_path):
    with pytest.raises(APINetError, match="add --download"):
        load("caltech_birds2011", data_dir=tmp_path)
    (tmp_path / "cars196/2.1.0.incompleteA1B2").mkdir(parents=True)
    with pytest.raises(APINetError, match=r"only half prepared.*2\.1\.0\.incomplete"):
        load("tfds:cars196", data_dir=tmp_path)
    with pytest.raises(APINetError, match="did you mean 'cars196'"):
        load("tfds:cars19", data_dir=tmp_path)


@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_damaged_tfds_set_is_told(harm, prepare, tmp_path):
    prepare("oxford_iiit_pet", "tfrecord")
    shard = next(Path(tmp_path / "tfds").rglob("*train.tfrecord*"))
    if harm == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(APINetError, match=r"tfrecord.*prepare it again"):
        load("tfds:oxford_iiit_pet", data_dir=tmp_path / "tfds")


@pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
def test_a_damaged_archive_is_one_sentence(name, tmp_path):
    (tmp_path / "jpg").mkdir()
    for file in ("imagelabels.mat", "setid.mat"):
        (tmp_path / file).write_bytes(b"")
    # MATLAB's own newest kind, which SciPy does not read.
    head = b"MATLAB 7.3 MAT-file".ljust(124)
    (tmp_path / name).write_bytes(head + b"\0\2IM" + b"\0" * 99)
    with pytest.raises(APINetError, match=r"cannot be parsed .*unpack it again"):
        load(tmp_path)
