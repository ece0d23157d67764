import dataclasses
import json

import pytest

import deep_learning
import deep_learning_conv
from lab import LabError, recipe
from lab.data import scale
from lab.recipe import SMOKE

TINY = dataclasses.replace(SMOKE, epochs=2, train_images=1_000, test_images=100)


@pytest.mark.parametrize("script", [deep_learning, deep_learning_conv])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(script, splits):
    (_, first), (_, again), (_, other) = (recipe.train(script.build_model, TINY, seed, *splits) for seed in (3, 3, 4))
    assert first["weights_sha256"] == again["weights_sha256"] != other["weights_sha256"]
    assert first["history"]["loss"] == again["history"]["loss"]


def test_the_number_of_steps_per_call_changes_no_bit(splits, monkeypatch):
    from lab import fast

    _, many = recipe.train(deep_learning.build_model, TINY, 0, *splits)
    monkeypatch.setattr(fast, "STEPS_PER_CALL", 1)
    _, one = recipe.train(deep_learning.build_model, TINY, 0, *splits)
    assert one["weights_sha256"] == many["weights_sha256"]


def test_the_record_holds_what_the_run_was(splits):
    model, record = recipe.train(deep_learning.build_model, TINY, 7, *splits)
    assert json.loads(json.dumps(record)) == record
    assert record["recipe"] == dataclasses.asdict(TINY)
    assert record["seed"] == 7
    assert record["parameters"] == 101_770
    assert {name: len(values) for name, values in record["history"].items()} == {"accuracy": 2, "loss": 2, "seconds": 2}
    assert record["train"]["n"] == 1_000
    assert record["test"]["n"] == 100
    assert record["weights_sha256"] == recipe.weights_digest(model)
    assert record["environment"]["tensorflow"] == "2.21.0"
    assert record["environment"]["threads"] >= 1
    # the accuracy is that of the finished model: recomputed here from its own predictions
    images, labels = splits[1].images[:100], splits[1].labels[:100]
    predicted = model.predict(scale(images), verbose=0).argmax(axis=1)
    assert record["test"]["accuracy"] == pytest.approx((predicted == labels).mean())


def test_bfloat16_computes_in_it_and_keeps_weights_and_probabilities_in_float32(splits):
    import keras

    model, record = recipe.train(
        deep_learning_conv.build_model, dataclasses.replace(TINY, precision="bfloat16"), 0, *splits
    )
    assert {layer.compute_dtype for layer in model.layers[:-1]} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model(scale(splits[1].images[:2])[..., None]).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert record["train"]["accuracy"] > 0.7


def test_a_training_that_diverges_says_so(splits):
    with pytest.raises(LabError, match="--learning-rate"):
        recipe.train(deep_learning.build_model, dataclasses.replace(TINY, learning_rate=1e30), 0, *splits)


def test_the_identity_tells_models_apart_and_not_builds_of_one():
    recipe.start_tensorflow()
    dense, conv = (script.build_model for script in (deep_learning, deep_learning_conv))
    assert recipe.identity(dense(), SMOKE, 0) == recipe.identity(dense(), SMOKE, 0)
    assert recipe.identity(dense(), SMOKE, 0) != recipe.identity(conv(), SMOKE, 0)


def test_the_dense_model_reaches_its_accuracy_on_all_images(splits):
    _, record = recipe.train(deep_learning.build_model, recipe.Recipe(), 0, *splits)
    assert (record["train"]["n"], record["test"]["n"]) == (60_000, 10_000)
    assert 0.86 <= record["test"]["accuracy"] <= 0.89
