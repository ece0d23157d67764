"""TensorFlow's start-up: quiet unless it fails, and the same numbers whatever the user's configuration is."""

import contextlib
import functools
import gc
import importlib.machinery
import importlib.util
import logging
import os
import subprocess
import sys

from lab.guard.errors import LabError, cleanup_on_signal

logger = logging.getLogger(__name__)

POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}  # precision: Keras' dtype policy

# the program of a process that holds what native code says, and shows it when its input ends
HOLDER = """import sys
said = sys.stdin.buffer.read().strip() or b"(nothing)"
sys.stderr.buffer.write(b"TensorFlow did not start; what its native code said:\\n" + said + b"\\n")"""


def start_tensorflow(threads=None, precision="float32"):
    """Import TensorFlow and Keras, start their runtime, and set the dtype policy of the layers that are made next.

    Args:
        threads: of TensorFlow's runtime, which keeps its number once it has started; by default 2
        precision: a key of POLICIES; "tf32" rounds the factors of a product to 10 bits, on GPUs of NVIDIA

    Raises: LabError, Keras already runs on another backend.
    """
    started_with = _start(threads or 2)
    if started_with != (threads or started_with or 2):
        _note_other_threads(started_with, threads or 2)
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    # whatever the user's own keras.json and environment say
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy(POLICIES[precision])


@functools.cache
def _start(threads):
    """Import TensorFlow and Keras and start their runtime, if it has not started; return its number of threads."""
    _share_one_heap_if_memory_is_limited()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.update(KERAS_BACKEND="tensorflow", KERAS_NNX_ENABLED="false")
    with _held_back_standard_error(), _lazy_imports(), _unwatched_by_garbage_collector():
        import keras
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # it has started
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel(logging.ERROR)  # it warns of every graph that is made once
        if tf.config.list_physical_devices("GPU"):  # on a CPU, the same seed gives the same weights without it
            tf.config.experimental.enable_op_determinism()
        tf.config.list_logical_devices()
    if keras.config.backend() != "tensorflow":
        problem = f"Keras was imported with its backend {keras.config.backend()}, and TensorFlow is needed"
        raise LabError(f"{problem}; start a new process, and set KERAS_BACKEND=tensorflow before importing Keras")
    return tf.config.threading.get_intra_op_parallelism_threads()


@functools.cache  # once per process
def _note_other_threads(started_with, wanted):
    number = started_with or "its own number of"  # 0 if nobody has set it
    difference = f"results may differ in the last bits from those of a run with {wanted} threads"
    logger.warning("note: TensorFlow had already started, with %s threads; %s", number, difference)


def _share_one_heap_if_memory_is_limited():
    """Under `ulimit -v`, let threads share one heap: each heap would reserve up to 128 MiB of addresses."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # not Linux, or not glibc
        import ctypes
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX, https://man7.org/linux/man-pages/man3/mallopt.3.html


@contextlib.contextmanager
def _lazy_imports():
    """Let Keras import what it has for Matplotlib and scikit-learn when that is used.

    Saves a script that draws nothing 0.4 s of 4.4 s, and 1.2 s of 5.1 s where scikit-learn is installed.
    """
    sys.meta_path.insert(0, _LazyFinder)
    try:
        yield
    finally:
        sys.meta_path.remove(_LazyFinder)


class _LazyFinder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in ("keras.visualization", "keras.src.visualization", "keras.wrappers"):
            return None  # found as usual
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextlib.contextmanager
def _unwatched_by_garbage_collector():
    """Keep the garbage collector from the 280,000 objects of the first import of Keras: saves 2.7 s of 7.8 s.

    They all stay; it would look at them again and again while they are made, and once more when Python exits.
    """
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
def _held_back_standard_error():
    """Hold back what native code writes to file descriptor 2; drop it if the block ends well, otherwise show it.

    A process of its own holds it, because native code may end this one by abort() or exit(), where no Python runs.
    Since TensorFlow 2.19, TF_CPP_MIN_LOG_LEVEL does not silence what is logged before the logger is set up
    (https://github.com/tensorflow/tensorflow/issues/100442).
    """
    command, holder = [sys.executable, "-I", "-S", "-c", HOLDER], None
    with contextlib.suppress(OSError):  # no descriptor 2, or no more processes: nothing is held back
        kept = os.dup(2)
        # a session of its own, on Windows a process group, for Ctrl-C goes to all processes of a terminal's
        apart = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **apart)
    if not holder:
        yield
        return

    def drop():
        holder.kill()
        holder.wait()  # on Windows, it would else see its input end before it dies
        os.dup2(kept, 2)

    try:
        os.dup2(holder.stdin.fileno(), 2)
        with cleanup_on_signal(drop):
            yield
        drop()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        holder.stdin.close()
        holder.wait()
