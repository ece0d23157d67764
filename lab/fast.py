"""Keras' own fit and evaluate, with their inner loops in TensorFlow's graph: the same numbers, several times sooner.

Three things take the time of a plain `fit` on a small model, and each is mended without a training loop of our own:

- Keras' Adam is a chain of element-wise operations, each of which reads and writes all weights. TensorFlow has the
  whole update as one kernel; `fuse_adam` puts it under a Keras optimizer.
- Every batch passes through tf.data and through Python. Here only the order of the images does; the images themselves
  stay in one place, as bytes, and a batch is gathered and scaled where it is used.
- Every batch computes the metrics that only the last one of an epoch reports.
"""

import keras
import tensorflow as tf

STEPS_PER_CALL = 375  # batches between two updates of the progress bar


def fuse_adam(optimizer):
    """Let TensorFlow's fused kernel do the updates of a `keras.optimizers.Adam`, without amsgrad; return it.

    The formula is the same (https://www.tensorflow.org/api_docs/python/tf/raw_ops/ResourceApplyAdam), its rounding is
    not. The optimizer stays a plain Adam, its state included: that is what a saved model holds.
    """

    def update_step(gradient, variable, learning_rate):
        index = optimizer._get_variable_index(variable)
        step = tf.cast(optimizer.iterations.value + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=optimizer._momentums[index].value.handle,
            v=optimizer._velocities[index].value.handle,
            beta1_power=tf.pow(tf.cast(optimizer.beta_1, variable.dtype), step),
            beta2_power=tf.pow(tf.cast(optimizer.beta_2, variable.dtype), step),
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=optimizer.beta_1,
            beta2=optimizer.beta_2,
            epsilon=optimizer.epsilon,
            grad=gradient,
        )

    optimizer.update_step = update_step
    return optimizer


def fit(model, images, labels, batch_size, **settings):
    """Train a compiled model by Keras' `fit`, in a new order of the images each epoch.

    Args:
        model: compiled Keras model of (28, 28) or (28, 28, 1) pixels in [0, 1]
        images: uint8 (n, 28, 28); a TensorFlow tensor spares a copy for each call
        labels: integers (n,)
        batch_size: images per step; the last step of an epoch takes what is left
        settings: what `fit` takes beside the data

    Returns:
        Keras' History
    """
    model.train_function = _multi_step(model, model.train_step, images, labels)
    seeds = keras.random.SeedGenerator()  # itself seeded by `keras.utils.set_random_seed`
    indices = _batched_indices(len(images), batch_size, lambda order: keras.random.shuffle(order, seed=seeds))
    history = model.fit(indices, shuffle=False, **settings)
    model.train_function = None  # so that a later fit is an ordinary one
    return history


def evaluate(model, images, labels, batch_size):
    """Evaluate a compiled model by Keras' `evaluate`. Arguments: as `fit`. Returns: dict of loss and metrics"""
    model.test_function = _multi_step(model, model.test_step, images, labels)
    results = model.evaluate(_batched_indices(len(images), batch_size, tf.identity), verbose=0, return_dict=True)
    model.test_function = None
    return results


def _multi_step(model, step, images, labels):
    """Return what Keras calls per iteration: it runs a step for each row of indices that the iterator gives."""
    images = tf.reshape(images, (-1, *model.input_shape[1:]))
    labels = tf.cast(labels, tf.int64)
    white = tf.constant(255.0)  # as a constant inside the graph, it would be turned into a product with a rounded 1/255

    @tf.function(autograph=False)
    def multi_step(iterator):
        batches = iterator.get_next()

        def next_step(row):
            batch = batches[row]
            step((tf.cast(tf.gather(images, batch), tf.float32) / white, tf.gather(labels, batch)))
            return row + 1

        tf.while_loop(lambda row: row < tf.shape(batches)[0], next_step, [0])
        return model.get_metrics_result()

    return multi_step


def _batched_indices(n, batch_size, arrange):
    """Return an epoch of image indices, up to (STEPS_PER_CALL, batch_size) at once, the rest in a row of its own."""
    whole = n // batch_size * batch_size

    def rows(order):
        batches = tf.reshape(order[:whole], (-1, batch_size))
        full = tf.data.Dataset.from_tensor_slices(batches).batch(STEPS_PER_CALL)
        return full.concatenate(tf.data.Dataset.from_tensors(order[None, whole:])) if n > whole else full

    calls = -(-(n // batch_size) // STEPS_PER_CALL) + (n > whole)
    epoch = tf.data.Dataset.range(1).map(lambda _: arrange(tf.range(n))).flat_map(rows)
    return epoch.apply(tf.data.experimental.assert_cardinality(calls))
