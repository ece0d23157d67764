import numpy as np
import pytest

import deep_learning
import deep_learning_conv
from convolution_gain import VARIANTS
from lab.training.data import scale
from lab.training.startup import start_tensorflow
from lab.training.recipe import evaluate

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, regularizers  # noqa: E402

from lab import fast  # noqa: E402
from lab.training.xla import find_xla_obstacle  # noqa: E402

IMAGE = (28, 28, 1)
SMALL_HEAD = [layers.Flatten, lambda: layers.Dense(10), layers.Softmax]


def sequential(*before):
    """Return a function that builds a model of these layers and a small head."""
    return lambda: keras.Sequential([keras.Input(IMAGE), *(layer() for layer in (*before, *SMALL_HEAD))])


def with_shared_dropout():
    inputs, dropout, dense = keras.Input(IMAGE), layers.Dropout(0.3), layers.Dense(20, activation="relu")
    hidden = dropout(dense(dropout(layers.Flatten()(inputs))))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(10)(hidden)))


def with_two_branches():
    inputs = keras.Input(IMAGE)
    branches = [layers.Dense(8, activation="tanh")(layers.Flatten()(inputs)) for _ in range(2)]
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Concatenate()(branches)))


def frozen(layer):
    layer.trainable = False
    return layer


def adam():
    return keras.optimizers.Adam()


def sgd():
    return keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)


def slow_sgd():
    return keras.optimizers.SGD(1e-4)  # rounding grows fast where normalization makes the scale of a kernel irrelevant


def warmup():
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 60, warmup_target=3e-3, warmup_steps=10))


def tuned():
    return keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, 60), weight_decay=1e-2, clipnorm=1.0)


XLA = {  # models that are compiled, the optimizers
    **{
        name: (VARIANTS[name].build_model, adam) for name in VARIANTS if "shuffled" not in name and "pooled" not in name
    },
    "two Dropouts": (sequential(lambda: layers.Dropout(0.1), layers.Flatten, lambda: layers.Dropout(0.5)), adam),
    "schedule": (deep_learning.build_model, warmup),
    "AdamW": (deep_learning.build_model, tuned),
    "SGD": (deep_learning.build_model, sgd),
    "RMSprop": (deep_learning.build_model, keras.optimizers.RMSprop),
    "strides, padding": (sequential(lambda: layers.Conv2D(4, (5, 3), strides=2, padding="same", use_bias=False)), adam),
    "dilation": (sequential(lambda: layers.Conv2D(4, 3, dilation_rate=2, activation="gelu")), adam),
    "BatchNormalization": (sequential(lambda: layers.Conv2D(4, 3), layers.BatchNormalization, layers.ReLU), slow_sgd),
    "frozen layer": (sequential(layers.Flatten, lambda: frozen(layers.Dense(30)), lambda: layers.Dense(20)), adam),
    "regularizers": (
        sequential(
            lambda: layers.Conv2D(4, 3, kernel_regularizer="l2", activity_regularizer=regularizers.L2(1e-3)),
        ),
        adam,
    ),
}
EXECUTOR = {  # models that are not
    "conv-pooled": (VARIANTS["conv-pooled"].build_model, adam),
    "pooling": (sequential(lambda: layers.Conv2D(4, 3), layers.MaxPooling2D), adam),
    "two convolutions": (sequential(lambda: layers.Conv2D(4, 3), lambda: layers.Conv2D(4, 3)), adam),
    "GaussianNoise": (sequential(lambda: layers.GaussianNoise(0.1)), adam),
    "shared Dropout": (with_shared_dropout, adam),
    "noise shape": (sequential(layers.Flatten, lambda: layers.Dropout(0.5, noise_shape=(None, 1))), adam),
    "two branches": (with_two_branches, adam),
    "averages": (deep_learning.build_model, lambda: keras.optimizers.Adam(use_ema=True)),
    "schedule": (sequential(layers.GlobalAveragePooling2D), warmup),
}


