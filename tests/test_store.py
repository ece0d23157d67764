import json
import shutil
import zipfile

import numpy as np
import pytest

import deep_learning
from lab import LabError, store
from lab.recipe import SMOKE, start_tensorflow, weights_digest


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return a copy of the dense model that --smoke saved, its record beside it."""
    for name in ("fashion.keras", "fashion.json"):
        shutil.copy(smoke_saves[0] / "smoke" / name, tmp_path)
    return tmp_path / "fashion.keras"


def retrained(path, recipe=SMOKE, seed=0, build_model=deep_learning.build_model):
    """Ask for a model and say whether it had to be trained."""
    before = path.stat().st_mtime_ns if path.exists() else None
    model, record = store.saved_or_trained(build_model, path, recipe, seed)
    assert record["weights_sha256"] == weights_digest(model)
    assert json.loads(store.record_path(path).read_text()) == record
    return path.stat().st_mtime_ns != before


def test_the_same_run_is_reused(saved):
    assert not retrained(saved)


def test_another_seed_recipe_or_model_is_not(saved, caplog):
    caplog.set_level("INFO")
    assert retrained(saved, seed=1)
    assert "another seed" in caplog.text

    def other_model():
        model = deep_learning.build_model()
        model.layers[2].rate = 0.3
        return model

    assert retrained(saved, seed=1, build_model=other_model)
    assert "another architecture" in caplog.text


def test_a_damaged_or_foreign_pair_is_trained_anew(saved, caplog):
    caplog.set_level("INFO")
    saved.write_bytes(saved.read_bytes()[:5_000])
    assert retrained(saved)
    record_path = store.record_path(saved)
    record_path.write_text(record_path.read_text()[:100])
    assert retrained(saved)
    assert "no usable record" in caplog.text
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    assert retrained(saved)
    assert "two different runs" in caplog.text
    assert sorted(path.name for path in saved.parent.iterdir()) == ["fashion.json", "fashion.keras"]


def test_a_place_that_cannot_be_written_is_known_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="cannot write"):
        store.trained(lambda: pytest.fail("trained"), tmp_path / "file" / "fashion.keras", SMOKE, 0)


def keras_models():
    """Return models as other people might have trained them, by name."""
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    functional_input = Input((28, 28, 1))
    hidden = layers.Conv2D(4, 3, strides=2)(functional_input)
    return {
        "probabilities": deep_learning.build_model(),
        "logits": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(10)]),
        "functional": Model(functional_input, layers.Dense(10, activation="softmax")(layers.Flatten()(hidden))),
        "rescaling": Sequential(
            [Input((28, 28)), Sequential([layers.Rescaling(1 / 255)]), layers.Flatten(), layers.Dense(10)]
        ),
        "normalization": Sequential(
            [
                Input((28, 28)),
                layers.Normalization(axis=None, mean=73, variance=8100),
                layers.Flatten(),
                layers.Dense(10),
            ]
        ),
    }


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["probabilities", "logits", "functional", "rescaling", "normalization"])
def test_models_of_other_people_are_taken(tmp_path, name, suffix, splits):
    import keras

    model = keras_models()[name]
    model.compile(optimizer="sgd", loss="mse")
    model.save(tmp_path / f"model{suffix}")
    images = splits[1].images[:20]
    probabilities = store.predict(store.load_model(tmp_path / f"model{suffix}"), images)
    assert probabilities.shape == (20, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    pixels = images / np.float32(1 if name in ("rescaling", "normalization") else 255)
    outputs = model(pixels[..., None] if name == "functional" else pixels)
    if name in ("logits", "rescaling", "normalization"):
        outputs = keras.ops.softmax(outputs)
    np.testing.assert_allclose(probabilities, outputs, atol=1e-5)


def test_other_shapes_are_refused_in_one_line(tmp_path):
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    pair = Input((28, 28)), Input((28, 28))
    wrong = {
        "flat input": Sequential([Input((784,)), layers.Dense(10)]),
        "colour input": Sequential([Input((28, 28, 3)), layers.Flatten(), layers.Dense(10)]),
        "eleven classes": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(11)]),
        "an output per row": Sequential([Input((28, 28)), layers.Dense(10)]),
        "two inputs": Model(pair, layers.Dense(10)(layers.Flatten()(layers.Add()(pair)))),
    }
    for name, model in wrong.items():
        model.save(tmp_path / "model.keras")
        with pytest.raises(LabError, match="it must take") as caught:
            store.load_model(tmp_path / "model.keras")
        assert "\n" not in str(caught.value), name


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    for name, content in (
        ("empty.keras", b""),
        ("text.keras", b"hello"),
        ("text.h5", b"hello"),
        ("model.pkl", b"\x80"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabError, match=name) as caught:
            store.load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="no such model file"):
        store.load_model(tmp_path / "missing.keras")


def test_code_in_a_model_is_not_run(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    witness = tmp_path / "ran"
    code = layers.Lambda(lambda x, path=str(witness): (open(path, "w").close(), x)[1])
    model = Sequential([Input((28, 28)), code, layers.Flatten(), layers.Dense(10)])
    witness.unlink(missing_ok=True)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"lambda{suffix}")
        with pytest.raises(LabError, match="loaded safely"):
            store.load_model(tmp_path / f"lambda{suffix}")
    assert not witness.exists()


def test_weights_that_are_not_numbers_are_refused(tmp_path, splits):
    model = keras_models()["logits"]
    model.layers[-1].kernel.assign(np.full((784, 10), np.nan))
    with pytest.raises(LabError, match="not finite"):
        store.predict(model, splits[1].images[:5])


def test_a_saved_model_needs_nothing_of_ours(saved):
    import keras

    model = keras.models.load_model(saved)
    assert model.optimizer.name == "adam"
    assert int(model.optimizer.iterations) == 63
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    assert "lab." not in config
