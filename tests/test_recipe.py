import dataclasses
import gc
import json
import time

import numpy as np
import pytest

import deep_learning
import deep_learning_conv
from lab import fast, recipe
from lab.training.data import scale
from lab.guard.errors import LabError
from lab.study.records import make_record
from lab.training.recipe import SMOKE

TINY = dataclasses.replace(SMOKE, epochs=2, train_images=1_000, test_images=100)


def train(script, splits, seed=0, **changes):
    """Train a script's model on the first images; return the model and its record."""
    settings = dataclasses.replace(TINY, **changes)
    first = splits[0].first(settings.train_images), splits[1].first(settings.test_images)
    model, history, scores = recipe.train(script.build_model, settings, seed, *first)
    return model, make_record(model, history, scores)


def test_a_second_training_hides_no_object_from_the_garbage_collector(splits):
    train(deep_learning, splits)
    hidden = gc.get_freeze_count()
    train(deep_learning, splits)
    assert gc.get_freeze_count() <= hidden
    assert gc.isenabled()


@pytest.mark.parametrize("script", [deep_learning, deep_learning_conv])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(script, splits):
    first, again, other = (train(script, splits, seed)[1] for seed in (3, 3, 4))
    assert first["weights_sha256"] == again["weights_sha256"] != other["weights_sha256"]
    assert first["history"]["loss"] == again["history"]["loss"]


def test_all_models_of_a_seed_see_the_images_in_the_same_orders(splits, monkeypatch):
    orders = []
    draw_order = recipe.fast.draw_order
    monkeypatch.setattr(recipe.fast, "draw_order", lambda *given: orders.append(draw_order(*given)) or orders[-1])
    for script in (deep_learning, deep_learning_conv):
        train(script, splits, 3)
    first, second, *conv = orders
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(conv, [first, second])


def test_the_record_holds_what_the_training_was(splits):
    model, record = train(deep_learning, splits, seed=7)
    assert json.loads(json.dumps(record)) == record
    assert record["parameters"] == 101_770
    assert {name: len(values) for name, values in record["history"].items()} == {"accuracy": 2, "loss": 2, "seconds": 2}
    assert record["train"]["n"] == 1_000
    assert record["test"]["n"] == 100
    assert record["environment"]["tensorflow"] == "2.21.0"
    assert record["environment"]["threads"] == 2
    # the accuracy is that of the finished model: recomputed here from its own predictions
    images, labels = splits[1].first(100)
    predicted = model.predict(scale(images), verbose=0).argmax(axis=1)
    assert record["test"]["accuracy"] == pytest.approx((predicted == labels).mean())
    assert (recipe.predict(model, images).argmax(axis=1) == predicted).all()


def test_bfloat16_computes_in_it_and_keeps_weights_and_probabilities_in_float32(splits):
    import keras

    model, record = train(deep_learning_conv, splits, precision="bfloat16")
    assert {layer.compute_dtype for layer in model.layers[:-1]} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert model(scale(splits[1].images[:2])[..., None]).dtype == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert record["train"]["accuracy"] > 0.7


def test_a_training_that_diverges_raises(splits):
    with pytest.raises(LabError, match="--learning-rate"):
        train(deep_learning, splits, learning_rate=1e30)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_any_optimizer_of_keras_trains(optimizer, splits):
    model = recipe.initialize_model(deep_learning.build_model, TINY, 0)
    recipe.compile_model(model, recipe.Recipe(), optimizer=optimizer)
    history = recipe.fit(model, *splits[0].first(500), epochs=2, batch_size=32)
    assert type(model.optimizer).__name__.lower() == optimizer
    assert history["loss"][1] < history["loss"][0]


def test_progress_counts_real_steps_at_least_once_a_second(splits, monkeypatch):
    """Within a slow epoch too: here, a step is slowed down to 20 ms."""
    import keras

    monkeypatch.setattr(fast, "SECONDS_PER_CALL", 0.1)
    model = recipe.initialize_model(deep_learning.build_model, TINY, 0)
    recipe.compile_model(model, recipe.Recipe())
    seen = []

    def on_train_batch_end(batch, logs):
        done = batch + 1
        seen.append((done, time.perf_counter()))
        time.sleep(0.02 * (done - (seen[-2][0] if len(seen) > 1 and seen[-2][0] < done else 0)))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=on_train_batch_end)
    fast.fit(model, *splits[0].first(3_210), 32, keras.random.SeedGenerator(0), 2, callbacks=[callback])
    steps = [done for done, _ in seen]
    assert steps.count(101) == 2
    assert steps[-1] == 101
    assert steps == sorted(steps[: steps.index(101) + 1]) + sorted(steps[steps.index(101) + 1 :])
    times = [moment for _, moment in seen[1:]]
    assert np.percentile(np.diff(times), 90) < 1  # on a busy machine too


def test_the_dense_model_reaches_its_accuracy_on_all_images(splits):
    _, record = train(deep_learning, splits, epochs=5, train_images=60_000, test_images=10_000)
    assert (record["train"]["n"], record["test"]["n"]) == (60_000, 10_000)
    assert 0.86 <= record["test"]["accuracy"] <= 0.89