def compiled(build_model, optimizer, precision="float32"):
    keras.utils.set_random_seed(5)
    keras.config.set_dtype_policy(precision)
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(optimizer=optimizer(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def bits_of_keras(dropout, steps, size):
    """Return bits that keep what the layer itself would keep."""
    kept = dropout(tf.ones((steps, size, *dropout.input.shape[1:])), training=True).numpy() > 0
    return np.where(kept, 0xFFFF, 0).astype(np.uint16)


def check_equal_to_keras(ours, plain, splits, monkeypatch, tolerance=2e-4, n=1_010):
    """Compare with Keras' `fit`: the same history, weights and optimizer state for the same order and masks.

    With two ReLUs in a row, rounding errors grow fast, as they turn units on and off: those models get fewer steps.
    """
    images, labels = splits[0].images[:n], splits[0].labels[:n]
    monkeypatch.setattr(fast, "draw_order", lambda n, seeds: np.arange(n, dtype=np.int32))
    monkeypatch.setattr(fast, "draw_bits", bits_of_keras)
    monkeypatch.setattr(fast, "DROPOUT_VALUES", 0)  # drawn step by step, as Keras draws its masks
    history = fast.fit(ours, images, labels, 32, keras.random.SeedGenerator(), epochs=2).history
    pixels = scale(images).reshape(-1, *plain.input_shape[1:])
    expected = plain.fit(pixels, labels, batch_size=32, epochs=2, shuffle=False, verbose=0).history
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history[name], expected[name], rtol=tolerance)
    pairs = zip(ours.variables + ours.optimizer.variables, plain.variables + plain.optimizer.variables, strict=True)
    for mine, theirs in pairs:
        difference = np.linalg.norm(mine.numpy().astype(float) - theirs.numpy())
        assert difference <= tolerance * (np.linalg.norm(theirs.numpy()) + 1e-3), mine.path
    assert not any("call" in vars(layer) for layer in ours.layers)
    assert not {"update_step", "assign"} & vars(ours.optimizer).keys()


@pytest.mark.parametrize("name", XLA)
def test_compiled_training_is_that_of_keras(name, splits, monkeypatch):
    ours, plain = (compiled(*XLA[name]) for _ in range(2))
    assert find_xla_obstacle(ours) is None
    check_equal_to_keras(ours, plain, splits, monkeypatch, n=330 if name in VARIANTS else 1_010)


@pytest.mark.parametrize("name", EXECUTOR)
def test_other_training_is_that_of_keras(name, splits, monkeypatch):
    ours, plain = (compiled(*EXECUTOR[name]) for _ in range(2))
    assert find_xla_obstacle(ours)
    less_exact = {"n": 330, "tolerance": 1e-3} if name in VARIANTS else {}
    check_equal_to_keras(ours, plain, splits, monkeypatch, **less_exact)


@pytest.mark.parametrize("script", [deep_learning, deep_learning_conv])
def test_training_in_bfloat16_is_that_of_keras(script, splits, monkeypatch):
    ours, plain = (compiled(script.build_model, adam, "mixed_bfloat16") for _ in range(2))
    assert find_xla_obstacle(ours) == "bfloat16"
    check_equal_to_keras(ours, plain, splits, monkeypatch, tolerance=0.05, n=100)


def train_a_little(splits, optimizer=adam, n=1_010):
    model = compiled(deep_learning.build_model, optimizer)
    images, labels = splits[0].images[:n], splits[0].labels[:n]
    fast.fit(model, images, labels, 32, keras.random.SeedGenerator(0), epochs=2)
    return model


def test_how_often_the_steps_return_to_python_decides_no_number(splits, monkeypatch):
    expected = train_a_little(splits).get_weights()
    monkeypatch.setattr(fast, "SECONDS_PER_CALL", 0)
    monkeypatch.setattr(fast, "DROPOUT_VALUES", 32 * 128 * 31)  # as many as there are steps
    for mine, theirs in zip(train_a_little(splits).get_weights(), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_every_image_is_seen_once_an_epoch_in_a_new_order(splits, monkeypatch):
    orders, draw_order = [], fast.draw_order

    def recorded(n, seeds):
        orders.append(draw_order(n, seeds))
        return orders[-1]

    monkeypatch.setattr(fast, "draw_order", recorded)
    train_a_little(splits, n=100)
    first, second = orders
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second)


def test_dropout_keeps_its_share_at_random():
    """Each value is kept with probability 0.8, and differently in each step and each call."""
    model = deep_learning.build_model()
    first, second = (fast.draw_bits(model.layers[2], 50, 32) for _ in range(2))
    kept = first >= round(0.2 * 65536)
    assert abs(kept.mean() - 0.8) < 4 * np.sqrt(0.2 * 0.8 / kept.size)
    for other in (np.roll(first, 1, axis=0), np.roll(first, 1, axis=1), np.roll(first, 1, axis=2), second):
        assert abs((kept == (other >= round(0.2 * 65536))).mean() - (0.8**2 + 0.2**2)) < 0.01


@pytest.mark.parametrize("n", [20, 32, 100])
def test_the_metrics_are_those_of_all_images(n, splits):
    """With a learning rate of 0, an epoch is an evaluation; the last batch may be smaller than the others."""
    model = compiled(sequential(), lambda: keras.optimizers.SGD(0.0))
    images, labels = splits[0].images[:n], splits[0].labels[:n]
    done = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: done.append((batch, logs["loss"])))
    history = fast.fit(model, images, labels, 32, keras.random.SeedGenerator(0), 1, callbacks=[callback]).history
    pixels = scale(images).reshape(-1, *IMAGE)
    expected = model.evaluate(pixels, labels, verbose=0, return_dict=True)
    assert {name: values[0] for name, values in history.items()} == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, images, labels) == pytest.approx({**expected, "n": n}, rel=1e-5)
    assert done[-1] == (-(-n // 32) - 1, pytest.approx(expected["loss"], rel=1e-5))


def test_a_model_trained_by_us_is_an_ordinary_keras_model(splits, tmp_path):
    images, labels = splits[0].images[:200], splits[0].labels[:200]
    model = train_a_little(splits)
    model.layers[2].rate = 0.0  # a loaded model has another dropout seed
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is keras.optimizers.Adam
    for model_or_loaded in (model, loaded):  # goes on from the same optimizer state by Keras' own fit
        keras.utils.set_random_seed(1)
        model_or_loaded.fit(scale(images), labels, epochs=1, verbose=0)
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
