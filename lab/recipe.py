"""THE training recipe: one for every model, so that a difference in accuracy is a difference between models."""

import contextlib
import hashlib
import logging
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lab import LabError
from lab.backup import Backup
from lab.data import digests

EVALUATION_BATCH = 100
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # precision: what Keras calls it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What a run is made of, beside its model and its seed; Adam's other settings are Keras' defaults.

    `precision` is that of the arithmetic, "float32" or "bfloat16"; weights and class probabilities are always float32.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.001
    precision: str = "float32"
    train_images: int = 60_000
    test_images: int = 10_000


SMOKE = Recipe(epochs=1, train_images=2_000, test_images=500)


def start_tensorflow(threads=None):
    """Import TensorFlow and Keras and start their runtime, without chatter and without what training has no use for.

    `threads` is for all that runs at once, by default as many as TensorFlow likes; a runtime that has started keeps its
    own number.

    Since TensorFlow 2.19, TF_CPP_MIN_LOG_LEVEL no longer silences what is logged before its logger is set up
    (https://github.com/tensorflow/tensorflow/issues/100442), so that standard error goes nowhere meanwhile.
    """
    _share_one_heap_where_memory_is_limited()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _standard_error_silenced(), _hidden("jax", "matplotlib", "pandas", "sklearn"):
        import tensorflow as tf

        if threads:
            with contextlib.suppress(RuntimeError):  # it has started
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel(logging.ERROR)  # it warns of every graph that is made once
        gpus = tf.config.list_physical_devices("GPU")
        if gpus:  # on a processor, the same seed gives the same weights without it
            tf.config.experimental.enable_op_determinism()
        tf.config.list_logical_devices()
        import keras
    # whatever the user's own keras.json says
    keras.config.set_floatx("float32")
    keras.config.set_image_data_format("channels_last")


