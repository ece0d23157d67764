"""Trained models on disk: which are reused, which are trained again and why, and what their files hold.

tests/test_reuse.py tries which changes of code count.
"""

import json
import shutil
import zipfile

import numpy as np
import pytest
from conftest import flip_bits

import deep_learning
from lab.guard.errors import LabError
from lab.study import command_line
from lab.study.provenance import arrays_digest
from lab.study.records import Checkpoint, Run, load_saved
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
    arguments = "--seed", "1", "--batch-size", "64", "--learning-rate", "0.01"
    assert load_or_train(saved, *arguments)[2]
    differs = "batch_size, learning_rate, seed"
    assert caplog.messages[0] == f"training: {saved} is from a training with different {differs}"
    assert not load_or_train(saved, *arguments)[2]


@pytest.mark.fault("results", "model that is corrupt, or of another training than its record: trained again")
@pytest.mark.parametrize(
    ("script", "size", "reason"),
    [
        ("deep_learning", 5_000, ": not a Keras model that can be loaded safely"),
        ("deep_learning_conv", None, " and its record are from two different trainings"),  # a kill between the two
    ],
)
def test_a_model_that_is_corrupt_or_not_the_records_is_trained_again(saved, smoke_saves, caplog, script, size, reason):
    before = json.loads(saved.with_suffix(".json").read_text())
    saved.write_bytes((smoke_saves[0] / "smoke" / f"{script}.keras").read_bytes()[:size])
    _, record, trained = load_or_train(saved)
    assert trained
    assert caplog.messages[0].startswith(f"training: {saved}{reason}")
    assert record["weights_sha256"] == before["weights_sha256"]


DECIDED_BY = ("epochs", "seed", "training_code", "script", "keras")  # some of what is in a record


@pytest.fixture
def reuse(saved):
    """Return a function that returns the saved model and its record if they are reused; otherwise why not, a text."""
    record = json.loads(saved.with_suffix(".json").read_text())

    def reuse():
        try:
            return load_saved(saved, {name: record[name] for name in DECIDED_BY})
        except LabError as error:
            return str(error)

    assert reuse()[1] == record
    return reuse


@pytest.mark.parametrize("arrays", [{"labels": np.zeros(3)}, {"names": np.array(["a", None])}])
def test_arrays_that_a_run_cannot_hold_are_refused(tmp_path, arrays):
    with pytest.raises(LabError, match=f"an array called {next(iter(arrays))}, of "):
        Run({}, arrays, np.zeros(3)).save(tmp_path / "run.npz")


@pytest.mark.fault("results", "corrupt or missing record: trained again")
def test_what_is_not_a_whole_record_is_not_used(saved, reuse, soak, count_cases):
    path = saved.with_suffix(".json")
    whole = path.read_bytes()
    lengths = np.linspace(0, len(whole) - 2, 500 if soak else 30, endpoint=False, dtype=int)
    contents = [b"[]", b"null", b"0", b'"seed"', b"\xff", b"\0", *(whole[:length] for length in lengths)]
    for content in contents:
        path.write_bytes(content)
        assert reuse() == f"no usable record {path}"
    others = [(key, value) for key in ("training_code", "weights_sha256") for value in (None, 0, [], {}, "x")]
    for key, value in others:
        path.write_text(json.dumps({**json.loads(whole), key: value}))
        assert reuse().startswith(f"{saved} ")
    path.unlink()
    assert reuse() == f"no usable record {path}"
    count_cases(len(contents) + len(others) + 1)


@pytest.mark.fault("results", "record or model with a bit flipped: the same, or trained again")
@pytest.mark.parametrize(("suffix", "flips"), [(".json", 100), (".keras", 30)])
def test_a_flipped_bit_is_noticed_or_does_not_matter(saved, reuse, splits, soak, count_cases, suffix, flips):
    images = splits[1].images[:10]
    model, record = reuse()
    before, path = predict(model, images), saved.with_suffix(suffix)
    for _ in flip_bits(path, 8 * path.stat().st_size // (flips * 20 if soak else flips) | 1, count_cases):
        reused = reuse()
        if not isinstance(reused, str):
            assert all(reused[1][name] == record[name] for name in (*DECIDED_BY, "weights_sha256"))
            if suffix == ".keras":
                np.testing.assert_array_equal(predict(reused[0], images), before)


@pytest.mark.fault("results", "place that cannot be written: known before training")
def test_a_place_that_cannot_be_written_is_known_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="cannot write"):
        command_line.parse_arguments(deep_learning.train, ["--smoke", "--save", str(tmp_path / "file" / "x.keras")])


def test_a_checkpoint_is_for_one_training_and_not_resumed_if_it_is_corrupt_or_of_another(tmp_path, caplog):
    import keras

    variables = [keras.Variable(np.arange(3.0)), keras.Variable(np.zeros((2, 2)))]
    history = {"accuracy": [0.5], "loss": [1.0], "seconds": [2.0]}
    path = tmp_path / "x.checkpoint.npz"
    assert Checkpoint(path, {"seed": 0}, resume=True).restore([]) is None  # there is none
    Checkpoint(path, {"seed": 0}, resume=False).save(history, variables)
    others = [keras.Variable(np.ones(3)), keras.Variable(np.ones((2, 2)))]
    assert Checkpoint(path, {"seed": 0}, resume=False).restore(others) is None
    assert Checkpoint(path, {"seed": 1}, resume=True).restore(others) is None
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert Checkpoint(path, {"seed": 0}, resume=True).restore(others) is None
    of_another, corrupt = caplog.messages
    assert of_another.endswith(" is of a training with different seed")
    assert ": corrupt (" in corrupt
    path.write_bytes(whole)
    assert all((each.numpy() == 1).all() for each in others)
    checkpoint = Checkpoint(path, {"seed": 0}, resume=True)
    assert checkpoint.restore(others) == history
    np.testing.assert_array_equal(others[0].numpy(), [0, 1, 2])
    with pytest.raises(LabError, match="for one call of fit"):
        checkpoint.restore(others)


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
