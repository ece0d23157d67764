"""TensorFlow's start-up: quiet, without imports that are not needed, the same for any user configuration."""

import contextlib
import gc
import logging
import os
import sys

from lab.plumbing.errors import LabError, cleanup_on_signal


def start_tensorflow(threads=None):
    """Import TensorFlow and Keras and start their runtime with a number of threads, by default 2.

    Raises: LabError, the runtime has already started with another number of threads.
    """
    _share_one_heap_if_memory_is_limited()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with (
        _silenced_standard_error(),
        _block_imports("jax", "matplotlib", "pandas", "sklearn"),
        _unwatched_by_garbage_collector(),
    ):
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has started
            tf.config.threading.set_intra_op_parallelism_threads(threads or 2)
            tf.config.threading.set_inter_op_parallelism_threads(threads or 2)
        tf.get_logger().setLevel(logging.ERROR)  # it warns of every graph that is made once
        if tf.config.list_physical_devices("GPU"):  # on a CPU, the same seed gives the same weights without it
            tf.config.experimental.enable_op_determinism()
        tf.config.list_logical_devices()
        import keras
    started_with = tf.config.threading.get_intra_op_parallelism_threads()
    if threads and threads != started_with:
        raise LabError(f"TensorFlow already runs with {started_with} threads; start a new process for {threads}")
    # whatever the user's own keras.json says
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def _share_one_heap_if_memory_is_limited():
    """Under `ulimit -v`, let threads share one heap: each heap would reserve up to 128 MiB of addresses."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # not Linux, or not glibc
        import ctypes
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX, https://man7.org/linux/man-pages/man3/mallopt.3.html


@contextlib.contextmanager
def _block_imports(*packages):
    """Block packages that Keras imports if it finds them, for helpers not used here: a fifth of its import time."""
    blocked = dict.fromkeys(package for package in packages if package not in sys.modules)
    sys.modules.update(blocked)
    try:
        yield
    finally:
        for package in blocked:
            del sys.modules[package]


@contextlib.contextmanager
def _unwatched_by_garbage_collector():
    """Keep the garbage collector from looking at the 280,000 objects of the first import of Keras, which all stay."""
    if "keras" in sys.modules:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _silenced_standard_error():
    """Discard what C++ writes to file descriptor 2; an exception still reaches the caller.

    Since TensorFlow 2.19, TF_CPP_MIN_LOG_LEVEL does not silence what is logged before the logger is set up
    (https://github.com/tensorflow/tensorflow/issues/100442).
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as devnull, cleanup_on_signal(lambda: os.dup2(kept, 2)):
            os.dup2(devnull.fileno(), 2)
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
