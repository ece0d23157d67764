"""What decides a training's result: a saved model or a finished run is reused only if all of it is the same.

That is the recipe, the seed, the model's configuration, the very images, the library versions, and the code, followed
through every function, class and constant of this project that it uses. Dependencies are never declared by hand.
"""

import contextlib
import functools
import json
import os
import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lab.plumbing.digests import code_digest, digest, stable_repr


def describe_training(initialize_model, build_model, train, recipe, seed, images):
    """Return all that decides a finished training on a given processor, by part, as a dict of JSON types.

    Args: function of `build_model`, the recipe and a seed that returns a Keras model; the function that builds it; the
        function, or tuple of functions, that trains it; dataclass of the training's values; seed; digest of the images
        and labels, of JSON types
    """
    model = _model_digest(initialize_model, build_model, recipe)
    code = describe_code(build_model, train)
    return {"recipe": asdict(recipe), "seed": seed, **code, "model": model, "images": images, "versions": versions()}


def describe_code(build_model, train):
    """Return the digests of the code that builds a model, and of all other code that decides its training."""
    return {"training code": code_digest(train, without=(build_model,)), "model code": code_digest(build_model)}


def differing_parts(before, now):
    """Return the names of the parts in which two dicts differ; the fields of a part that is itself a dict by name."""
    names = []
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            names.append(f"{name} ({', '.join(differing_parts(old, new))})")
        elif old != new:
            names.append(name)
    return names


@functools.cache
def _model_digest(initialize_model, build_model, recipe):
    """Return the SHA-256 of a model's configuration."""
    with ThreadPoolExecutor(1) as thread:  # of its own: there, the names that Keras makes up for layers start from one
        model = thread.submit(initialize_model, build_model, recipe, 0).result()
    import keras

    try:
        configuration = keras.saving.serialize_keras_object(model)
    except (TypeError, ValueError, NotImplementedError):  # Keras cannot save it; the code that builds it still counts
        configuration = [(weight.path, weight.shape) for weight in model.weights]
    text = json.dumps(configuration, sort_keys=True, default=stable_repr)
    # the digest of a lambda's code would depend on its folder and line; "model code" has it
    configuration = json.loads(
        text, object_hook=lambda each: "lambda" if each.get("class_name") == "__lambda__" else each
    )
    return digest(json.dumps(configuration, sort_keys=True))


def versions():
    """Return the versions of the libraries that decide a run's numbers; those that are installed."""
    found = {}
    for package in ("tensorflow", "keras", "numpy", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def environment():
    """Return the versions and the hardware that a time or a last bit may depend on."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "python": platform.python_version(),
        **versions(),
        "processor": _processor(),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus],
    }


def _processor():
    """Return the processor's name; Python's own function does not know it on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
