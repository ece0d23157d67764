"""The floor of an epoch on this machine: arithmetic at its large-matrix rate, Adam at its memory bandwidth.

The floor is a sum because the two cannot overlap within a step: the update needs the gradient.

python benchmarks/roofline.py
"""

import json
import threading
import time

import numpy as np

BATCH, IMAGES = 32, 60_000
PIXELS, HIDDEN, CLASSES = 28 * 28, 128, 10
CONV_PIXELS, FILTERS, TAPS = 26 * 26, 32, 9
PARAMETERS = {"dense": 101_770, "conv": 2_770_634}
# multiply-adds of one image: a product forward, one for its weights' gradient, one for its input's, which the first
# layer of a model does without
MULTIPLY_ADDS = {
    "dense": 2 * PIXELS * HIDDEN + 3 * HIDDEN * CLASSES,
    "conv": 2 * CONV_PIXELS * TAPS * FILTERS + 3 * CONV_PIXELS * FILTERS * HIDDEN + 3 * HIDDEN * CLASSES,
}
# Adam reads weight, gradient and both moments, and writes all of them but the gradient
ADAM_BYTES = 7 * 4


def matrix_rate(threads, side=2048, repeats=15):
    """Return the best rate of a float32 product of square matrices in TensorFlow, in operations per second."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    matrix = tf.random.normal((side, side))
    multiply = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    return 2 * side**3 / min(_seconds(lambda: multiply().numpy()) for _ in range(repeats))


def bandwidth(threads, parameters, repeats=200):
    """Return the best rate of copying, by all threads at once, in bytes read and written per second.

    Source and target are together as large as what Adam touches: weights, gradients and both moments.
    """
    shares = [np.ones((2, 2 * parameters // threads), np.float32) for _ in range(threads)]

    def copy():
        workers = [threading.Thread(target=_copy_often, args=(share, repeats)) for share in shares]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return repeats * sum(share.nbytes for share in shares) / min(_seconds(copy) for _ in range(5))


def _copy_often(share, repeats):
    for _ in range(repeats):
        np.copyto(share[1], share[0])  # releases Python's lock


def _seconds(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def floors(threads):
    """Return, per model, the floor of an epoch in seconds and what it is made of."""
    rate = matrix_rate(threads)
    result = {"threads": threads, "operations_per_second": rate}
    for model, parameters in PARAMETERS.items():
        bytes_per_second = bandwidth(threads, parameters, repeats=max(10, 200_000_000 // (16 * parameters)))
        arithmetic = IMAGES * 2 * MULTIPLY_ADDS[model] / rate
        update = IMAGES / BATCH * ADAM_BYTES * parameters / bytes_per_second
        result[model] = {
            "bytes_per_second": bytes_per_second,
            "arithmetic_seconds": arithmetic,
            "update_seconds": update,
            "floor_seconds": arithmetic + update,
        }
    return result


if __name__ == "__main__":
    import os

    print(json.dumps(floors(os.cpu_count())))
