import numpy as np
import pytest

import deep_learning
import deep_learning_conv
from lab.data import scale
from lab.plumbing.startup import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from lab import fast  # noqa: E402


def schedule():
    return keras.optimizers.schedules.CosineDecay(1e-3, 300, warmup_target=3e-3, warmup_steps=50)


@pytest.mark.parametrize("learning_rate", [1e-3, schedule])
def test_the_fused_adam_is_keras_adam(learning_rate):
    """Within float32 rounding, step by step, over hundreds of steps with gradients of very different sizes."""
    rng = np.random.default_rng(0)
    shapes = [(50, 7), (7,), (3, 3, 1, 4)]
    start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    make = [
        lambda: keras.optimizers.Adam(learning_rate() if callable(learning_rate) else learning_rate),
        lambda: fast.fuse_adam(keras.optimizers.Adam(learning_rate() if callable(learning_rate) else learning_rate)),
    ]
    optimizers = [each() for each in make]
    sets = [[keras.Variable(values) for values in start] for _ in optimizers]
    for optimizer, variables in zip(optimizers, sets, strict=True):
        optimizer.build(variables)
    apply = [tf.function(optimizer.apply) for optimizer in optimizers]
    for _ in range(400):
        gradients = [(rng.normal(size=shape) * 10.0 ** rng.integers(-6, 3)).astype(np.float32) for shape in shapes]
        for each in apply:
            each([tf.constant(gradient) for gradient in gradients])
        for plain, fused in zip(*sets, strict=True):
            np.testing.assert_allclose(fused.numpy(), plain.numpy(), rtol=2e-5, atol=2e-6)
    for plain, fused in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
        np.testing.assert_allclose(fused.numpy(), plain.numpy(), rtol=2e-5, atol=2e-6 * np.abs(plain.numpy()).max())


def compiled(script, optimizer):
    keras.utils.set_random_seed(5)
    model = script.build_model()
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    return model


@pytest.mark.parametrize("script", [deep_learning, deep_learning_conv])
def test_fit_and_evaluate_are_those_of_keras(script, splits, monkeypatch):
    """The same history and weights as Keras' fit on arrays, where the order of the images and dropout are the same."""
    images, labels = splits[0].images[:1_010], splits[0].labels[:1_010]
    ours, plain = (compiled(script, keras.optimizers.Adam()) for _ in range(2))
    monkeypatch.setattr(keras.random, "shuffle", lambda order, seed: order)
    history = fast.fit(ours, images, labels, 32, keras.random.SeedGenerator(), epochs=2).history
    pixels = scale(images).reshape(-1, *plain.input_shape[1:])
    expected = plain.fit(pixels, labels, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)
    for mine, theirs in zip(ours.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    assert not any("call" in vars(layer) for layer in ours.layers)
    results = fast.evaluate(ours, images, labels, 250)
    assert results == pytest.approx(ours.evaluate(pixels, labels, verbose=0, return_dict=True), rel=1e-5)


@pytest.mark.parametrize("n", [20, 32, 64, 100])
def test_every_image_is_seen_once_an_epoch(n, splits, monkeypatch):
    monkeypatch.setattr(fast, "STEPS_PER_ROUND", 2)
    seeds = keras.random.SeedGenerator(0)
    orders = fast._batched_indices(n, 32, lambda order: keras.random.shuffle(order, seed=seeds))
    first, second = ([row for rows in orders for row in rows.numpy()] for _ in range(2))
    assert sorted(np.concatenate(first)) == list(range(n))
    assert [len(row) for row in first] == [32] * (n // 32) + [n % 32] * (n % 32 > 0)
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    assert len(orders) == len(list(orders))


def test_a_model_trained_by_us_is_an_ordinary_keras_model(splits, tmp_path):
    images, labels = splits[0].images[:200], splits[0].labels[:200]
    model = compiled(deep_learning, fast.fuse_adam(keras.optimizers.Adam()))
    fast.fit(model, images, labels, 32, keras.random.SeedGenerator(0), epochs=1)
    model.layers[2].rate = 0.0  # a loaded model has another dropout seed
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is keras.optimizers.Adam
    assert "update_step" not in vars(loaded.optimizer)
    for model_or_loaded in (model, loaded):  # goes on from the same optimizer state by Keras' own fit
        keras.utils.set_random_seed(1)
        model_or_loaded.fit(scale(images), labels, epochs=1, verbose=0)
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
