"""Keras' `fit` with many training steps in one call of TensorFlow: the same results up to rounding, in less time.

A plain `fit` of a small model spends most of its time between the steps: in Python, in tf.data, and in an optimizer
that reads and writes all weights several times. Here one call does many steps, in a loop that XLA compiles, and the
images stay in one place, as bytes. Models that do not suit XLA, and all if anything goes wrong, are trained by
Keras' own `fit`, epoch by epoch, with the same orders of the images.
"""

import logging
import math

import numpy as np

from lab.guard.errors import LabError
from lab.training.xla import find_xla_obstacle, make_xla_step, override

logger = logging.getLogger(__name__)

IMAGES_PER_CALL = 4_000  # in one call of TensorFlow; in between, Python shows progress and handles signals
DROPOUT_VALUES = 2_000_000  # for which one generator draws random bits
DROPOUT_VALUES_PER_CALL = 16_000_000  # 2 bytes each
KERAS_STEPS_PER_CALL = 50
GPU_STEPS_PER_ITERATION = 5  # 0.050 instead of 0.062 s an epoch of dense; on a CPU no gain


def fit(model, images, labels, batch_size, seeds, epochs, initial_epoch=0, callbacks=(), validate=None):
    """Train a compiled model as Keras' `fit` does, reshuffled every epoch.

    Args:
        model: compiled Keras model, built
        images, labels: uint8 (n, 28, 28) and (n,)
        batch_size: images per step; the last step of an epoch takes what is left
        seeds: keras.random.SeedGenerator of the orders
        epochs, initial_epoch: int, as for Keras' `fit`
        callbacks: Keras callbacks; `on_train_batch_end` is called after each call of TensorFlow, with the last step
        validate: function to a dict that is added to the logs of an epoch

    Returns: training path, str: "XLA loop", or "Keras fit: " and the reason
    Raises: LabError, a callback's
    """
    import keras
    import tensorflow as tf

    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, labels[:1], tf.zeros((1, *model.output_shape[1:])))  # creates the metrics' variables
    callbacks = keras.callbacks.CallbackList(callbacks, model=model)
    images, labels = tf.reshape(images, (-1, *model.input_shape[1:])), tf.cast(labels, tf.int64)
    arguments = model, images, labels, batch_size, callbacks
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    reason, run_epoch = find_xla_obstacle(model, on_gpu), None
    if not reason:
        try:
            run_epoch = _make_xla_epoch(*arguments, GPU_STEPS_PER_ITERATION if on_gpu else 1)
        except Exception as error:  # Keras' internals are no longer what they were, in whatever way
            reason = _describe(error)
    if reason:
        logger.info("not using XLA: %s", reason)
        run_epoch = _make_keras_epoch(*arguments)

    steps_per_execution = model.steps_per_execution
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        if model.stop_training:
            break
        callbacks.on_epoch_begin(epoch)
        order = draw_order(len(images), seeds)
        state = [*model.variables, *model.optimizer.variables]
        before = [] if reason else [variable.numpy() for variable in state]
        try:
            model.reset_metrics()
            logs = run_epoch(order)
        except LabError:
            raise
        except Exception as error:  # of compiling or running: memory, a driver, an operation that XLA lacks
            if reason:
                raise
            reason = _describe(error)
            logger.warning("not using XLA any longer, this epoch starts again: %s", reason)
            for variable, value in zip(state, before, strict=True):
                variable.assign(value)
            run_epoch = _make_keras_epoch(*arguments)
            logs = run_epoch(order)
        callbacks.on_epoch_end(epoch, {**logs, **(validate() if validate else {})})
    model.optimizer.finalize_variable_values(model.trainable_variables)
    callbacks.on_train_end()
    model.steps_per_execution = steps_per_execution  # for whoever goes on with Keras' fit
    model.make_train_function(force=True)
    return f"Keras fit: {reason}" if reason else "XLA loop"


def _describe(error):
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def draw_order(n, seeds):
    """Return a permutation of n indices, int32. NumPy draws it, and the bits of dropout, faster than TensorFlow."""
    return np.random.default_rng(seeds.next().numpy()).permutation(np.arange(n, dtype=np.int32))


