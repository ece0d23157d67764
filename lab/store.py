"""Trained models and their records on disk: written whole or not at all, reused only for the very same run.

A model `fashion.keras` has its record beside it, `fashion.json`. The record holds the digest of the model's weights,
so that a pair from two different runs (a kill between the two writes, two programs at once) is seen and not reused.
"""

import json
import logging
import os
from pathlib import Path

import numpy as np

from lab import LabError, replacing, require_writable
from lab.data import load_splits, scale
from lab.recipe import build, identity, start_tensorflow, train, weights_digest
from lab.strangers import refuse_bombs_and_code

PREDICTION_BATCH = 250

logger = logging.getLogger(__name__)


def trained(build_model, path, recipe, seed, data_dir=None, threads=None, resume=False):
    """Train a model by the recipe and save it at `path`, with its record beside it.

    After each epoch the training's state is beside it as well; `resume` goes on from what an interrupted one has left.

    Returns:
        model, record: as `lab.recipe.train`

    Raises:
        LabError: no data, no place to write to, or a training that diverges.
    """
    require_writable(path)
    backup_path = _backup_path(path)
    splits = load_splits(data_dir=data_dir)
    model, record = train(build_model, recipe, seed, *splits, threads, backup_path, resume)
    with replacing(path) as partial:
        model.save(partial)
    with replacing(record_path(path)) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    backup_path.unlink(missing_ok=True)
    logger.info("saved: %s", path)
    return model, record


def saved_or_trained(build_model, path, recipe, seed, data_dir=None, threads=None):
    """Return the model saved at `path` if it comes from this very run; otherwise train it and save it there, going on
    after the last finished epoch where this very training was interrupted.

    Returns and raises: as `trained`
    """
    start_tensorflow(threads)
    try:
        model, record = _load_saved(path, identity(build(build_model, recipe, seed), recipe, seed))
    except _NotReusable as reason:
        logger.info("training: %s", reason)
        return trained(build_model, path, recipe, seed, data_dir, threads, resume=True)
    _backup_path(path).unlink(missing_ok=True)
    logger.info("reused: %s", path)
    return model, record


class _NotReusable(Exception):
    """Says why a saved model is not the one asked for."""


def _backup_path(path):
    return Path(path).with_suffix(".backup.npz")


def record_path(path):
    """Return where the record of the model saved at `path` is."""
    return Path(path).with_suffix(".json")


def _load_saved(path, wanted):
    if not os.path.isfile(path):
        raise _NotReusable(f"no {path}")
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        differing = [key for key, value in wanted.items() if record[key] != value]
        digest = record["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _NotReusable(f"no usable record {record_path(path)}") from error
    if differing:
        raise _NotReusable(f"{path} is from another {', '.join(key.split('_')[0] for key in differing)}")
    try:
        model = load_model(path)
    except LabError as error:
        raise _NotReusable(error) from error
    if weights_digest(model) != digest:
        raise _NotReusable(f"{path} and its record are from two different runs")
    return model, record


def load_model(path):
    """Load a Keras model file that anybody trained to classify Fashion-MNIST; code in it is never run.

    Returns:
        Keras model, of input (28, 28) or (28, 28, 1) and of ten outputs, not compiled.

    Raises:
        LabError: no such file, none that Keras' safe mode loads, a bomb, functions from elsewhere, or other shapes.
    """
    start_tensorflow()
    import keras

    if not os.path.isfile(path):  # a folder, a FIFO and a name that is too long are none either
        raise LabError(f"{path}: no such model file")
    try:
        refuse_bombs_and_code(path)
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its readers of zip, JSON, HDF5 and layers happen to raise
        # what went wrong is behind what Keras has to say of each thing that it is part of
        reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split()) or type(error).__name__
        raise LabError(f"{path}: no Keras model that can be loaded safely ({reason[:200]})") from error
    shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if shapes[0] not in ((None, 28, 28), (None, 28, 28, 1)) or shapes[1] != (None, 10):
        raise LabError(
            f"{path}: takes {shapes[0]} and gives {shapes[1]}; it must take (None, 28, 28) or (None, 28, 28, 1) and "
            "give (None, 10)"
        )
    return model


def predict(model, images):
    """Predict class probabilities, in one batched call.

    A model gets pixels in [0, 1], or in 0 to 255 if one of its layers is made for that (Rescaling, Normalization); a
    model that ends in logits gets a softmax.

    Args:
        model: Keras model, from `load_model` or from `trained`
        images: uint8 (n, 28, 28)

    Returns:
        float32 (n, 10), rows that sum to 1

    Raises:
        LabError: the model's outputs are no finite numbers.
    """
    pixels = images.astype(np.float32) if any(map(_takes_bytes, _all_layers(model))) else scale(images)
    pixels = pixels.reshape(-1, *model.input_shape[1:])
    outputs = model.predict(pixels, batch_size=PREDICTION_BATCH, verbose=0).astype(np.float32)
    if not np.isfinite(outputs).all():
        raise LabError("the model's outputs are not finite: its weights are damaged, or its training diverged")
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2):
        return outputs
    exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _all_layers(model):
    """Yield a model's layers, those of models within it included."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)


def _takes_bytes(layer):
    """Say whether a layer brings 0 to 255 to about 1: no other use has so small a scale or so large a spread."""
    import keras

    if isinstance(layer, keras.layers.Rescaling):
        return np.max(layer.scale) < 0.1
    if isinstance(layer, keras.layers.Normalization):
        return np.max(layer.mean) + np.sqrt(np.max(layer.variance)) > 2
    return False
