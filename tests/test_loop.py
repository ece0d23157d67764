"""Our training loop against Keras' own `fit`: the same numbers up to rounding, and a way out whatever fails."""

import re
import sys

import numpy as np
import pytest

import deep_learning
from convolution_gain import VARIANTS
from lab.training import loop, xla
from lab.training.data import scale
from lab.training.predictions import evaluate
from lab.training.startup import start_tensorflow

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers, optimizers  # noqa: E402

IMAGE = (28, 28, 1)


def sequential(make_layers=list):
    """Return a function that builds a model of the layers that a function makes, and a small head."""
    return lambda: keras.Sequential(
        [keras.Input(IMAGE), *make_layers(), layers.Flatten(), layers.Dense(10), layers.Softmax()]
    )


def with_shared_dropout():
    inputs, dropout, dense = keras.Input(IMAGE), layers.Dropout(0.3), layers.Dense(20, activation="relu")
    hidden = dropout(dense(dropout(layers.Flatten()(inputs))))
    return keras.Model(inputs, layers.Softmax()(layers.Dense(10)(hidden)))


def sgd():
    return optimizers.SGD(0.01, momentum=0.9, nesterov=True)


def adamw():
    schedule = optimizers.schedules.CosineDecay(1e-3, 60, warmup_target=3e-3, warmup_steps=10)
    return optimizers.AdamW(schedule, weight_decay=1e-2, clipnorm=1.0)


half_dropped = sequential(lambda: [layers.Dropout(0.5)])
small_dense = sequential(lambda: [layers.Flatten(), layers.Dense(20, activation="tanh"), layers.Dropout(0.5)])
two_dropouts = sequential(
    lambda: [layers.Dropout(0.1), layers.Flatten(), layers.Dense(30, trainable=False), layers.Dropout(0.5)]
)
cropped = sequential(
    lambda: [layers.Cropping2D(1), layers.Conv2D(4, (5, 3), strides=2, padding="same", use_bias=False)]
)
normalized = sequential(lambda: [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU()])
regularized = sequential(
    lambda: [
        layers.Conv2D(2, 3, dilation_rate=3, activation="gelu", kernel_regularizer="l2"),
        layers.Flatten(),
        layers.Dense(20, kernel_regularizer="l1", activity_regularizer="l2"),
    ]
)
pooled = sequential(lambda: [layers.Conv2D(4, 3), layers.MaxPooling2D()])
XLA = {  # models that are compiled, and how their optimizers are made
    **{name: (VARIANTS[name].build_model, optimizers.Adam) for name in ("dense", "conv", "local")},
    "schedule, decay, clipping": (small_dense, adamw),
    "two Dropouts, frozen layer": (two_dropouts, optimizers.RMSprop),
    "cropping, strides, padding": (cropped, sgd),
    # slow, for rounding grows fast where normalization makes the scale of a kernel irrelevant
    "normalization": (normalized, lambda: optimizers.SGD(1e-4)),
    "dilation, regularizers": (regularized, sgd),
}
KERAS = {  # models that are not, why, and how their optimizers are made if not by `sgd`
    "pooling": (pooled, "layer max_pooling2d"),
    "two convolutions": (sequential(lambda: [layers.Conv2D(4, 3), layers.Conv2D(4, 3)]), "layer conv2d_1 is slower"),
    "regularized maps": (sequential(lambda: [layers.Conv2D(4, 3, activity_regularizer="l2")]), "layer conv2d is"),
    "noise shape": (sequential(lambda: [layers.Dropout(0.5, noise_shape=(None, 1, 28, 1))]), "layer dropout is slower"),
    "functional, shared Dropout": (with_shared_dropout, "Functional is not a plain Sequential"),
    "averages": (small_dense, "settings of Adam need", lambda: optimizers.Adam(use_ema=True)),
    "Nadam": (small_dense, "Nadam has its own _backend_update_step", optimizers.Nadam),
}