def _share_one_heap_where_memory_is_limited():
    """Under `ulimit -v`, let threads share one heap: of its own, each would reserve up to 128 MiB of addresses."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # not Linux, or not its usual C library
        import ctypes
        import resource

        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX, https://man7.org/linux/man-pages/man3/mallopt.3.html


@contextlib.contextmanager
def _hidden(*packages):
    """Hide packages that Keras imports where it finds them, for helpers that are not used here; a fifth of its time."""
    hidden = [package for package in packages if package not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]


@contextlib.contextmanager
def _standard_error_silenced():
    """Send what C++ writes to file descriptor 2 to nowhere; an exception still reaches the caller."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def train(build_model, recipe, seed, train_split, test_split, threads=None, backup_path=None, resume=False):
    """Build a model, train it, and evaluate the finished model once on the images of both splits.

    Args:
        build_model: returns an untrained Keras model of (28, 28) or (28, 28, 1) pixels in [0, 1] to ten probabilities.
        recipe: Recipe; of both splits, its numbers of images are used, from the first on.
        seed: int in [0, 2**32), for the initial weights, the order of the images, and dropout.
        train_split, test_split: lab.data.Split
        threads: as `start_tensorflow`
        backup_path: of a .npz file that keeps the state after each epoch; the caller removes it
        resume: whether to go on from that file, if it is of this very training

    Returns:
        model, record: the trained Keras model, and a dict of JSON types with all that is known of the run.

    Raises:
        LabError: the loss is no longer a number.
    """
    start_tensorflow(threads)
    import keras
    import tensorflow as tf

    from lab import fast

    started = time.perf_counter()
    model = build(build_model, recipe, seed)
    model.compile(
        optimizer=fast.fuse_adam(keras.optimizers.Adam(recipe.learning_rate)),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    train_images, train_labels = (tf.constant(part[: recipe.train_images]) for part in train_split[:2])
    test_images, test_labels = (tf.constant(part[: recipe.test_images]) for part in test_split[:2])
    on_terminal = sys.stdout.isatty()
    shuffle_seeds = keras.random.SeedGenerator()  # itself seeded by `keras.utils.set_random_seed`
    model.optimizer.build(model.trainable_variables)
    backup = None
    if backup_path:
        variables = [*model.variables, *model.optimizer.variables, shuffle_seeds.state]
        backup = Backup(backup_path, {**identity(model, recipe, seed), **versions()}, variables)
    history = (resume and backup and backup.restore()) or {"accuracy": [], "loss": [], "seconds": []}
    if history["seconds"]:
        logger.info("resumed: after epoch %d of %d", len(history["seconds"]), recipe.epochs)
    fast.fit(
        model,
        train_images,
        train_labels,
        recipe.batch_size,
        shuffle_seeds,
        initial_epoch=len(history["seconds"]),
        epochs=recipe.epochs,
        verbose=1 if on_terminal else 0,
        callbacks=[_watch(history, recipe, backup, print_lines=not on_terminal)],
    )
    test = fast.evaluate(model, test_images, test_labels, EVALUATION_BATCH)
    train = fast.evaluate(model, train_images, train_labels, EVALUATION_BATCH)
    record = {
        **identity(model, recipe, seed),
        "parameters": model.count_params(),
        "weights_sha256": weights_digest(model),
        "history": history,
        "test": {**test, "n": len(test_labels)},
        "train": {**train, "n": len(train_labels)},
        "seconds": time.perf_counter() - started,
        "data_source": train_split.source,
        "environment": environment(),
    }
    return model, record


def build(build_model, recipe, seed):
    """Build an untrained model, its initial weights drawn from the seed, its arithmetic in the recipe's precision."""
    import keras

    keras.utils.set_random_seed(seed)  # before the layers are made: each draws its seed when it is made
    keras.config.set_dtype_policy(POLICIES[recipe.precision])
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.layers[-1].dtype_policy = "float32"
    return model


def _watch(history, recipe, backup, print_lines):
    """Return a callback that appends each epoch's accuracy, loss and seconds to the history, backs the training up,
    prints a line where asked to, and raises a LabError as soon as the loss is no longer a number.
    """
    import keras

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            if not np.isfinite(logs["loss"]):
                raise LabError(
                    f"training diverged: the loss is {logs['loss']} in epoch {len(history['seconds']) + 1}; try a "
                    f"smaller --learning-rate than {recipe.learning_rate:g}"
                )

        def on_epoch_end(self, epoch, logs=None):
            now = {**logs, "seconds": time.perf_counter() - self.started}
            for name, values in history.items():
                values.append(float(now[name]))
            if backup:
                backup.save(history)
            if print_lines:
                print(
                    f"epoch {epoch + 1}/{recipe.epochs}: accuracy {now['accuracy']:.4f}, loss {now['loss']:.4f}, "
                    f"{now['seconds']:.2f} s",
                    flush=True,
                )

    return Watch()


def identity(model, recipe, seed):
    """Return what decides the finished weights on a given machine, up to the last bits that the threads may round."""
    return {
        "recipe": asdict(recipe),
        "seed": seed,
        "architecture_sha256": hashlib.sha256(repr(_architecture(model)).encode()).hexdigest(),
        "data_sha256": digests(),
    }


def _architecture(model):
    """Return every layer's class and settings, without the names and seeds that Keras makes up anew each time."""
    made_up = ("name", "seed", "dtype")
    return model.input_shape, [
        (type(layer).__name__, {key: value for key, value in layer.get_config().items() if key not in made_up})
        for layer in model.layers
    ]


def weights_digest(model):
    """Return the SHA-256 of all weights in order; two models with the same digest are the same, bit for bit."""
    digest = hashlib.sha256()
    for weights in model.get_weights():
        digest.update(np.ascontiguousarray(weights))
    return digest.hexdigest()


def environment():
    """Return the libraries' versions and the hardware that a time or a last bit may depend on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "python": platform.python_version(),
        **versions(),
        "processor": _processor(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
    }


def versions():
    """Return the versions of the libraries that decide a run's numbers; "none" of one that is not installed."""

    def installed(package):
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    return {package: installed(package) for package in ("tensorflow", "keras", "numpy")}


def _processor():
    """Return the processor's name; Python's own function knows none on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
