"""Keras' own fit and evaluate with their inner loops in TensorFlow's graph: the same numbers in a fraction of the time.

Three things take most of the time of a plain `fit` on a small model, and each is avoided without our own training loop:

- Keras' Adam reads and writes all weights many times. `fuse_adam` puts TensorFlow's kernel for it under the optimizer.
- Every batch passes through tf.data and Python, and computes all metrics. Here only the order of the images does; the
  images stay in one place, as bytes, and a batch is gathered and scaled where it is used.
- The gradient of a Dense layer by many inputs is a product by a transposed matrix, which takes twice as long as the
  other products. `_fast_gradients` writes it the other way round.
"""

import contextlib
import functools
import time

STEPS_PER_ROUND = 375  # gradient steps whose indices tf.data hands over at once
SECONDS_PER_CALL = 0.5  # of TensorFlow without a return to Python, which shows progress and sees signals in between
MANY_INPUTS = 4096  # of a Dense layer; below, nothing is gained


def fuse_adam(optimizer):
    """Let TensorFlow's fused kernel do the updates of a `keras.optimizers.Adam`; return any other optimizer unchanged.

    The formula is the same (https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam), its rounding is
    not. The optimizer stays a plain Adam, its state included: that is what a saved model holds.
    """
    import keras
    import tensorflow as tf

    if type(optimizer) is not keras.optimizers.Adam or optimizer.amsgrad:
        return optimizer

    def update_step(gradient, variable, learning_rate):
        index, step = optimizer._get_variable_index(variable), tf.cast(optimizer.iterations.value + 1, variable.dtype)
        m, v = (state[index].value.handle for state in (optimizer._momentums, optimizer._velocities))
        betas = {"beta1": optimizer.beta_1, "beta2": optimizer.beta_2}
        powers = {f"{name}_power": tf.pow(tf.cast(beta, variable.dtype), step) for name, beta in betas.items()}
        rate = {"lr": tf.cast(learning_rate, variable.dtype), "epsilon": optimizer.epsilon}
        tf.raw_ops.ResourceApplyAdam(var=variable.handle, m=m, v=v, grad=gradient, **betas, **powers, **rate)

    optimizer.update_step = update_step
    return optimizer


def fit(model, images, labels, batch_size, seeds, on_steps=lambda done, logs: None, **settings):
    """Train a compiled model by Keras' `fit`, in a new order of the images each epoch; return Keras' History.

    Args: compiled Keras model; images, uint8 (n, 28, 28), and labels (n,); images per step, of which the last of an
        epoch takes what is left; keras.random.SeedGenerator of the orders; function, called at least once a second with
        how many steps of the epoch are done, and their logs; what `fit` takes beside the data
    """
    import keras

    indices = _batched_indices(len(images), batch_size, lambda order: keras.random.shuffle(order, seed=seeds))
    model.train_function = _multi_step(model, model.train_step, images, labels, batch_size, indices, on_steps)
    with _fast_gradients(model):
        history = model.fit(indices, shuffle=False, verbose=0, **settings)
    model.train_function = None  # so that a later fit is an ordinary one
    return history


def evaluate(model, images, labels, batch_size):
    """Evaluate a compiled model by Keras' `evaluate`. Args: as `fit`. Returns: dict of loss and metrics"""
    indices = _batched_indices(len(images), batch_size, lambda order: order)
    model.test_function = _multi_step(model, model.test_step, images, labels, batch_size, indices)
    results = model.evaluate(indices, verbose=0, return_dict=True)
    model.test_function = None
    return results


@contextlib.contextmanager
def _fast_gradients(model):
    """Meanwhile, let the model's Dense layers of (batch, many) inputs compute their product by `_product`."""
    import keras

    dense = [layer for layer in model.layers if type(layer) is keras.layers.Dense]
    wide = [layer for layer in dense if len(layer.input.shape) == 2 and layer.input.shape[1] >= MANY_INPUTS]
    for layer in wide:
        layer.call = functools.partial(_call_dense, layer)
    try:
        yield
    finally:
        for layer in wide:
            del layer.call


def _call_dense(layer, inputs, training=None):
    outputs = _product()(inputs, layer.kernel.value)
    return layer.activation(outputs + layer.bias if layer.use_bias else outputs)


@functools.cache
def _product():
    """Return a function of inputs (batch, m) and kernel (m, n) to inputs @ kernel."""
    import tensorflow as tf

    @tf.custom_gradient
    def product(inputs, kernel):
        def gradients(upstream):
            inputs_gradient = tf.transpose(tf.matmul(kernel, upstream, transpose_b=True))
            kernel_gradient = tf.matmul(inputs, upstream, transpose_a=True)
            # both products at once, a core for each; Adam, which needs all the memory's bandwidth, only then
            with tf.control_dependencies([inputs_gradient]):
                return inputs_gradient, tf.identity(kernel_gradient)

        return tf.matmul(inputs, kernel), gradients

    return product


def _multi_step(model, step, images, labels, batch_size, indices, on_steps=lambda done, logs: None):
    """Return what Keras calls per iteration: it runs a step for each row of indices that the iterator gives."""
    import tensorflow as tf

    images = tf.reshape(tf.constant(images), (-1, *model.input_shape[1:]))
    labels = tf.cast(tf.constant(labels), tf.int64)
    white = tf.constant(255.0)  # as a constant inside the graph, it would become a product with a rounded 1/255
    signature = [tf.type_spec_from_value(images), tf.type_spec_from_value(labels), indices.element_spec]

    # images and labels are arguments: TensorFlow never forgets a graph with a custom gradient, nor what it closes over
    @tf.function(autograph=False, input_signature=signature)
    def run_steps(images, labels, batches):
        def next_step(row):
            batch = batches[row]
            step((tf.cast(tf.gather(images, batch), tf.float32) / white, tf.gather(labels, batch)))
            return row + 1

        tf.while_loop(lambda row: row < tf.shape(batches)[0], next_step, [0])
        return model.get_metrics_result()

    done, steps, at_once = 0, -(-len(images) // batch_size), 8

    def run_round(iterator):
        nonlocal done, at_once
        batches = iterator.get_next()
        while len(batches):
            started = time.perf_counter()
            now, batches = batches[:at_once], batches[at_once:]
            logs = run_steps(images, labels, now)
            done = done % steps + len(now)
            on_steps(done, logs)
            factor = SECONDS_PER_CALL / (time.perf_counter() - started)
            at_once = min(STEPS_PER_ROUND, max(1, int(at_once * min(2, factor))))
        return logs

    return run_round


def _batched_indices(n, batch_size, arrange):
    """Return an epoch of image indices, up to (STEPS_PER_ROUND, batch_size) at once, the rest in a row of its own."""
    import tensorflow as tf

    whole = n // batch_size * batch_size

    def rows(order):
        batches = tf.reshape(order[:whole], (-1, batch_size))
        full = tf.data.Dataset.from_tensor_slices(batches).batch(STEPS_PER_ROUND)
        return full.concatenate(tf.data.Dataset.from_tensors(order[None, whole:])) if n > whole else full

    rounds = -(-(n // batch_size) // STEPS_PER_ROUND) + (n > whole)
    plain = tf.autograph.experimental.do_not_convert  # conversion would write a file in the temporary folder
    epoch = tf.data.Dataset.range(1).map(plain(lambda _: arrange(tf.range(n)))).flat_map(plain(rows))
    return epoch.apply(tf.data.experimental.assert_cardinality(rounds))