def compiled(build_model, make_optimizer=sgd):
    keras.backend.clear_session(free_memory=False)  # layers are named from the start
    keras.utils.set_random_seed(5)
    model = build_model()
    model.compile(optimizer=make_optimizer(), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def bits_of_keras(dropout, steps, size):
    """Yield bits that keep what the layer itself would keep."""
    for _ in range(steps):
        kept = dropout(tf.ones((size, *dropout.input.shape[1:])), training=True).numpy() > 0
        yield np.where(kept, 0xFFFF, 0).astype(np.uint16)


@pytest.fixture
def assert_equal_to_keras(splits, monkeypatch):
    """Return a function that trains by our loop and by Keras' `fit`, with the same orders and masks, and compares."""

    def compare(ours, plain, tolerance=2e-4, n=330):
        order = np.random.default_rng(0).permutation(n).astype(np.int32)
        monkeypatch.setattr(loop, "draw_order", lambda n, seeds: order)
        monkeypatch.setattr(loop, "draw_bits", bits_of_keras)
        logged, (images, labels) = keras.callbacks.History(), splits[0].first(n)
        path = loop.fit(ours, images, labels, 32, keras.random.SeedGenerator(), epochs=2, callbacks=[logged])
        pixels = scale(images).reshape(-1, *plain.input_shape[1:])[order]
        expected = plain.fit(pixels, labels[order], batch_size=32, epochs=2, shuffle=False, verbose=0).history
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(logged.history[name], expected[name], rtol=tolerance)
        pairs = zip(ours.variables + ours.optimizer.variables, plain.variables + plain.optimizer.variables, strict=True)
        for mine, theirs in pairs:
            difference = np.linalg.norm(mine.numpy().astype(float) - theirs.numpy())
            assert difference <= tolerance * (np.linalg.norm(theirs.numpy()) + 1e-3), mine.path
        assert not {"update_step", "assign", "finalize_variable_values"} & vars(ours.optimizer).keys()
        return path

    return compare


@pytest.mark.parametrize("name", XLA)
def test_the_xla_loop_trains_as_keras_does(name, assert_equal_to_keras):
    # with two ReLUs in a row, rounding errors grow fast, as they turn units on and off
    less_exact = {"n": 100, "tolerance": 1e-2} if name in VARIANTS else {"n": 1_010}
    assert assert_equal_to_keras(*(compiled(*XLA[name]) for _ in range(2)), **less_exact) == "XLA loop"


@pytest.mark.parametrize("name", KERAS)
def test_other_models_are_trained_by_keras_in_our_orders(name, assert_equal_to_keras):
    build_model, reason, *optimizer = KERAS[name]
    path = assert_equal_to_keras(*(compiled(build_model, *optimizer) for _ in range(2)))
    assert path.startswith("Keras fit: ")
    assert reason in path


def test_the_branch_for_gpus_is_the_same_program(assert_equal_to_keras, monkeypatch):
    """It does five steps in each iteration of the loop; here, on a CPU."""
    assert "not measured on a GPU" in xla.find_xla_obstacle(compiled(normalized), on_gpu=True)
    models, made, make_call = [compiled(half_dropped) for _ in range(2)], [], loop._make_call
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    monkeypatch.setattr(loop, "_make_call", lambda *given, **more: made.append(given[5]) or make_call(*given, **more))
    assert assert_equal_to_keras(*models) == "XLA loop"  # ten steps of 32 images, and one of 10
    assert made == [5, 1]


def compile_loop(model, splits, steps_per_iteration, stage):
    """Return the HLO of ten steps of training on 320 images."""
    images, labels = tf.constant(splits[0].images[:320]), tf.constant(splits[0].labels[:320], tf.int64)
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, labels[:1], tf.zeros((1, 10)))
    step, variables, dropouts = xla.make_xla_step(model)
    images = tf.reshape(images, (-1, *model.input_shape[1:]))
    run = loop._make_call(model, step, variables, images, labels, steps_per_iteration, jit_compile=True)
    order = np.arange(320, dtype=np.int32).reshape(10, 32)
    bits = [np.stack([*loop.draw_bits(layer, 10, 32)]) for layer in dropouts]
    return run.experimental_get_compiler_ir(order, bits)(stage=stage)


@pytest.mark.parametrize("steps_per_iteration", [1, 5])
def test_the_compiler_knows_how_often_the_loop_runs(steps_per_iteration, splits):
    text = compile_loop(compiled(half_dropped), splits, steps_per_iteration, "optimized_hlo")
    assert f'"known_trip_count":{{"n":"{10 // steps_per_iteration}"}}' in text.replace(" ", "")


@pytest.mark.parametrize("precision", ["tf32", "float32"])  # each start sets it anew
def test_products_are_of_float32_unless_tf32_is_asked_for(precision, splits):
    start_tensorflow(precision=precision)
    try:
        text = compile_loop(compiled(VARIANTS["conv"].build_model), splits, 1, "hlo")
    finally:
        start_tensorflow()
    products = re.findall(r" dot\(.*", text)
    exact = ["operand_precision={highest,highest}" in product for product in products]
    assert len(products) >= 7
    assert set(exact) == {precision == "float32"}


HIDDEN = {
    "Optimizer.__bases__": (keras.optimizers, "Optimizer"),
    "_var_key": (keras.optimizers.Adam, "_var_key"),
    "metrics[0]": (keras.Sequential, "metrics"),
    "seed_generator": (layers.Dropout, "seed_generator"),
}