def draw_bits(dropout, steps, batch_size):
    """Yield 16 random bits for each input value of a Dropout layer, uint16 (batch, ...), for each of some steps.

    A generator is good for a fixed number of steps, so that how many steps a call does decides no number.
    """
    shape = batch_size, *dropout.input.shape[1:]
    steps_per_generator = min(steps, max(1, DROPOUT_VALUES // math.prod(shape)))
    for step in range(steps):
        if step % steps_per_generator == 0:
            generator = np.random.default_rng(dropout.seed_generator.next().numpy())
        yield generator.integers(0, 1 << 16, shape, np.uint16)


def _make_xla_epoch(model, images, labels, batch_size, callbacks, steps_per_iteration):
    """Return a function that trains on the images in an order, and returns the metrics of that epoch."""
    step, variables, dropouts = make_xla_step(model)
    full = len(images) // batch_size
    values_per_image = max([1, *(math.prod(layer.input.shape[1:]) for layer in dropouts)])
    images_per_call = min(IMAGES_PER_CALL, DROPOUT_VALUES_PER_CALL // values_per_image)
    calls = max(1, math.ceil(full * batch_size / images_per_call))
    # all compiled calls do the same number of steps, so that XLA knows it and compiles once
    per_call = max(1, full // calls // steps_per_iteration * steps_per_iteration)
    run_many = _make_call(model, step, variables, images, labels, steps_per_iteration, jit_compile=True)
    run_one = _make_call(model, step, variables, images, labels, 1, jit_compile=False)  # few: not worth compiling

    def run_epoch(order):
        first = 0
        for steps, size in (full, batch_size), (int(len(order) > full * batch_size), len(order) % batch_size):
            bits = [draw_bits(layer, steps, size) for layer in dropouts]
            done = 0
            while done < steps:
                run, n = (run_many, per_call) if steps - done >= per_call > 1 else (run_one, 1)
                batches = order[first : first + n * size].reshape(n, size)
                logs = run(batches, [np.stack([next(each) for _ in range(n)]) for each in bits])
                first, done = first + n * size, done + n
                logs = {name: float(value) for name, value in logs.items()}
                callbacks.on_train_batch_end(-(-first // batch_size) - 1, logs)
        return logs

    return run_epoch


def _make_call(model, step, variables, images, labels, steps_per_iteration, jit_compile):
    """Return a function that does the steps of some batches of image indices, and returns the metrics so far."""
    import tensorflow as tf

    max_pixel = tf.constant(255.0)  # as a constant inside the graph, it would become a product with a rounded 1/255

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run(batches, bits):
        def body(row, *values):
            for _ in range(steps_per_iteration):
                pixels = tf.cast(tf.gather(images, batches[row]), tf.float32) / max_pixel
                values = step(values, pixels, tf.gather(labels, batches[row]), [each[row] for each in bits])
                row += 1
            return row, *values

        state = tf.constant(0), *map(tf.convert_to_tensor, variables)
        values = tf.while_loop(lambda row, *_: row < batches.shape[0], body, state)[1:]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return model.get_metrics_result()

    return run


def _make_keras_epoch(model, images, labels, batch_size, callbacks):
    """Return a function that trains on the images in an order by Keras' `fit`, and returns the epoch's metrics."""
    import keras
    import tensorflow as tf

    def read(indices):
        return tf.cast(tf.gather(images, indices), tf.float32) / 255.0, tf.gather(labels, indices)

    def run_epoch(order):
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(read).prefetch(tf.data.AUTOTUNE)
        # weights become their averages, if the optimizer has any, after the last epoch only
        with override(model.optimizer, {"finalize_variable_values": lambda variables: None}):
            history = model.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[forward]).history
        return {name: values[-1] for name, values in history.items()}

    def forward_step(step, logs):  # Keras' last step is that of a whole call
        callbacks.on_train_batch_end(min(step, math.ceil(len(images) / batch_size) - 1), logs)

    forward = keras.callbacks.LambdaCallback(on_train_batch_end=forward_step)
    model.steps_per_execution = KERAS_STEPS_PER_CALL
    model.make_train_function(force=True)
    return run_epoch
