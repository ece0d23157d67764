"""Trained models on disk: which are reused, which are trained again and why, and what their files hold.

tests/test_reuse.py tries which changes of code count. tests/faults/test_result_faults.py has more corrupt files.
"""

import json
import shutil
import zipfile

import numpy as np
import pytest

import deep_learning
from lab.guard.errors import LabError
from lab.study import command_line
from lab.study.provenance import arrays_digest
from lab.study.records import Checkpoint
from lab.training.predictions import predict


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return the path of a copy of the dense model that --smoke has saved, with its record beside it."""
    (tmp_path / "smoke").mkdir()
    for suffix in ("keras", "json"):
        shutil.copy(smoke_saves[0] / "smoke" / f"deep_learning.{suffix}", tmp_path / "smoke")
    return tmp_path / "smoke" / "deep_learning.keras"


def load_or_train(path, *arguments):
    """Load or train the dense model with --smoke and other arguments; return model, record, whether it was trained."""
    arguments = ["--smoke", "--output-dir", str(path.parent.parent), *arguments]
    options = command_line.parse(command_line.figure_parser("A script."), arguments)
    before = path.stat().st_mtime_ns
    model, record = command_line.load_or_train(deep_learning.train, options)
    assert record["weights_sha256"] == arrays_digest(model.get_weights())
    assert json.loads(path.with_suffix(".json").read_text()) == json.loads(json.dumps(record))
    return model, record, path.stat().st_mtime_ns != before


def test_the_same_training_is_reused(saved, splits, caplog):
    caplog.set_level("INFO")
    model, record, trained = load_or_train(saved)
    assert not trained
    assert f"reused: {saved}" in caplog.text
    images, labels = splits[1].first(500)
    assert record["test_accuracy"] == pytest.approx((predict(model, images).argmax(axis=1) == labels).mean())


def test_retrain_trains_again_to_the_same_weights(saved):
    before = json.loads(saved.with_suffix(".json").read_text())
    _, record, trained = load_or_train(saved, "--retrain")
    assert trained
    assert record["weights_sha256"] == before["weights_sha256"]
    assert sorted(path.name for path in saved.parent.iterdir()) == ["deep_learning.json", "deep_learning.keras"]


def test_another_seed_or_recipe_is_trained_again_and_named(saved, caplog):
    caplog.set_level("INFO")
    arguments = "--seed", "1", "--batch-size", "64", "--learning-rate", "0.01"
    assert load_or_train(saved, *arguments)[2]
    differs = "batch_size, learning_rate, seed"
    assert caplog.messages[0] == f"training: {saved} is from a training with different {differs}"
    assert not load_or_train(saved, *arguments)[2]


@pytest.mark.fault("results", "corrupt model: trained again")
def test_a_corrupt_model_is_trained_again(saved, caplog):
    before = json.loads(saved.with_suffix(".json").read_text())
    saved.write_bytes(saved.read_bytes()[:5_000])
    caplog.set_level("INFO")
    _, record, trained = load_or_train(saved)
    assert trained
    assert caplog.messages[0].startswith(f"training: {saved}: not a Keras model that can be loaded safely")
    assert record["weights_sha256"] == before["weights_sha256"]


@pytest.mark.fault("results", "model and record from two trainings: trained again")
def test_a_kill_between_model_and_record_is_noticed(saved, smoke_saves, caplog):
    shutil.copy(smoke_saves[0] / "smoke" / "deep_learning_conv.keras", saved)
    caplog.set_level("INFO")
    assert load_or_train(saved)[2]
    assert caplog.messages[0] == f"training: {saved} and its record are from two different trainings"


@pytest.mark.fault("results", "place that cannot be written: known before training")
@pytest.mark.parametrize(
    "path",
    ["file/x.keras", "folder.keras", f"{'x' * 300}.keras", f"{'x/' * 3_000}x.keras"],
    ids=["below a file", "a folder", "long name", "long path"],
)
def test_a_place_that_cannot_be_written_is_known_before_training(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(LabError, match=r"cannot write|is a folder"):
        command_line.parse_arguments(deep_learning.train, ["--smoke", "--save", str(tmp_path / path)])


def test_a_checkpoint_of_another_training_or_model_is_not_resumed(tmp_path, caplog):
    import keras

    variables = [keras.Variable(np.arange(3.0)), keras.Variable(np.zeros((2, 2)))]
    history = {"accuracy": [0.5], "loss": [1.0], "seconds": [2.0]}
    path = tmp_path / "x.checkpoint.npz"
    Checkpoint(path, lambda: {"seed": 0}, resume=False).save(history, variables)
    others = [keras.Variable(np.ones(3)), keras.Variable(np.ones((2, 2)))]
    assert Checkpoint(path, lambda: {"seed": 0}, resume=False).restore(others) is None
    assert Checkpoint(path, lambda: {"seed": 1}, resume=True).restore(others) is None
    assert Checkpoint(path, lambda: {"seed": 0}, resume=True).restore(others[:1]) is None
    assert [each.partition("different ")[2] for each in caplog.messages] == ["seed", "variables"]
    assert all((each.numpy() == 1).all() for each in others)
    assert Checkpoint(path, lambda: {"seed": 0}, resume=True).restore(others) == history
    np.testing.assert_array_equal(others[0].numpy(), [0, 1, 2])


def test_a_saved_model_needs_nothing_of_this_project(saved, splits):
    import keras

    model = keras.models.load_model(saved)
    assert model.optimizer.name == "adam"
    assert int(model.optimizer.iterations) == 63
    with zipfile.ZipFile(saved) as archive:
        assert "lab." not in archive.read("config.json").decode()
    images, labels = splits[1].first(500)
    loss, accuracy = model.evaluate(images / np.float32(255), labels, verbose=0)
    record = json.loads(saved.with_suffix(".json").read_text())
    assert (loss, accuracy) == pytest.approx((record["test_loss"], record["test_accuracy"]), rel=1e-5)


def test_a_record_says_what_decided_the_training_and_what_came_of_it(saved):
    record = json.loads(saved.with_suffix(".json").read_text())
    expected = {"epochs": 1, "batch_size": 32, "seed": 0, "data_set": "fashion-mnist", "threads": 2, "test_images": 500}
    expected |= {"parameters": 101_770, "epochs_done": 1, "train_images": 2_000, "training_path": "XLA loop"}
    assert {name: record[name] for name in expected} == expected
    assert record["optimizer"]["class_name"] == "Adam"
    assert {name: len(values) for name, values in record["history"].items()} == {"accuracy": 1, "loss": 1, "seconds": 1}
    assert record.keys() >= {"commit", "dirty", "date", "processor", "python", "tensorflow", "training_code"}
