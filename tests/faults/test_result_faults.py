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
from lab.guard.files import require_writable
from lab.guard.models import load_model
from lab.study.records import load_saved
from lab.training.predictions import predict

DECIDED_BY = ("epochs", "seed", "training_code", "script", "keras")  # some of what is in a record


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return the path of a copy of the dense model that --smoke has saved, with its record beside it."""
    for suffix in ("keras", "json"):
        shutil.copy(smoke_saves[0] / "smoke" / f"deep_learning.{suffix}", tmp_path)
    return tmp_path / "deep_learning.keras"


@pytest.fixture
def load(saved):
    """Return a function that returns the saved model and its record if they are reused; otherwise why not, a text."""
    record = json.loads(saved.with_suffix(".json").read_text())
    provenance = {name: record[name] for name in DECIDED_BY}

    def load():
        try:
            return load_saved(saved, provenance)
        except LabError as error:
            return str(error)

    assert load()[1] == record
    return load


@pytest.mark.fault("results", "corrupt or missing record: trained again")
@pytest.mark.parametrize("record", [b"", b"[]", b"null", b"0", b'"seed"', b"\xff", b"\0", None])
def test_what_is_not_a_record_is_not_used(saved, load, record):
    path = saved.with_suffix(".json")
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    assert load() == f"no usable record {path}"


@pytest.mark.fault("results", "corrupt or missing record: trained again")
@pytest.mark.parametrize("key", ["training_code", "weights_sha256"])
@pytest.mark.parametrize("value", [None, 0, [], {}, "x"])
def test_a_record_with_another_value_is_not_used(saved, load, key, value):
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert load().startswith(f"{saved} ")


@pytest.mark.fault("results", "corrupt or missing record: trained again")
def test_a_record_that_is_cut_off_is_not_used(saved, load, soak, count_cases):
    path = saved.with_suffix(".json")
    content = path.read_bytes()
    lengths = np.linspace(0, len(content) - 2, 500 if soak else 100, endpoint=False, dtype=int)
    for length in lengths:
        path.write_bytes(content[:length])
        assert load() == f"no usable record {path}"
    count_cases(len(lengths))


@pytest.mark.fault("results", "record with a bit flipped: what decided the training is the same, or trained again")
def test_a_record_with_a_flipped_bit_is_not_of_another_training(saved, load, soak, count_cases):
    path = saved.with_suffix(".json")
    before = json.loads(path.read_text())
    for _ in flip_bits(path, 7 if soak else 101, count_cases):
        reused = load()
        if not isinstance(reused, str):
            assert {name: reused[1][name] for name in (*DECIDED_BY, "weights_sha256")} == {
                name: before[name] for name in (*DECIDED_BY, "weights_sha256")
            }


@pytest.mark.fault("results", "saved model with a bit flipped: the same predictions, or trained again")
def test_a_saved_model_with_a_flipped_bit_predicts_the_same_or_is_trained_again(saved, load, splits, soak, count_cases):
    images = splits[1].images[:10]
    before = predict(load_model(saved), images)
    for _ in flip_bits(saved, 8 * saved.stat().st_size // (1_000 if soak else 60) | 1, count_cases):
        reused = load()
        if not isinstance(reused, str):
            np.testing.assert_array_equal(predict(reused[0], images), before)


@pytest.mark.fault("results", "place that cannot be written: known before training")
def test_a_folder_without_permissions_is_known_before_training():
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0)
        os.seteuid(user or 65_534)  # root may write everywhere
        try:
            with pytest.raises(LabError, match=r"cannot write .*ermission denied"):
                require_writable(closed / "x.keras")
        finally:
            os.seteuid(user)
