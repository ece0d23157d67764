"""Keras model files of unknown origin: checked before Keras opens them, loaded without running code in them.

HDF5 itself is not hardened: some corrupt .h5 files crash it or let it loop.
"""

import io
import json
import logging
import math
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lab.guard.errors import LabError
from lab.training.startup import start_tensorflow

INPUT_SHAPES = ((28, 28), (28, 28, 1), (28 * 28,))
LARGEST_MODEL = 2**30  # bytes, on disk and in memory: tenfold what a classifier of 28 x 28 pixels needs
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}  # of a .keras file whose layers read no other files
LARGEST_CONFIG = 4 * 2**20  # bytes of JSON: thousands of layers
FUNCTIONS = {"activations", "ops"}  # of Keras, that a config may name
CLASSES = FUNCTIONS | {"constraints", "dtype_policies", "initializers", "layers", "models", "quantizers", "random"}
CLASSES |= {"regularizers", "src"}

logger = logging.getLogger(__name__)


def load_compatible_model(path, pixels=None):
    """Load any compatible Keras model as one, not compiled, that maps (28, 28) pixels in [0, 1] to ten probabilities.

    Args: path of a model of (28, 28), (28, 28, 1) or (784,) pixels to ten probabilities or logits; the largest value of
        the pixels that it was trained on, 1 or 255, by default 255 if it has a Rescaling or Normalization layer for it
    Raises: LabError, as `load_model`, or its outputs are not finite.
    """
    model = load_model(path)
    from keras import Input, Sequential, layers

    pixels = pixels or (255 if _rescales(model) else 1)
    adapted = [Input((28, 28)), layers.Rescaling(float(pixels)), layers.Reshape(model.input_shape[1:]), model]
    noise = np.random.default_rng(0).random((100, 28, 28), np.float32)
    try:
        outputs = Sequential(adapted).predict(noise, verbose=0)
    except Exception as error:  # whatever its layers happen to raise
        raise LabError(f"{path}: it cannot predict ({_reason(error)})") from error
    if not np.isfinite(outputs).all():
        raise LabError(f"{path}: its outputs are not finite; its weights are corrupt, or its training diverged")
    probabilities = (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-2)
    what = "probabilities" if probabilities else "logits"
    logger.info("model: %s, assumed to take pixels from 0 to %d (--pixels) and to give %s", path, pixels, what)
    return Sequential(adapted if probabilities else [*adapted, layers.Softmax(dtype="float32")])


def load_model(path):
    """Load a Keras model file that classifies Fashion-MNIST; code in it is never run. Returns: model, not compiled

    Raises: LabError, no such file, not a model that Keras' safe mode loads, a decompression bomb, functions that are
        not Keras' own, or other shapes than (28, 28), (28, 28, 1) or (784,) and 10.
    """
    start_tensorflow()
    import keras

    if not os.path.isfile(path):  # nor is a folder, a FIFO, or a name that is too long
        raise LabError(f"{path}: no such model file")
    try:
        check_model_file(path)
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its readers of zip, JSON, HDF5 and layers happen to raise
        raise LabError(f"{path}: not a Keras model that can be loaded safely ({_reason(error)})") from error
    if isinstance(getattr(model, "output", None), (dict, list, tuple)):
        raise LabError(f"{path}: gives a {type(model.output).__name__} of outputs; it must give one tensor (None, 10)")
    shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if shapes[0] not in [(None, *shape) for shape in INPUT_SHAPES] or shapes[1] != (None, 10):
        must = "it must take (None, 28, 28), (None, 28, 28, 1) or (None, 784) and give (None, 10)"
        raise LabError(f"{path}: takes {shapes[0]} and gives {shapes[1]}; {must}")
    return model


def _reason(error):
    # the cause comes last, after what Keras says of each object that contains it
    return " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:200] or type(error).__name__


def _rescales(layer):
    """Say whether a layer or model brings 0 to 255 to about 1: other uses have no such small scale or large spread."""
    import keras

    if hasattr(layer, "layers"):
        return any(map(_rescales, layer.layers))
    if isinstance(layer, keras.layers.Rescaling):
        return np.max(np.abs(layer.scale)) < 0.1
    if isinstance(layer, keras.layers.Normalization):
        return np.max(layer.mean) + np.sqrt(np.max(layer.variance)) > 2
    return False


def check_model_file(path):
    """Refuse what Keras' safe mode accepts: huge models in small files, and functions that are no part of a model.

    Keras refuses only from 4 GiB on, and never what a config asks for. It compresses nothing that it writes, so that
    a compressed file is not Keras' own and need not be unpacked to learn how large it is.

    Raises: ValueError, the file has such a thing; and what zipfile, json, h5py and Keras raise.
    """
    if os.path.getsize(path) > LARGEST_MODEL:
        raise ValueError(f"more than {LARGEST_MODEL:,} bytes")
    if str(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if {member.filename for member in members} != MEMBERS:  # with more, Keras unpacks them all to disk
                raise ValueError(f"its archive does not hold just {', '.join(sorted(MEMBERS))}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("its archive is compressed, which Keras' own are not")
            if sum(member.file_size for member in members) > LARGEST_MODEL:
                raise ValueError(f"it unpacks to more than {LARGEST_MODEL:,} bytes")
            with archive.open("config.json") as config:
                _check_config(config.read(LARGEST_CONFIG + 1))
            _check_hdf5(io.BytesIO(archive.read("model.weights.h5")))
    elif str(path).endswith((".h5", ".hdf5")):
        _check_hdf5(path)
    with ThreadPoolExecutor(1) as thread:  # Keras' scopes, and its list of variables to be made, are local to a thread
        parameters = thread.submit(_count_parameters, path).result()
    if parameters > LARGEST_MODEL // 4:  # float32
        raise ValueError(f"it asks for {parameters:,} parameters")


def _check_config(text):
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"its config has more than {LARGEST_CONFIG:,} bytes")
    config = json.loads(text)
    nodes = [{**config, "compile_config": None}]  # which is not loaded, and may name what its author likes
    for node in nodes:
        if isinstance(node, dict):
            _check_name(**{key: node.get(key) for key in ("module", "class_name", "config")})
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node


def _check_name(module, class_name, config):
    """Refuse what is no part of a model: Keras accepts any name that it exports, such as CSVLogger as an activation."""
    kind, name = (FUNCTIONS, config) if class_name == "function" else (CLASSES, class_name)
    parts = f"{module}.{name}".split(".")
    if parts[-1] == "Lambda" or (parts[0] == "keras" and len(parts) > 2 and parts[1] not in kind):
        raise ValueError(f"it names {'.'.join(parts)}, which is not a safe part of a model")


def _check_hdf5(file):
    import h5py

    with h5py.File(file) as weights:
        _check_config(weights.attrs.get("model_config", "{}"))
        links = {}  # listed first, because h5py loses what is raised on such a visit
        weights.visititems_links(links.__setitem__)
        for name, link in links.items():
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{name} is a link to another place")
            item = weights[name]
            if isinstance(item, h5py.Dataset) and (
                item.dtype.hasobject
                or item.id.get_create_plist().get_nfilters()
                or item.nbytes > item.id.get_storage_size()
            ):
                raise ValueError(f"{name} is compressed or larger than what is stored of it, which Keras' own are not")


def _count_parameters(path):
    """Return how many parameters a model has, without making them: its initializers do not run in such a scope."""
    import keras

    with keras.StatelessScope(initialize_variables=False):
        return sum(math.prod(variable.shape) for variable in keras.models.load_model(path, compile=False).variables)


def require_classifier(model, classes=10):
    """Stub of the lead, to be replaced by helper C's."""
