"""The benchmarks' own arithmetic and bookkeeping; nothing here measures."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import reference
from scipy import stats

from benchmarks import accuracy, hostile, results, trainings, variants
from benchmarks.__main__ import commands
from benchmarks.ablation import ARMS
from benchmarks.mining import exponent
from benchmarks.turns import in_turns, medians
from keras_apinet.train import Recipe
from keras_apinet.train.recipe_files import read_settings

pytestmark = pytest.mark.one_backend
# A run says which backbone it has.
RECIPE = Recipe(backbone="tiny")


def test_pages_agree_with_the_recorded_figures():
    records = results.recorded()
    assert results.PAGE.read_text("utf-8") == results.page(records)
    assert results.readme_block(records) in results.README.read_text("utf-8")
    quantisation = (results.README.parent / "docs" / "quantisation.md").read_text(
        "utf-8"
    )
    phone = [one for one in records if one["name"] == "phone"]
    assert {one["variant"] for one in phone} == {"grocery_store", "CUB_200_2011"}
    for one in phone:
        assert results.table(one["columns"], one["rows"]) in quantisation


def test_records_hold_no_paths_of_a_machine():
    for path in results.FOLDER.glob("*.json"):
        words = json.loads(path.read_text("utf-8"))["command"].replace("=", " ").split()
        assert not [word for word in words if word.startswith(("/", "~", ".."))]


def test_a_record_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    arguments = ["--data", "../elsewhere/photos", "--set", "weights=/home/me/w.h5"]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--arms", "self only"])
    path = results.record(
        *("head", "Speed", ["a", "b"], [["c", 1.5]], "Why."),
        variant="jax, 3 px",
        headline={"ratio": "0.5"},
    )
    assert path.name == "head_jax_3_px.json"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    page = results.page(results.recorded())
    assert "| a | b |\n| --- | --- |\n| c | 1.5 |\n" in page
    assert (
        "KERAS_BACKEND=tensorflow python -m benchmarks.head --data photos "
        "--set weights=w.h5 --arms 'self only'"
    ) in page
    results.record("parts", "Parts", ["a", "b"], [["d", 2.5]])
    page = results.page(results.recorded())
    assert "- Parts, " in page
    assert "| d | 2.5 |" not in page
    block = results.readme_block(results.recorded())
    assert "| ratio | 0.5 | `head` |" in block
    readme = f"before\n{results.MARKS[0]}\nold\n{results.MARKS[1]}\nafter\n"
    assert results.with_block(readme, block) == f"before\n{block}\nafter\n"


def test_exponent_of_the_last_points():
    """y = 5 x**1.5 from the second point on; the first lies far off."""
    sizes = [1, 10, 100, 1000]
    assert exponent(sizes, [99, *(5 * x**1.5 for x in sizes[1:])]) == pytest.approx(1.5)


def test_turns_change_who_is_first():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = in_turns(runs, rounds=3, warm_up=1)
    assert calls == list("abbaabba")
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    assert medians({"a": [3.0, 1.0, 2.0]}) == {"a": 2.0}


def test_interval_of_a_paired_difference(rng):
    first, second = rng.normal(0.8, 0.02, 3), rng.normal(0.7, 0.02, 3)
    mean, low, high = trainings.difference(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert mean == pytest.approx((first - second).mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(trainings.difference(first[:1], second[:1])[1:]).all()


def test_arms_are_recipes_that_differ():
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    shared = read_settings(trainings.RECIPE)
    made = {(Recipe(**{**shared, **arm.changes}), arm.variant) for arm in ARMS}
    assert len(made) == len(ARMS)
    assert {arm.variant for arm in ARMS} <= set(variants.VARIANTS)


@pytest.mark.parametrize("quick", [True, False])
def test_commands_name_benchmarks(quick):
    for _, line in commands(quick, "--data photos", "runs"):
        assert (results.HERE / f"{line.split()[0]}.py").is_file()


@pytest.fixture
def child(monkeypatch):
    """In place of the child process: writes what it would, and notes that it ran."""
    ran = []
    shares = {"top1": 0.25, "mean_per_class_accuracy": 0.125}
    metrics = {name: {**hostile.FIGURE, "value": x} for name, x in shares.items()}
    evaluated = {
        **hostile.EVALUATION,
        "metrics": {**hostile.EVALUATION["metrics"], **metrics},
    }

    def run(command):
        folder = trainings.Path(command[3])
        ran.append("resume" if (folder / "run.json").exists() else "train")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in {
            "run.json": {**hostile.RUN, "settings": json.loads(command[5])},
            "training.json": {"val_accuracy": 0.5},
            "evaluation_test.json": evaluated,
        }.items():
            (folder / name).write_text(json.dumps(content))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(trainings.subprocess, "run", run)
    return ran


def test_finished_runs_are_skipped_and_others_gone_on_with(tmp_path, child):
    arms = [trainings.Arm("a"), trainings.Arm("b", {"method": "baseline"})]
    found = trainings.measured(RECIPE, arms, [0, 1], tmp_path)
    assert child == ["train"] * 4
    assert found["b"]["top1"].tolist() == [0.25, 0.25]
    assert found["a"]["val_top1"].tolist() == [0.5, 0.5]
    (tmp_path / "b-1" / "evaluation_test.json").unlink()  # as a run that was cut off
    again = trainings.measured(RECIPE, arms, [0, 1], tmp_path)
    assert child == ["train"] * 4 + ["resume"]
    assert again["a"]["top1"].tolist() == found["a"]["top1"].tolist()
    with pytest.raises(SystemExit, match="other settings"):
        trainings.measured(Recipe(backbone="tiny", epochs=3), arms, [0], tmp_path)


def test_the_last_epoch_is_taken_where_asked(tmp_path, child):
    arm, folder = trainings.Arm("a"), tmp_path / "a-0"
    folder.mkdir()
    (folder / "log.csv").write_text("epoch,val_accuracy\n1,0.9\n2,0.75\n")
    found = trainings.measured(RECIPE, [arm], [0], tmp_path, which="last")
    assert found["a"]["val_top1"].tolist() == [0.75]
    found = trainings.measured(RECIPE, [arm], [0], tmp_path)
    assert found["a"]["val_top1"].tolist() == [0.5]


def test_the_child_resumes_what_is_there(tmp_path, monkeypatch):
    """A run folder without evaluation is resumed, a new one trained, then evaluated."""
    import keras_apinet.train

    called = []

    def note(name):
        return lambda *args, **kwargs: called.append(name)

    for module, name in (
        (keras_apinet.train, "train"),
        (keras_apinet.train, "resume"),
        (trainings, "tested"),
    ):
        monkeypatch.setattr(module, name, note(name), raising=False)
    trainings.main(str(tmp_path), "", "{}")
    (tmp_path / "run.json").write_text("{}")
    trainings.main(str(tmp_path), "", "{}")
    assert called == ["train", "tested", "resume", "tested"]
    trainings.main(str(tmp_path), "", "{}", "untested")
    assert called[4:] == ["resume"]


def test_variants_change_what_they_say(monkeypatch, rng):
    from keras_apinet.layers import interaction
    from keras_apinet.losses import PairwiseLoss

    monkeypatch.setattr(interaction, "interact", interaction.interact)
    monkeypatch.setattr(PairwiseLoss, "terms", PairwiseLoss.terms)
    variants.without_gates()
    x1, x2, mutual = rng.normal(size=(3, 4, 5)).astype("float32")
    features = interaction.interact(x1, x2, mutual)
    for found, expected in zip(features, (x1, x1, x2, x2)):
        np.testing.assert_array_equal(found, expected)
    variants.self_only()
    labels, logits = np.array([0, 2, 1]), rng.normal(size=(3, 2, 4))
    cross_entropy, ranking = PairwiseLoss().terms(labels, logits)
    expected = [-np.log(reference.softmax(row[0])[c]) for row, c in zip(logits, labels)]
    np.testing.assert_allclose(np.asarray(cross_entropy), expected, rtol=1e-5)
    assert not np.asarray(ranking).any()


def test_a_relu_bends_the_mutual_mlp(monkeypatch, rng):
    from keras_apinet.layers import AttentivePairwiseInteraction as Interaction

    monkeypatch.setattr(Interaction, "__init__", Interaction.__init__)
    variants.nonlinear_mutual()
    layer = Interaction(mutual_units=3, dropout_rate=0.5)
    x1, x2 = rng.normal(size=(2, 4, 5)).astype("float32")
    gated = np.asarray(layer(x1, x2)[0])
    w1, b1, w2, b2 = (np.asarray(w) for w in layer.weights[:4])
    hidden = np.maximum(np.concatenate([x1, x2], axis=1) @ w1 + b1, 0)
    gate = 1 / (1 + np.exp(-(hidden @ w2 + b2) * x1))
    np.testing.assert_allclose(gated, x1 * (1 + gate), rtol=1e-4, atol=1e-5)


def test_gates_before_pooling_open_at_each_place(monkeypatch, rng):
    import keras

    import keras_apinet

    monkeypatch.setattr(keras_apinet.APINet, "_pairwise", keras_apinet.APINet._pairwise)
    variants.gates_before_pooling()
    inputs = keras.Input((2, 3, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(5, 1)(inputs))
    model = keras_apinet.APINet(network, 3, mutual_units=4, dropout_rate=0.0)
    kernel, bias = rng.normal(size=(3, 5)), rng.normal(size=5)
    network.layers[-1].set_weights([kernel[None, None], bias])
    images, labels = rng.normal(size=(6, 2, 3, 3)).astype("float32"), np.arange(6) % 3
    maps = images @ kernel + bias
    found = model((images, labels), training=False)
    i, j = np.split(np.asarray(found["images"]), 2)
    w1, b1, w2, b2 = (np.asarray(w) for w in model.interaction.weights[:4])
    kernel, bias = (np.asarray(w) for w in model.classifier.weights)
    for row, (a, b) in enumerate(zip(i, j)):
        x, y = maps[a].reshape(6, 5), maps[b].reshape(6, 5)
        pair = np.concatenate([x.mean(0), y.mean(0)])
        mutual = (pair @ w1 + b1) @ w2 + b2
        gate_x, gate_y = 1 / (1 + np.exp(-mutual * x)), 1 / (1 + np.exp(-mutual * y))
        features = [(x * (1 + gate_x)).mean(0), x.mean(0) * (1 + gate_y.mean(0))]
        logits = np.stack(features) @ kernel + bias
        np.testing.assert_allclose(found["pair_logits"][row], logits, atol=1e-4)


def test_a_temperature_divides_the_logits_of_pairs(monkeypatch, rng):
    from keras_apinet.losses import PairwiseLoss

    monkeypatch.setattr(PairwiseLoss, "terms", PairwiseLoss.terms)
    variants.temperature(2.0)()
    labels, logits = np.array([0, 2]), rng.normal(size=(2, 2, 4))
    found = np.asarray(PairwiseLoss().terms(labels, logits)[0])
    scores = [[reference.softmax(r / 2)[c] for r in z] for z, c in zip(logits, labels)]
    np.testing.assert_allclose(found, -np.log(scores).mean(axis=1), rtol=1e-5)


def test_cross_entropy_among_the_likeliest_classes(monkeypatch, rng):
    from keras_apinet import losses

    plain = losses.label_log_probabilities
    monkeypatch.setattr(losses, "label_log_probabilities", plain)
    variants.likeliest_classes(2)()
    labels, logits = np.array([0, 2]), rng.normal(size=(2, 2, 5))
    found = np.asarray(losses.PairwiseLoss().terms(labels, logits)[0])
    expected = []
    for label, rows in zip(labels, logits):
        for row in rows:
            others = sorted(np.delete(row, label))[-2:]
            expected.append(-np.log(reference.softmax(np.array([row[label], *others]))))
    expected = np.array(expected)[:, 0].reshape(2, 2).mean(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_each_image_has_several_partners_of_other_classes(monkeypatch):
    from keras_apinet.layers import PairMiner

    monkeypatch.setattr(PairMiner, "__init__", PairMiner.__init__)
    variants.inter_partners(3)()
    assert small_model().miner.num_partners == (1, 3)


def small_model():
    import keras

    import keras_apinet

    inputs = keras.Input((4, 4, 3))
    maps = keras.layers.Conv2D(5, 1, activation="relu")(inputs)
    network = keras.Model(inputs, keras.layers.Conv2D(5, 1)(maps))
    return keras_apinet.APINet(
        network, 3, mutual_units=4, dropout_rate=0.0, freeze_fraction=0.5
    )


@pytest.mark.parametrize("pairs", [True, False])
def test_averaged_weights_teach_the_single_images(monkeypatch, rng, pairs):
    from keras_apinet import APINet
    from keras_apinet.losses import CrossEntropy, PairwiseLoss
    from keras_apinet.optimizers import LayerwiseAdamW

    model = small_model()
    loss = PairwiseLoss(single_image_weight=1.0) if pairs else CrossEntropy()
    model.compile(LayerwiseAdamW(use_ema=True, ema_momentum=0.5), loss=loss)
    model.build_metrics()
    model.optimizer.build(model.trainable_variables)
    maps = {"frozen": rng.normal(size=(4, 4, 4, 5)).astype("float32")}
    labels = np.array([0, 0, 1, 1])
    for average in model.optimizer.averages:
        average.assign(rng.normal(size=average.shape))
    inputs = (maps, labels) if pairs else maps
    outputs = model(inputs, training=True)
    plain = float(model.compute_loss(inputs, labels, outputs))
    monkeypatch.setattr(APINet, "compute_loss", APINet.compute_loss)
    variants.averaged_teacher()
    taught = float(model.compute_loss(inputs, labels, outputs))
    own = model.predict(maps, verbose=0)
    for variable in model.trainable_variables:
        average = model.optimizer.slot(model.optimizer.averages, variable)
        variable.assign(average)
    teacher = model.predict(maps, verbose=0)
    expected = np.mean(
        [
            -np.dot(reference.softmax(slow), np.log(reference.softmax(row)))
            for slow, row in zip(teacher, own)
        ]
    )
    assert taught - plain == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("boxes", [True, False])
def test_mixed_maps_have_mixed_labels(monkeypatch, boxes):
    """Maps that hold their own one-hot label show what they were mixed of."""
    from keras_apinet import APINet

    monkeypatch.setattr(APINet, "train_step", lambda self, data: data)
    monkeypatch.setattr(APINet, "compute_metrics", APINet.compute_metrics)
    variants.mixed(boxes)()
    labels = np.arange(6)
    maps = np.broadcast_to(np.eye(6, dtype="float32")[:, None, None], (6, 4, 4, 6))
    model = SimpleNamespace(num_classes=6)
    mixing = APINet.train_step
    features = {"features": np.zeros((6, 2))}
    assert mixing(model, (features, labels))[0] is features
    shares = set()
    for _ in range(8):
        found, soft = mixing(model, ({"frozen": maps}, labels))
        found, soft = np.asarray(found["frozen"]), np.asarray(soft)
        np.testing.assert_allclose(found.mean(axis=(1, 2)), soft, atol=1e-6)
        assert (soft.argmax(axis=1) == labels).all()
        assert np.isin(found, [0, 1]).all() == boxes or soft.max() == 1
        shares.add(round(float(soft.max(axis=1).min()), 6))
    assert len(shares) > 2


def test_a_model_trains_on_mixed_maps(monkeypatch, rng):
    from keras_apinet import APINet
    from keras_apinet.losses import PairwiseLoss

    monkeypatch.setattr(APINet, "train_step", APINet.train_step)
    monkeypatch.setattr(APINet, "compute_metrics", APINet.compute_metrics)
    variants.mixed(boxes=True)()
    model = small_model()
    model.compile(
        "adamw", loss=PairwiseLoss(single_image_weight=1.0), metrics=["accuracy"]
    )
    model.build_metrics()
    maps = {"frozen": rng.normal(size=(8, 4, 4, 5)).astype("float32")}
    history = model.fit(maps, np.arange(8) // 3, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert 0 <= history.history["accuracy"][0] <= 1


def test_classes_that_look_alike_meet_as_often_as_others_would(monkeypatch):
    """Eight classes in two directions: a batch of four is of one of them."""
    from types import SimpleNamespace

    from keras_apinet.train.setup import Setup

    labels = np.repeat(np.arange(8), 4)
    features = np.eye(2)[labels % 2] + 0.01 * np.eye(8)[labels, :2]
    setup = SimpleNamespace(
        recipe=Recipe(classes_per_batch=4, images_per_class=2),
        images=SimpleNamespace(splits={"train": None}, class_names=list("abcdefgh")),
        model=SimpleNamespace(feature_model=lambda: None),
        classes_per_batch=lambda: 4,
        in_order=lambda split, on_error: (None, 0),
        outputs=lambda model, batches, size: [(features, labels)],
    )
    plain = Setup.plan(setup, labels)
    monkeypatch.setattr(Setup, "plan", Setup.plan)
    variants.look_alikes_meet()
    plan = Setup.plan(setup, labels)
    images = [plan.indices(0, step) for step in range(plan.epoch_steps)]
    for batch in images:
        assert len(set(labels[batch])) == 4
        assert len(set(labels[batch] % 2)) == 1
    before = [plain.indices(0, step) for step in range(plain.epoch_steps)]
    assert sorted(np.concatenate(images)) == sorted(np.concatenate(before))


def test_trainings_run_side_by_side_and_keep_their_order(tmp_path, child):
    arms = [trainings.Arm("a"), trainings.Arm("b", {"method": "baseline"})]
    found = trainings.measured(RECIPE, arms, [0, 1, 2], tmp_path, jobs=3)
    assert child == ["train"] * 6
    assert list(found) == ["a", "b"]
    assert found["a"]["top1"].tolist() == [0.25] * 3
    frozen = Recipe(
        backbone="tiny", freeze_fraction=0.5, cached_views=2, weights="w.h5"
    )
    trainings.measured(frozen, arms, [0], tmp_path / "frozen")
    described = json.loads((tmp_path / "frozen" / "b-0" / "run.json").read_text())
    assert described["settings"]["cached_views_dir"] == str(
        tmp_path / "frozen" / "views"
    )


def test_torch_head_is_the_paper(rng):
    """Without dropout, against loops over the equations."""
    torch = pytest.importorskip("torch")
    from benchmarks.torch_head import TorchHead, mine

    labels = np.repeat([0, 1, 2], 2)
    features = rng.normal(size=(6, 4)).astype("float32")
    anchors, partners, valid = reference.mine(features, labels)
    assert valid.all()
    np.testing.assert_array_equal(np.concatenate(mine(features, labels)), partners)

    head = TorchHead(4, 3, mutual_units=5, dropout_rate=0.0)
    w1, b1, w2, b2, w3, b3 = (
        p.detach().numpy().astype("float64").T for p in head.parameters()
    )
    gated = reference.interact(features[anchors], features[partners], w1, b1, w2, b2)
    logits = [x @ w3 + b3 for x in gated]
    total, _, _ = reference.pairwise_loss(
        np.concatenate([labels[anchors], labels[partners]]),
        np.concatenate([logits[0], logits[2]]),
        np.concatenate([logits[1], logits[3]]),
    )
    loss = head(torch.from_numpy(features), torch.from_numpy(labels))
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_families_are_judged_among_themselves(tmp_path):
    names = ["Field_Sparrow", "Fox_Sparrow", "Song_Sparrow", "Mallard"]
    (sparrows,) = accuracy.families(names)
    assert sparrows.tolist() == [0, 1, 2]
    labels = np.array([0, 1, 2, 3, 0])
    logits = np.zeros((5, 4))
    # Right, right but for the mallard, wrong, right, wrong.
    logits[0, 0] = logits[1, 1] = logits[2, 0] = logits[3, 3] = logits[4, 2] = 2
    logits[1, 3] = 3
    runs = []
    for name, found in (("a", logits), ("b", np.roll(logits, 1, axis=1))):
        folder = tmp_path / name
        folder.mkdir()
        given = {"logits": found, "labels": labels, "temperature": 1.0}
        np.savez(folder / "logits_test.npz", **given)
        runs.append(SimpleNamespace(folder=folder, class_names=names))
    whole, within, of_family = accuracy.answers(runs[:1])
    assert whole.right.tolist() == [[1, 0, 0, 1, 0]]
    assert within.right.tolist() == [[1, 1, 0, 0]]
    # The third: e^2 against e^0 and e^0 among three classes.
    assert within.nll[0, 2] == pytest.approx(np.log(np.exp(2) + 2))
    assert of_family.tolist() == [True, True, True, False, True]
    other = accuracy.answers(runs[1:])[0]
    ((word, photos, a, b, gain),) = accuracy.by_family(names, whole, other)
    assert (word, photos, a) == ("Sparrow (3)", 4, 0.25)
    assert gain == a - b


@pytest.mark.slow
def test_the_head_and_the_mining_are_measured(tmp_path, monkeypatch, capsys):
    from benchmarks import head, mining

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    sizes = ["--images", "8", "--channels", "16", "--classes", "4", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["head", *sizes])
    head.main()
    (record,) = json.loads(next(tmp_path.glob("head_*.json")).read_text())["rows"][1:]
    assert record[0] == "plain torch"
    assert "ratio " in capsys.readouterr().out
    found = mining.point(images=8, channels=16, classes=4, seconds=0)
    assert found["s"] > 0
    rows = mining.parts(images=8, channels=16, classes=4, rounds=1)
    assert len(rows) > 3
