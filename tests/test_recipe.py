"""The recipe of the studies: what the seed decides, what a training returns, when it stops."""

import gc
from dataclasses import replace

import numpy as np
import pytest

import deep_learning
import deep_learning_conv
from lab.guard.errors import LabError
from lab.study.provenance import arrays_digest
from lab.training import loop, recipe
from lab.training.data import scale
from lab.training.predictions import evaluate, predict
from lab.training.recipe import Recipe
from lab.training.startup import start_tensorflow

SCRIPTS = (deep_learning, deep_learning_conv)


def train(script, splits, seed=0, n=500, **changes):
    """Train a script's model on the first n images for two epochs."""
    settings = replace(Recipe(epochs=2), **changes)
    return recipe.train(script.build_model, settings, seed, splits[0].first(n), splits[1].first(100))


def test_the_seed_decides_the_weights_and_all_models_of_a_seed_see_the_same_orders(splits, monkeypatch):
    orders, draw_order = [], loop.draw_order
    monkeypatch.setattr(loop, "draw_order", lambda *given: orders.append(draw_order(*given)) or orders[-1])
    weights = [train(deep_learning, splits, seed)[0].get_weights() for seed in (3, 3, 4)]
    first, again, other = map(arrays_digest, weights)
    assert first == again != other
    train(deep_learning_conv, splits, 3)
    third = [*orders[:4], *orders[6:]]  # two epochs of three trainings
    np.testing.assert_array_equal(third, [orders[0], orders[1]] * 3)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[4])


def test_a_training_returns_its_history_and_the_scores_of_the_finished_model(splits):
    model, history, scores = train(deep_learning, splits)
    path = history.pop("training_path")
    assert path == "XLA loop"
    assert {name: len(values) for name, values in history.items()} == {"accuracy": 2, "loss": 2, "seconds": 2}
    assert (scores["train"]["n"], scores["test"]["n"]) == (500, 100)
    images, labels = splits[1].first(100)
    probabilities = model.predict(scale(images), verbose=0)
    assert scores["test"]["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == labels).mean())
    np.testing.assert_allclose(predict(model, images), probabilities, atol=1e-6)
    hidden = gc.get_freeze_count()
    train(deep_learning, splits)
    assert gc.get_freeze_count() <= hidden  # a second training hides nothing from the garbage collector
    assert gc.isenabled()


def test_bfloat16_computes_in_it_and_keeps_weights_and_probabilities_in_float32(splits):
    import keras

    try:
        model, history, scores = train(deep_learning_conv, splits, precision="bfloat16")
    finally:
        start_tensorflow()
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.layers[:-1]} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert history["training_path"] == "Keras fit: XLA has no fast bfloat16 on a CPU"
    assert predict(model, splits[1].images[:2]).dtype == np.float32
    assert scores["train"]["accuracy"] > 0.6


def test_with_a_cosine_the_learning_rate_falls_to_zero(splits):
    model, _, _ = train(deep_learning, splits, cosine_decay=True, learning_rate=0.002)
    schedule = model.optimizer.get_config()["learning_rate"]["config"]
    assert (schedule["initial_learning_rate"], schedule["decay_steps"]) == (0.002, 32)
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_with_a_validation_set_training_stops_and_the_best_epoch_is_kept(splits):
    few, validation = splits[0].first(1_000).hold_out(0.2, seed=0)
    model, history, _ = recipe.train(
        deep_learning.build_model, Recipe(learning_rate=0.01), 0, few, splits[1].first(100), validation
    )
    losses = history["val_loss"]
    assert losses.index(min(losses)) + 1 + 24 == len(losses) < 375  # 600 steps of 25 an epoch without a better one
    assert evaluate(model, *validation)["loss"] == pytest.approx(min(losses), rel=1e-6)
    with pytest.raises(ValueError, match="give a checkpoint or a validation set"):
        recipe.fit(model, *few, 1, 32, checkpoint=object(), validation=validation)


def test_a_model_that_is_not_compiled_is_refused_before_training(splits):
    model = recipe.initialize_model(deep_learning.build_model, 0)
    with pytest.raises(LabError, match="^the model is not compiled; call model.compile before$"):
        recipe.fit(model, *splits[0].first(100), 1, 32)


def test_the_dense_model_reaches_its_accuracy_on_all_images(splits):
    _, _, scores = recipe.train(deep_learning.build_model, Recipe(), 0, *splits)
    assert (scores["train"]["n"], scores["test"]["n"]) == (60_000, 10_000)
    assert 0.86 <= scores["test"]["accuracy"] <= 0.89
