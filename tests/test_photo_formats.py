"""Every odd file through every entry to the classifier: the same answer, or a sentence.

`KERAS_APINET_WRITE_DOCS=1` writes the table of docs/photos.md anew.
"""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, Server, chromium
from factories import clear_classifier
from photo_files import SIDE, STORED, encoded, photos, picture, without_colour
from PIL import Image

import keras_apinet.export
from keras_apinet.data import (
    Split,
    balanced_batches,
    evaluation_batches,
    load,
    prepare,
    read_photo,
)
from keras_apinet.errors import APINetError
from keras_apinet.export import Exporter, load_classifier
from keras_apinet.export.formats import Target

pytestmark = pytest.mark.one_backend
PAGE = Path(__file__).parent.parent / "docs/photos.md"
SIZE = 32
ENTRIES = ("training", "evaluation", "predict", "TFLite", "SavedModel", "web page")


def centre(pixels):
    """7/8 of the square, as Pillow resizes it."""
    edge = SIDE // 16
    crop = Image.fromarray(pixels).crop((edge, edge, SIDE - edge, SIDE - edge))
    return np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """entry -> file -> probabilities, or the sentence."""
    folder = tmp_path_factory.mktemp("odd")
    # A classifier of mistakes: upright, turned in seven ways, black behind, negative.
    shown = picture()
    kinds = [
        np.ascontiguousarray(kind)
        for one in (shown, without_colour(shown))
        for kind in (
            *(STORED[k](one) for k in STORED),
            np.where(one == 255, 0, one),
            255 - one,
        )
    ]
    rng = np.random.default_rng(0)
    order = np.arange(len(kinds) * 6) % len(kinds)
    labels = order % (len(kinds) // 2)
    images = np.stack([centre(kinds[k]) for k in order])
    images = np.clip(images + rng.normal(0, 6, images.shape), 0, 255).astype("uint8")
    names = [f"kind {k}" for k in range(len(kinds) // 2)]
    model = clear_classifier(images, labels, names, weights=None)
    model.save(folder / "model.keras")
    targets = [
        Target.of(folder / "saved", "saved_model"),
        Target.of(folder / "model.tflite", "tflite"),
    ]
    Exporter(model, photos=images, verify=False).write(targets)
    files = {}
    for number, (name, content) in enumerate(photos().items()):
        # Endings do not matter: what a file is, its content says.
        files[name] = folder / f"{number}.jpg"
        files[name].write_bytes(content)
    tflite = load_classifier(folder / "model.tflite")
    tflite_answers = {n: of_predict(tflite, p) for n, p in files.items()}
    readable = [n for n, x in tflite_answers.items() if not isinstance(x, str)]
    found = {
        "TFLite": tflite_answers,
        "training": all_or_each(of_training, files, readable),
        "evaluation": all_or_each(of_evaluation, files, readable),
        "SavedModel": of_saved_model(folder / "saved", files),
        "web page": of_web_page(folder, files),
    }
    for entry in ("training", "evaluation", "web page"):
        images = {n: x for n, x in found[entry].items() if not isinstance(x, str)}
        if images:
            scores = tflite.probabilities(
                np.stack([x.reshape(SIZE, SIZE, 3) for x in images.values()])
            )
            found[entry] |= dict(zip(images, scores))
    keras_file = load_classifier(folder / "model.keras")
    found["predict"] = {n: of_predict(keras_file, p) for n, p in files.items()}
    return found


def of_predict(classifier, path):
    try:
        answer = dict(classifier.predict(path, top=99)[0])
    except APINetError as error:
        return str(error)
    return np.array([answer[name] for name in classifier.class_names])


def of_training(*paths):
    batches = balanced_batches(
        Split.of_files([str(path) for path in paths], range(len(paths))),
        classes_per_batch=len(paths),
        images_per_class=1,
        image_size=SIZE,
        augmentation="none",
        on_error="raise",
    )
    return delivered(batches)


def of_evaluation(*paths):
    split = Split.of_files([str(path) for path in paths], range(len(paths)))
    return delivered(evaluation_batches(split, image_size=SIZE))


def all_or_each(pixels_of, files, readable):
    """The good ones in one batch, where each has its own class; the others alone."""
    found = dict(zip(readable, pixels_of(*(files[name] for name in readable))))
    return found | {n: pixels_of(files[n]) for n in files if n not in found}


def delivered(batches):
    try:
        with batches.report:
            (images, labels), *_ = list(batches)
            return np.asarray(images)[np.argsort(labels)]
    except APINetError as error:
        return str(error)


def of_saved_model(folder, files):
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    contents = tf.constant([path.read_bytes() for path in files.values()])
    answer = model.signatures["serve_encoded"](encoded=contents)
    problems = [problem.decode() for problem in answer["problem"].numpy()]
    scores = answer["probabilities"].numpy()
    for row, problem in zip(scores, problems):
        assert np.isnan(row).all() == bool(problem)
    rows = (problem or row for row, problem in zip(scores, problems))
    return dict(zip(files, rows))


def of_web_page(folder, files):
    if chromium() is None:
        return {}
    page = Path(keras_apinet.export.__file__).parent / "page"
    for name in ("photo.js", "preparation.js"):
        (folder / name).write_bytes((page / name).read_bytes())
    (folder / "index.html").write_text("<!doctype html><title>odd files</title>")
    script = """(async (name) => {
        const { readPhoto } = await import("/photo.js");
        const { prepare } = await import("/preparation.js");
        const file = new File([await (await fetch(name)).arrayBuffer()], name);
        try { return [...prepare(await readPhoto(file), %d, "fit")]; }
        catch (error) { return error.message; }
    })(%r)"""
    found = {}
    with Server(folder) as server, Browser() as browser:
        browser.open(server.address)
        browser.until("document.title === 'odd files'")
        for name, path in files.items():
            answer = browser.run(script % (SIZE, path.name))
            if not isinstance(answer, str):
                answer = np.array(answer, np.uint8).reshape(SIZE, SIZE, 3)
            found[name] = answer
    return found


@pytest.mark.slow
def test_the_same_answer_or_one_sentence(answers):
    assert len(photos()) >= 40
    wrong = []
    for name in photos():
        truth = answers["predict"][name]
        for entry, rows in answers.items():
            answer = rows.get(name)
            if answer is None:  # no browser
                continue
            if isinstance(answer, str):
                if not answer or "\n" in answer or "Traceback" in answer:
                    wrong.append((name, entry, answer))
            elif isinstance(truth, str):
                wrong.append((name, entry, "an answer", truth))
            elif answer.argmax() != 0 or np.abs(answer - truth).max() > 1e-2:
                wrong.append(
                    (name, entry, int(answer.argmax()), np.round(answer - truth, 3))
                )
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.slow
def test_the_page_has_the_table(answers):
    head = f"| file | {' | '.join(ENTRIES)} |"
    lines = [head, "|---|" + ":-:|" * len(ENTRIES)]
    for name in photos():
        cells = []
        for entry in ENTRIES:
            answer = answers[entry].get(name)
            cells.append("-" if isinstance(answer, str) else "yes")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    begin, end = "<!-- formats -->\n", "<!-- /formats -->"
    text = PAGE.read_text("utf-8")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    if os.environ.get("KERAS_APINET_WRITE_DOCS"):
        PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + after, "utf-8")
    elif answers["web page"]:
        assert "\n".join(lines) in text


def test_what_is_not_a_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path / "loop.jpg"):
        for read in (read_photo, of_training_sentence):
            found = []
            work = {"target": sentence, "args": (read, path, found), "daemon": True}
            thread = threading.Thread(**work)
            thread.start()
            thread.join(60)
            assert found, f"{path} is waited for"
            assert str(path) in found[0]


def of_training_sentence(path):
    answer = of_training(path)
    if isinstance(answer, str):
        raise APINetError(answer)


def sentence(read, path, found):
    with pytest.raises(APINetError) as caught:
        read(path)
    found.append(str(caught.value))


def test_huge_files_are_refused_by_their_header(tmp_path):
    """Nothing of 900 million pixels is unpacked: the file holds none."""
    for name in ("PNG, 30,000 x 30,000", "JPEG, 65,500 x 65,500"):
        path = tmp_path / "huge.png"
        path.write_bytes(photos()[name])
        with pytest.raises(APINetError, match="110,000,000"):
            read_photo(path)
        assert "110,000,000" in of_training(path)


def test_scans_without_end_are_refused(tmp_path):
    content = photos()["JPEG, progressive"]
    scan = content.index(b"\xff\xda")
    path = tmp_path / "scans.jpg"
    path.write_bytes(content[:scan] + content[scan:-2] * 40 + content[-2:])
    with pytest.raises(APINetError, match="scans, but 100 is the most"):
        read_photo(path)
    assert "scans" in of_training(path)


def test_pictures_that_are_left_out_are_counted_and_named(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / label / "1.png")
        (tmp_path / label / "2.CR2").write_bytes(b"raw")
    (tmp_path / "a/3.svg").write_text("<svg/>")
    (tmp_path / "a/notes.txt").write_text("notes")
    notes = " ".join(load(tmp_path, validation=0).notes)
    assert "2 .cr2 (raw camera data: develop them to JPEG)" in notes
    assert "1 .svg" in notes
    assert ".txt" not in notes
    for label in "ab":
        (tmp_path / label / "1.png").unlink()
    with pytest.raises(APINetError, match=r"left out: 2 \.cr2"):
        load(tmp_path, validation=0)


def test_heic_with_the_extra(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    shown = picture()
    image = Image.fromarray(STORED[6](shown))
    written = heif.from_pillow(image)
    written.save(tmp_path / "phone.heic", quality=95)
    read = read_photo(tmp_path / "phone.heic").astype(int)
    assert np.abs(read - STORED[6](shown)).mean() < 4


def test_the_caller_may_write_into_a_photo(tmp_path):
    (tmp_path / "photo.png").write_bytes(encoded(picture(), "PNG"))
    pixels = read_photo(tmp_path / "photo.png")
    pixels[0] = 0
    assert prepare(pixels, SIZE).shape == (SIZE, SIZE, 3)


def test_a_film_behind_a_photo_is_no_scan(tmp_path):
    """Phones append one to motion photos; its bytes are of any kind."""
    content = photos()["JPEG, progressive"]
    (tmp_path / "motion.jpg").write_bytes(content + b"\0\xff\xda\x12" * 500)
    (tmp_path / "plain.jpg").write_bytes(content)
    both = [read_photo(tmp_path / f"{name}.jpg") for name in ("motion", "plain")]
    np.testing.assert_array_equal(*both)
