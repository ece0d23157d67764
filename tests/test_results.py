"""Trained models on disk: which are reused, which are trained again and why, and what their files hold.

tests/test_reuse.py tries which changes of code count. tests/faults/test_result_faults.py has more corrupt files.
"""

import json
import shutil
import zipfile
from dataclasses import asdict

import numpy as np
import pytest

import deep_learning
from lab import cli
from lab.study.digests import arrays_digest
from lab.guard.errors import LabError
from lab.study.records import Training
from lab.training.recipe import SMOKE, predict


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return the path of a copy of the dense model that --smoke has saved, with its record beside it."""
    (tmp_path / "smoke").mkdir()
    for name in ("fashion.keras", "fashion.json"):
        shutil.copy(smoke_saves[0] / "smoke" / name, tmp_path / "smoke")
    return tmp_path / "smoke" / "fashion.keras"


def load_or_train(path, *arguments):
    """Load or train the dense model with --smoke and other arguments; return model, record, whether it was trained."""
    folder = path.parent.parent
    options = cli.parse(cli.figure_parser("A script."), ["--smoke", "--output-dir", str(folder), *arguments])
    before = path.stat().st_mtime_ns
    model, record = cli.load_or_train(deep_learning, options)
    assert record["weights_sha256"] == arrays_digest(model.get_weights())
    assert json.loads(path.with_suffix(".json").read_text()) == record
    return model, record, path.stat().st_mtime_ns != before


def test_the_same_training_is_reused(saved, splits, caplog):
    caplog.set_level("INFO")
    model, record, trained = load_or_train(saved)
    assert not trained
    assert f"reused: {saved}" in caplog.text
    images, labels = splits[1].first(500)
    assert record["test"]["accuracy"] == pytest.approx((predict(model, images).argmax(axis=1) == labels).mean())


def test_retrain_trains_again_to_the_same_weights(saved):
    before = json.loads(saved.with_suffix(".json").read_text())
    _, record, trained = load_or_train(saved, "--retrain")
    assert trained
    assert record["weights_sha256"] == before["weights_sha256"]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["fashion.json", "fashion.keras"]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--seed", "1"], "seed"),
        (["--learning-rate", "0.01"], "recipe (learning_rate)"),
        (["--seed", "1", "--batch-size", "64", "--epochs", "2"], "recipe (epochs, batch_size), seed"),
    ],
    ids=["seed", "recipe", "both"],
)
def test_another_seed_or_recipe_is_trained_again_and_named(saved, arguments, changed, caplog):
    caplog.set_level("INFO")
    assert load_or_train(saved, *arguments)[2]
    assert caplog.messages[0] == f"training: {saved} is from a training with different {changed}"
    assert not load_or_train(saved, *arguments)[2]


def test_another_model_is_trained_again_and_named(saved, caplog, monkeypatch):
    build_dense = deep_learning.build_model

    def build_model():
        model = build_dense()
        model.layers[2].rate = 0.3
        return model

    monkeypatch.setattr(deep_learning, "build_model", build_model)
    caplog.set_level("INFO")
    model, _, trained = load_or_train(saved)
    assert trained
    assert caplog.messages[0] == f"training: {saved} is from a training with different model code, model"
    assert model.layers[2].rate == 0.3
    assert not load_or_train(saved)[2]


@pytest.mark.fault("results", "corrupt model: trained again")
def test_a_corrupt_model_is_trained_again(saved, caplog):
    before = json.loads(saved.with_suffix(".json").read_text())
    saved.write_bytes(saved.read_bytes()[:5_000])
    caplog.set_level("INFO")
    _, record, trained = load_or_train(saved)
    assert trained
    assert caplog.messages[0].startswith(f"training: {saved}: not a Keras model that can be loaded safely")
    assert record["weights_sha256"] == before["weights_sha256"]


@pytest.mark.fault("results", "corrupt or missing record: trained again")
def test_a_model_with_a_corrupt_record_is_trained_again(saved, caplog):
    record_path = saved.with_suffix(".json")
    record_path.write_bytes(record_path.read_bytes()[:100])
    caplog.set_level("INFO")
    assert load_or_train(saved)[2]
    assert caplog.messages[0] == f"training: no usable record {record_path}"


@pytest.mark.fault("results", "model and record from two trainings: trained again")
def test_a_model_and_a_record_from_two_trainings_are_not_reused(saved, caplog):
    content = saved.read_bytes()
    load_or_train(saved, "--seed", "1")
    saved.write_bytes(content)
    caplog.set_level("INFO")
    caplog.clear()
    assert load_or_train(saved, "--seed", "1")[2]
    assert caplog.messages[0] == f"training: {saved} and its record are from two different trainings"


@pytest.mark.fault("results", "place that cannot be written: known before training")
@pytest.mark.parametrize(
    "path",
    ["file/fashion.keras", "folder.keras", f"{'x' * 300}.keras", f"{'x/' * 3_000}x.keras"],
    ids=["below a file", "a folder", "long name", "long path"],
)
def test_a_place_that_cannot_be_written_is_known_before_training(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.keras").mkdir()
    training = Training(lambda training: pytest.fail("trained"), tmp_path / path, SMOKE, 0, None, dict)
    for start in (training.start, training.load_or_start):
        with pytest.raises(LabError, match=r"cannot write|is a folder"):
            start()


def test_a_saved_model_needs_nothing_of_this_project(saved, splits):
    import keras

    model = keras.models.load_model(saved)
    assert model.optimizer.name == "adam"
    assert int(model.optimizer.iterations) == 63
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    assert "lab." not in config
    images, labels = splits[1].first(500)
    loss, accuracy = model.evaluate(images / np.float32(255), labels, verbose=0)
    record = json.loads(saved.with_suffix(".json").read_text())
    assert (loss, accuracy) == pytest.approx((record["test"]["loss"], record["test"]["accuracy"]), rel=1e-5)


def test_a_record_says_what_decided_the_training_and_what_came_of_it(saved):
    record = json.loads(saved.with_suffix(".json").read_text())
    assert record["made_of"]["recipe"] == asdict(SMOKE)
    assert record["made_of"]["seed"] == 0
    assert record["parameters"] == 101_770
    assert {name: len(values) for name, values in record["history"].items()} == {"accuracy": 1, "loss": 1, "seconds": 1}
    assert (record["train"]["n"], record["test"]["n"]) == (2_000, 500)
    assert record["environment"]["threads"] == 2
    assert record["environment"]["tensorflow"] == record["made_of"]["versions"]["tensorflow"]
