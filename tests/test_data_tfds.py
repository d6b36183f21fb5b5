"""TensorFlow Datasets sets of shapes that the archives' builders do not have."""

import numpy as np
import pytest

from keras_apinet.data import load
from keras_apinet.data.sources import tfds as tfds_source
from keras_apinet.errors import APINetError

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def store(tmp_path):
    """Stores labels, split by split, as a set `tiny`; the images show their number."""
    import tensorflow_datasets as tfds

    def run(splits, image="image", **others):
        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                label = tfds.features.ClassLabel(names=["a", "b"])
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {image: tfds.features.Image(), "label": label} | others
                    ),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(n) for name, n in splits.items()}

            def _generate_examples(self, labels):
                for i, label in enumerate(labels):
                    pixels = np.full((4, 5, 3), i, np.uint8)
                    given = dict.fromkeys((image, *others), pixels)
                    if "bbox" in others:
                        given["bbox"] = tfds.features.BBox(0.0, 0.25, 0.5, 0.75)
                    yield i, given | {"label": label}

        Tiny(data_dir=str(tmp_path)).download_and_prepare()
        return tmp_path

    return run


def test_images_without_labels_are_left_out_and_told(store):
    """The test images of iNaturalist 2021 have the label -1."""
    folder = store({"train": [0, 1, 1, -1], "val": [1, 0], "test": [-1, -1]})
    with pytest.warns(UserWarning, match="have no label and are left out") as told:
        data = load("tfds:tiny", data_dir=folder, validation=0)
    assert [str(w.message)[:40] for w in told] == [
        "1 of 4 images of tfds:tiny/train have no",
        "2 of 2 images of tfds:tiny/test have no ",
    ]
    assert data.splits["train"].labels.tolist() == [0, 1, 1]
    # What is left to report on is the validation split: it chooses no model.
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert data.splits["test"].reference(1) == "tfds:tiny/val#1"
    assert "val" not in data.splits


def test_a_set_without_test_images_is_tested_on_its_validation_split(store):
    """As Food-101 is; validation images come out of the training split."""
    folder = store({"train": [0, 1] * 10, "validation": [0, 1]})
    data = load("tfds:tiny", data_dir=folder, validation=0.2, group_by="none")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 2,
    }
    assert data.held_out["from"] == "train"
    assert data.splits["test"].read(1).tolist() == np.full((4, 5, 3), 1).tolist()


def test_labels_are_read_once_and_kept_beside_the_set(store, monkeypatch):
    import tensorflow_datasets as tfds

    box = tfds.features.BBoxFeature()
    folder = store({"train": [0, 1, 1]}, bbox=box)
    first = load("tfds:tiny", data_dir=folder, validation=0).splits["train"]
    kept = next(folder.rglob("keras_apinet_train_label.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(tfds_source.RecordReader, "examples", None)
        again = load("tfds:tiny", data_dir=folder, validation=0).splits["train"]
    assert again.labels.tolist() == first.labels.tolist() == [0, 1, 1]
    # Drawn by top, left, bottom, right; kept as left, top, right, bottom.
    assert again.boxes.tolist() == first.boxes.tolist() == [[0.25, 0, 0.75, 0.5]] * 3
    for damage in (b"", b"PK broken", kept.read_bytes()[:100]):
        kept.write_bytes(damage)
        again = load("tfds:tiny", data_dir=folder, validation=0).splits["train"]
        assert again.labels.tolist() == [0, 1, 1]


def test_the_image_is_the_one_that_is_called_so(store):
    import tensorflow_datasets as tfds

    folder = store({"train": [0, 1]}, mask=tfds.features.Image())
    assert len(load("tfds:tiny", data_dir=folder, validation=0).splits["train"]) == 2


def test_a_set_without_a_single_image_is_told(store):
    import tensorflow_datasets as tfds

    folder = store({"train": [0]}, image="left", right=tfds.features.Image())
    with pytest.raises(APINetError, match=r"no single image .*left"):
        load("tfds:tiny", data_dir=folder)


@pytest.mark.slow
def test_the_real_builder_over_real_birds_gives_what_the_folder_does(shared, tmp_path):
    from benchmarks import tfds_birds

    birds = shared / "data/CUB_200_2011"
    archives = tfds_birds.write_archives(birds, tmp_path / "archives", classes=3)
    tfds_birds.prepare(archives, tmp_path / "tfds")
    stored, count = tfds_birds.compared(birds, tmp_path / "tfds")
    lines = (birds / "images.txt").read_text().splitlines()
    assert count == sum(line.split()[1][:3] in {"001", "002", "003"} for line in lines)
    weights = str(shared / "weights/efficientnet_lite0_imagenet_notop.weights.h5")
    stored.splits["train"] = stored.splits["train"].take(np.arange(48))
    _, history = tfds_birds.trained(stored, weights, 64)
    assert np.isfinite(history["loss"]).all()