def hide(monkeypatch, owner, hidden):
    """Let our look-up of an attribute fail, as if a later Keras had renamed it; Keras itself still finds it."""
    if owner is keras.optimizers:
        monkeypatch.setattr(owner, hidden, type("Optimizer", (), {}))
        return
    look_up = owner.__getattribute__

    def look_up_but(self, name):
        if name == hidden and sys._getframe(1).f_globals["__name__"] == xla.__name__:
            raise AttributeError(f"no attribute {name!r}")
        return look_up(self, name)

    monkeypatch.setattr(owner, "__getattribute__", look_up_but)


@pytest.mark.parametrize("name", HIDDEN)
def test_what_a_later_keras_lacks_leaves_training_to_keras(name, splits, monkeypatch, caplog):
    model = compiled(small_dense, optimizers.Adam)
    hide(monkeypatch, *HIDDEN[name])
    path = loop.fit(model, *splits[0].first(100), 32, keras.random.SeedGenerator(0), 1)
    assert re.match("Keras fit: (AttributeError|ValueError): ", path)
    assert f"not using XLA: {path.removeprefix('Keras fit: ')}" in caplog.text
    assert model.optimizer.iterations == 4


@pytest.mark.parametrize("call", [1, 4], ids=["in the first epoch", "within the second epoch"])
def test_what_fails_while_it_runs_leaves_training_to_keras(call, assert_equal_to_keras, monkeypatch, caplog):
    calls, make_call = [], loop._make_call

    def make_failing(*arguments, **more):
        def run(*given):
            calls.append(None)
            if len(calls) == call:
                raise tf.errors.ResourceExhaustedError(None, None, "no\nmemory")
            return works(*given)

        works = make_call(*arguments, **more)
        return run

    monkeypatch.setattr(loop, "_make_call", make_failing)
    monkeypatch.setattr(loop, "IMAGES_PER_CALL", 160)
    path = assert_equal_to_keras(*(compiled(small_dense) for _ in range(2)), n=320)  # two calls in each epoch
    assert path == "Keras fit: ResourceExhaustedError: no memory"
    assert "not using XLA any longer, this epoch starts again: ResourceExhaustedError: no memory" in caplog.text
    assert len(calls) == call


def test_how_many_steps_a_call_does_decides_no_number(splits, monkeypatch):
    monkeypatch.setattr(loop, "DROPOUT_VALUES", 32 * 20 * 11)  # a generator is good for 11 of 30 steps
    weights = []
    for images_per_call in (loop.IMAGES_PER_CALL, 200):  # with 200, five calls of six steps
        monkeypatch.setattr(loop, "IMAGES_PER_CALL", images_per_call)
        model = compiled(small_dense)
        loop.fit(model, *splits[0].first(960), 32, keras.random.SeedGenerator(0), epochs=2)
        weights.append(model.get_weights())
    np.testing.assert_equal(*weights)


def test_dropout_keeps_its_share_at_random():
    """Each value is kept with probability 0.8, and differently in each step and each call."""
    model = deep_learning.build_model()
    first, second = (np.stack([*loop.draw_bits(model.layers[2], 50, 32)]) for _ in range(2))
    kept = first >= round(0.2 * 65536)
    assert abs(kept.mean() - 0.8) < 4 * np.sqrt(0.2 * 0.8 / kept.size)
    for other in (np.roll(first, 1, axis=0), np.roll(first, 1, axis=1), np.roll(first, 1, axis=2), second):
        assert abs((kept == (other >= round(0.2 * 65536))).mean() - (0.8**2 + 0.2**2)) < 0.01


@pytest.mark.parametrize(("build_model", "n"), [(sequential(), 20), (sequential(), 100), (pooled, 100)])
def test_an_epoch_takes_every_image_once_and_counts_its_steps(build_model, n, splits, monkeypatch):
    """With a learning rate of 0, an epoch is an evaluation; the last batch may be smaller than the others."""
    model = compiled(build_model, lambda: optimizers.SGD(0.0))
    images, labels = splits[0].first(n)
    orders, draw_order, steps = [], loop.draw_order, []
    monkeypatch.setattr(loop, "draw_order", lambda *given: orders.append(draw_order(*given)) or orders[-1])
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append((step, logs["loss"])))
    loop.fit(model, images, labels, 32, keras.random.SeedGenerator(0), 2, callbacks=[callback])
    assert [sorted(order) for order in orders] == [list(range(n))] * 2
    assert not np.array_equal(*orders)
    expected = model.evaluate(scale(images)[..., None], labels, verbose=0, return_dict=True)
    assert steps[-1] == (-(-n // 32) - 1, pytest.approx(expected["loss"], rel=1e-5))
    assert evaluate(model, images, labels) == pytest.approx({**expected, "n": n}, rel=1e-5)
