"""Keras' `fit` with many training steps in one call of TensorFlow: the same results up to rounding, in less time.

A plain `fit` of a small model spends most of its time between the steps: in Python, in tf.data, and in an optimizer
that reads and writes all weights several times. Here one call of TensorFlow does many steps, in a loop. The images
stay in one place, as bytes.

There are two kinds of step. Models that suit XLA (https://openxla.org/xla) have their loop compiled by it:
lab/xla_step.py. All others take Keras' own `train_step` in TensorFlow's executor, with TensorFlow's fused Adam.
"""

import contextlib
import logging
import math
import time

import numpy as np

from lab.xla_step import find_xla_obstacle, make_xla_step, replace_attributes

logger = logging.getLogger(__name__)

SECONDS_PER_CALL = 0.5  # of one call of TensorFlow; in between, Python shows progress and handles signals
DROPOUT_VALUES = 2_000_000  # whose random bits are drawn at once, 2 bytes each; four times as many below 64 steps


def fit(model, images, labels, batch_size, seeds, epochs, initial_epoch=0, callbacks=(), validate=dict):
    """Train a compiled model as Keras' `fit` does; every epoch sees each image once, in a new order.

    Args:
        model: compiled Keras model, built
        images, labels: uint8 (n, 28, 28) and (n,)
        batch_size: images per step; the last step of an epoch takes what is left
        seeds: keras.random.SeedGenerator of the orders
        epochs, initial_epoch: int, as for Keras' `fit`
        callbacks: Keras callbacks; `on_train_batch_end` is called about twice a second, with the step that is done
        validate: function to a dict that is added to the logs of an epoch

    Returns: Keras' History
    """
    import keras
    import tensorflow as tf

    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, labels[:1], tf.zeros((1, *model.output_shape[1:])))  # creates the metrics' variables
    obstacle = find_xla_obstacle(model)
    xla = not obstacle
    if obstacle:
        logger.info("note: training without XLA, because of %s", obstacle)
    step, variables, dropouts = make_xla_step(model) if xla else (_make_keras_step(model), [], [])
    images, labels = tf.reshape(images, (-1, *model.input_shape[1:])), tf.cast(labels, tf.int64)
    run_full = _loop(model, step, variables, images, labels, jit_compile=xla)
    run_rest = _loop(model, step, variables, images, labels, jit_compile=False)  # one step is not worth compiling
    full, at_once = len(images) // batch_size * batch_size, 8
    steps_at_once = DROPOUT_VALUES / batch_size / max([1, *(math.prod(layer.input.shape[1:]) for layer in dropouts)])

    def run_epoch(order):
        nonlocal at_once
        done = 0
        for run, batches in (run_full, order[:full].reshape(-1, batch_size)), (run_rest, order[None, full:]):
            first, (steps, size) = 0, batches.shape
            steps_per_draw = min(steps, max(1, int(steps_at_once), min(64, int(4 * steps_at_once))))
            while size and first < steps:
                if first % steps_per_draw == 0:  # at fixed steps, so that timing decides no number
                    bits = [draw_bits(layer, steps_per_draw, size) for layer in dropouts]
                    end = min(steps, first + steps_per_draw)
                started, last = time.perf_counter(), min(first + at_once, end)
                logs = run(batches, bits, tf.constant(first), tf.constant(last))
                done, first = done + last - first, last
                logs = {name: float(value) for name, value in logs.items()}
                callbacks.on_train_batch_end(done - 1, logs)
                at_once = max(1, int(at_once * min(2, SECONDS_PER_CALL / (time.perf_counter() - started))))
        return logs

    callbacks = keras.callbacks.CallbackList(callbacks, add_history=True, model=model)
    model.stop_training = False
    with contextlib.nullcontext() if xla else _fused_adam(model.optimizer):
        callbacks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            if model.stop_training:
                break
            model.reset_metrics()
            callbacks.on_epoch_begin(epoch)
            logs = run_epoch(draw_order(len(images), seeds))
            callbacks.on_epoch_end(epoch, {**logs, **validate()})
        model.optimizer.finalize_variable_values(model.trainable_variables)
        callbacks.on_train_end()
    return model.history


def draw_order(n, seeds):
    """Return a permutation of n indices, int32. NumPy draws it, and the bits of dropout, faster than TensorFlow."""
    return np.random.default_rng(seeds.next().numpy()).permutation(np.arange(n, dtype=np.int32))


def draw_bits(dropout, steps, size):
    """Return 16 random bits for each input value of a Dropout layer in `steps` steps of `size` images, uint16."""
    shape = (steps, size, *dropout.input.shape[1:])
    return np.random.default_rng(dropout.seed_generator.next().numpy()).integers(0, 1 << 16, shape, np.uint16)


def _loop(model, step, variables, images, labels, jit_compile):
    """Return a function that does the steps of some batches of image indices, and returns the metrics so far."""
    import tensorflow as tf

    white = tf.constant(255.0)  # as a constant inside the graph, it would become a product with a rounded 1/255

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run(batches, bits, first, last):
        def body(row, *values):
            pixels = tf.cast(tf.gather(images, batches[row]), tf.float32) / white
            bits_now = [each[row % each.shape[0]] for each in bits]
            return row + 1, *step(values, pixels, tf.gather(labels, batches[row]), bits_now)

        values = tf.while_loop(lambda row, *_: row < last, body, (first, *map(tf.convert_to_tensor, variables)))[1:]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return model.get_metrics_result()

    return run


def _make_keras_step(model):
    def step(values, pixels, labels, bits):
        model.train_step((pixels, labels))  # updates the variables where they are
        return ()

    return step


def _fused_adam(optimizer):
    """Return a context in which a `keras.optimizers.Adam` updates by TensorFlow's fused operation, no other optimizer.

    Its formula is the same (https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam), its rounding not.
    """
    import keras
    import tensorflow as tf

    if type(optimizer) is not keras.optimizers.Adam or optimizer.amsgrad:
        return contextlib.nullcontext()

    def update_step(gradient, variable, learning_rate):
        index, step = optimizer._get_variable_index(variable), tf.cast(optimizer.iterations.value + 1, variable.dtype)
        m, v = (state[index].value.handle for state in (optimizer._momentums, optimizer._velocities))
        betas = {"beta1": optimizer.beta_1, "beta2": optimizer.beta_2}
        powers = {f"{name}_power": tf.pow(tf.cast(beta, variable.dtype), step) for name, beta in betas.items()}
        rate = {"lr": tf.cast(learning_rate, variable.dtype), "epsilon": optimizer.epsilon}
        tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, grad=gradient, **betas, **powers, **rate)

    return replace_attributes(optimizer, update_step=update_step)
