"""Saved models and records that are corrupt, of other trainings, or where they cannot be read or written."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import flip_bits

from lab.guard.errors import LabError
from lab.study.records import Training
from lab.guard.models import load_model
from lab.training.recipe import SMOKE, predict


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return the path of a copy of the dense model that --smoke has saved, with its record beside it."""
    for name in ("fashion.keras", "fashion.json"):
        shutil.copy(smoke_saves[0] / "smoke" / name, tmp_path)
    return tmp_path / "fashion.keras"


@pytest.fixture
def load(saved):
    """Return a function that returns the saved model and its record if they are reused; otherwise None."""
    made_of = json.loads(saved.with_suffix(".json").read_text())["made_of"]

    def load():
        # what `train` returns comes from load_or_start if the model is not reused
        return Training(lambda training: None, saved, SMOKE, 0, None, lambda: made_of).load_or_start()

    assert load() is not None
    return load


@pytest.mark.fault("results", "corrupt or missing record: trained again")
@pytest.mark.parametrize("record", [b"", b"[]", b"null", b"0", b'"made_of"', b"\xff", b"\0", None])
def test_what_is_not_a_record_is_not_used(saved, load, record, caplog):
    path = saved.with_suffix(".json")
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    caplog.set_level("INFO")
    assert load() is None
    assert caplog.messages[-1] == f"training: no usable record {path}"


@pytest.mark.fault("results", "corrupt or missing record: trained again")
@pytest.mark.parametrize("key", ["made_of", "weights_sha256"])
@pytest.mark.parametrize("value", [None, 0, [], {}, "x"])
def test_a_record_with_another_value_is_not_used(saved, load, key, value):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert load() is None


@pytest.mark.fault("results", "corrupt or missing record: trained again")
def test_a_record_that_is_cut_off_is_not_used(saved, load, soak, count_cases):
    path = saved.with_suffix(".json")
    content = path.read_bytes()
    lengths = np.linspace(0, len(content) - 2, 500 if soak else 100, endpoint=False, dtype=int)
    for length in lengths:
        path.write_bytes(content[:length])
        assert load() is None
    count_cases(len(lengths))


@pytest.mark.fault("results", "record with a bit flipped: what decided the training is the same, or trained again")
def test_a_record_with_a_flipped_bit_is_not_of_another_training(saved, load, soak, count_cases):
    path = saved.with_suffix(".json")
    before = json.loads(path.read_text())
    for _ in flip_bits(path, 7 if soak else 101, count_cases):
        reused = load()
        if reused:
            assert {name: reused[1][name] for name in ("made_of", "weights_sha256")} == {
                name: before[name] for name in ("made_of", "weights_sha256")
            }


@pytest.mark.fault("results", "saved model with a bit flipped: the same predictions, or trained again")
def test_a_saved_model_with_a_flipped_bit_predicts_the_same_or_is_trained_again(saved, load, splits, soak, count_cases):
    images = splits[1].images[:10]
    before = predict(load_model(saved), images)
    for _ in flip_bits(saved, 8 * saved.stat().st_size // (1_000 if soak else 60) | 1, count_cases):
        model, _ = load() or (None, None)
        if model:
            np.testing.assert_array_equal(predict(model, images), before)


@pytest.mark.fault("results", "model and record from two trainings: trained again")
def test_another_model_beside_a_record_is_not_used(saved, load, smoke_saves, caplog):
    shutil.copy(smoke_saves[0] / "smoke" / "fashion_conv.keras", saved)
    caplog.set_level("INFO")
    assert load() is None
    assert caplog.messages[-1] == f"training: {saved} and its record are from two different trainings"


@pytest.mark.fault("results", "place that cannot be written: known before training")
def test_a_folder_without_permissions_is_known_before_training():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0)
        training = Training(lambda training: pytest.fail("trained"), closed / "x.keras", SMOKE, 0, None, dict)
        os.seteuid(user or 65_534)  # root may write everywhere
        try:
            for start in (training.start, training.load_or_start):
                with pytest.raises(LabError, match=r"cannot write .*ermission denied"):
                    start()
        finally:
            os.seteuid(user)
