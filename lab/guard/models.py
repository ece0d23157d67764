"""Keras models of other people: files are opened in Keras' safe mode, and adapted to pixels in [0, 1].

Safe mode (Keras 3.15) runs no code in a file and follows no links out of it. What it lets through is refused here:
small files that unpack to gigabytes, models too large for this machine, and functions that are no part of a model. HDF5
itself is not hardened: some corrupt .h5 files crash it or let it loop. TensorFlow must have been started.
"""

import json
import logging
import math
import os
import re
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np

from lab.guard.errors import LabError, brief
from lab.guard.files import temporary_folder

INPUT_SHAPES = ((None, 28, 28), (None, 28, 28, 1), (None, 28 * 28))
PIXEL_RANGES = ((0, 1), (0, 255), (-1, 1))  # the usual ones
LARGEST_MODEL = 2**30  # bytes, on disk and in memory: tenfold what a classifier of 28 x 28 pixels needs
LARGEST_OUTPUT = 2**22  # numbers that a layer gives for one image
LARGEST_CONFIG = 4 * 2**20  # bytes of JSON: thousands of layers
MODULES = {"activations", "constraints", "dtype_policies", "initializers", "layers", "losses", "metrics", "models"}
MODULES |= {"ops", "optimizers", "quantizers", "random", "regularizers", "src"}  # of Keras, that a config may name
CALLERS = {"Lambda", "TFSMLayer", "JaxLayer", "FlaxLayer", "TorchModuleWrapper", "Switch", "Cond", "Map", "Scan"}
CALLERS |= {"AssociativeScan", "VectorizedMap", "WhileLoop", "ForiLoop"}  # which run what a config names
MEMBERS = ["config.json", "metadata.json", "model.weights.h5"]  # of a .keras file

logger = logging.getLogger(__name__)


def load_compatible_model(path, images, labels, pixel_range=None):
    """Load any compatible model as one, not compiled, that maps (n, 28, 28) pixels in [0, 1] to ten probabilities.

    A file does not say which pixels its model was trained on. The usual ranges are tried on test images, and the one
    whose probabilities have the smallest squared error is taken. A note says what is assumed; a warning, that fewer
    than half of the images are predicted correctly.

    Args: path of a model of (28, 28), (28, 28, 1) or (784,) pixels to ten probabilities, scores or logits; a few
        hundred test images, uint8 (n, 28, 28); their labels, (n,); (lowest, highest) pixel of its training, if known
    Raises: LabError, as `load_model`, or it cannot predict, or its outputs are not finite.
    """
    model = load_model(path)
    from keras import Input, Model, layers, ops

    model = Model(model.inputs[0], model.outputs[0])  # which may be in lists or dictionaries
    ranges = [pixel_range] if pixel_range else PIXEL_RANGES
    pixels = images.reshape(-1, *model.input_shape[1:]) / np.float32(255)
    try:
        outputs = [model.predict(pixels * (high - low) + low, batch_size=100, verbose=0) for low, high in ranges]
        outputs = np.array(outputs, np.float32).reshape(len(ranges), len(images), 10)
    except Exception as error:  # whatever its layers happen to raise
        raise LabError(f"{path}: it cannot predict ({_reason(error)})") from error
    finite = outputs[np.isfinite(outputs).all(axis=(1, 2))]  # half floats, for example, overflow in some ranges only
    if not finite.size:
        raise LabError(f"{path}: its outputs are not finite; its weights are corrupt, or its training diverged")

    kind, normalize = "probabilities", lambda values: ops.normalize(values, axis=-1, order=1)
    if finite.min() < 0 or finite.max() > 1.01:
        kind, normalize = "logits", ops.softmax
    elif not np.allclose(finite.sum(axis=2), 1, atol=1e-2):
        kind = "scores in [0, 1], which are divided by their sum"
    probabilities = ops.convert_to_numpy(normalize(outputs))
    # accuracy alone would often take [0, 1] for [0, 255], where the same class is the likeliest, but hardly likely
    errors = np.square(probabilities - np.eye(10)[labels]).sum(axis=2).mean(axis=1)
    best = np.nanargmin(errors.round(2))  # the first of those that are equally good
    _report(path, kind, ranges, best, (probabilities.argmax(axis=2) == labels).mean(axis=1), len(images))

    low, high = ranges[best]
    inputs = Input((28, 28))
    adapted = layers.Reshape(model.input_shape[1:])(layers.Rescaling(high - low, offset=low)(inputs))
    return Model(inputs, normalize(ops.cast(model(adapted), "float32")))


def _report(path, kind, ranges, best, accuracies, images):
    """Log which range of pixels is taken and what speaks for it. Args: `accuracies` in the ranges; number of images"""
    shown = [f"[{low:g}, {high:g}]: {accuracy:.0%}" for (low, high), accuracy in zip(ranges, accuracies, strict=True)]
    taken = f"with pixels in {shown.pop(best)} of {images} test images are correct"
    others = f" (in {', in '.join(shown)})" if shown else " (--pixel-range)"
    logger.info("model: %s gives %s; %s%s", path, kind, taken, others)
    if accuracies[best] < 0.5:
        advice = "was it trained on other classes, or on pixels in another range (--pixel-range LOW HIGH)?"
        logger.warning("warning: %s, %s, where chance is 10%%; %s", path, taken, advice)


def load_model(path):
    """Load a Keras model file that classifies 28 x 28 pixels; code in it is never run. Returns: model, not compiled

    Raises: LabError, no such file, not a model that Keras' safe mode loads, a decompression bomb, a file of Keras 1 or
        2 that Keras 3 cannot read, or other shapes than (28, 28), (28, 28, 1) or (784,) and 10.
    """
    import keras

    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        again = 'save the model again with model.save("model.keras")'
        raise LabError(f"{path}: a SavedModel folder, which Keras 3 cannot read; {again}, or, {_conversion(path)}")
    if not os.path.isfile(path):  # nor is a folder, a FIFO, or a name that is too long
        raise LabError(f"{path}: no such model file")
    version = ""
    try:
        with _in_lower_case(path) as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Do not pass an `input_shape`")  # which most layers of Keras 2 do
            config, version = _read_config(file)
            _require_parts_of_models(config)
            _require_moderate_size(config)
            model = keras.models.load_model(file, compile=False)
        takes, gives = ([tensor.shape for tensor in getattr(model, name, [])] for name in ("inputs", "outputs"))
        if version < "3" and any(shape[:2] == (None, None) for shape in takes):
            raise ValueError(f"it reads the shape of its input as {takes[0]}")
    except Exception as error:  # Keras raises whatever its readers of zip, JSON, HDF5 and layers happen to raise
        problem = f"not a Keras model that can be loaded safely ({_reason(error)})"
        if version[:1] in ("1", "2"):
            problem = f"Keras {version} wrote it, and Keras 3 cannot read it ({_reason(error)}); {_conversion(path)}"
        raise LabError(f"{path}: {problem}") from error
    if gives != [(None, 10)] or takes not in [[shape] for shape in INPUT_SHAPES]:
        must = "it must take (None, 28, 28), (None, 28, 28, 1) or (None, 784) and give (None, 10)"
        takes, gives = (" and ".join(map(str, shapes)) or "unknown shapes" for shapes in (takes, gives))
        raise LabError(f"{path}: takes {takes} and gives {gives}; {must}")
    return model


def _reason(error):
    """Return the cause: it comes last, after what Keras says of each object that contains it, or in bold."""
    text = str(error).rpartition("Exception encountered: ")[2].partition("\x1b[1m")
    return brief(error, (text[2] or text[0]).partition("\x1b[0m")[0])


def _conversion(path):
    """Return how to convert what Keras 2 wrote: with tf-keras, which is Keras 2 and runs the code of Lambda layers."""
    import tensorflow as tf

    release = ".".join(tf.__version__.split(".")[:2])
    program = f"import tf_keras; tf_keras.models.load_model({str(path)!r}, compile=False).save('converted.h5')"
    return f'if you trust it, convert it: pip install tf-keras~={release}.0, then python -c "{program}"'


@contextmanager
def _in_lower_case(path):
    """Yield the path of a model file, or of a copy: Keras does not know suffixes in capitals."""
    if os.path.getsize(path) > LARGEST_MODEL:
        raise ValueError(f"more than {LARGEST_MODEL:,} bytes")
    suffix = os.path.splitext(path)[1]
    if suffix == suffix.lower():
        yield path
    else:
        with temporary_folder("model-") as folder:
            yield shutil.copyfile(path, folder / f"model{suffix.lower()}")


def _read_config(path):
    """Return a model's config, a dict, and the version of Keras that wrote the file, "" if it does not say.

    Small files of huge content are refused: Keras itself refuses only what unpacks to more than 4 GiB. It compresses
    nothing that it writes, so that a compressed file need not be unpacked to learn how large it is.

    Raises: ValueError, the file is compressed; and what zipfile, json and h5py raise.
    """
    import h5py

    def is_bomb(item):
        others = [name for name in item.attrs if not name.startswith(("layer_names", "weight_names"))]
        attributes = [h5py.h5a.open(item.id, name.encode()) for name in others]
        if any(each.dtype.hasobject and each.shape for each in attributes):  # texts, perhaps all the same gigabyte
            return True
        if isinstance(item, h5py.Dataset):
            return item.dtype.hasobject or item.chunks or item.nbytes > item.id.get_storage_size()
        named = [item[name] for key in item.attrs if key.startswith("weight_names") for name in item.attrs[key]]
        return sum(each.nbytes for each in named) > size

    written, size = None, os.path.getsize(path)
    with ExitStack() as opened:
        if str(path).endswith(".keras"):
            archive = opened.enter_context(zipfile.ZipFile(path))
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its archive is compressed, which Keras' own are not")
            if sorted(archive.namelist()) != MEMBERS:
                raise ValueError(f"its archive does not hold just {', '.join(MEMBERS)}")
            if max(archive.getinfo(name).file_size for name in MEMBERS[:2]) > LARGEST_CONFIG:
                raise ValueError(f"its config has more than {LARGEST_CONFIG:,} bytes")
            written = {**json.loads(archive.read("metadata.json")), "model_config": archive.read("config.json")}
            path = opened.enter_context(archive.open("model.weights.h5"))
        weights = opened.enter_context(h5py.File(path))
        bomb = "/" if is_bomb(weights) else None
        bomb = bomb or weights.visititems(lambda name, item: name if is_bomb(item) else None)
        if bomb:
            raise ValueError(f"{bomb} is compressed or larger than what is stored of it, which Keras' own are not")
        written = written or dict(weights.attrs)
    if "model_config" not in written:
        raise ValueError("it holds weights only; save the whole model with model.save")
    if len(written["model_config"]) > LARGEST_CONFIG:
        raise ValueError(f"its config has more than {LARGEST_CONFIG:,} bytes")
    version = written.get("keras_version", "")
    version = version.decode() if isinstance(version, bytes) else str(version)
    return json.loads(written["model_config"]), re.match("[0-9.]*", version)[0]


def _require_parts_of_models(config):
    """Refuse a config that names what is no part of a model: Keras accepts almost any name that it exports.

    One such function loads a data set from the network, another one breaks every model that is loaded later. CALLERS
    call any of them, or any class, with any arguments. An operation on constants is done while the model is loaded.
    """
    nodes = [config]
    for node in nodes:  # it grows meanwhile
        if isinstance(node, dict):
            name = node.get("config") if node.get("class_name") == "function" else node.get("class_name")
            dotted = f"{node.get('module')}.{name}"
            parts = dotted.split(".")
            is_function = node.get("class_name") == "function"
            strange = parts[-1] in CALLERS or (is_function and (parts[-1][:1].isupper() or "models" in parts))
            strange |= parts[0] == "keras" and len(parts) > 2 and parts[1] not in MODULES
            strange |= parts[:2] == ["keras", "src"] and (parts[2] not in ("ops", "models") or "_test." in dotted)
            if strange:
                raise ValueError(f"it names {dotted}, which is not a safe part of a model")
            if name == "__numpy__" and not re.fullmatch("[a-z]+[0-9]*", str(node.get("config", {}).get("dtype"))):
                raise ValueError("it holds an array of an unusual dtype")
            calls = node.get("inbound_nodes") or []
            if any("__keras_tensor__" not in json.dumps(each) for each in calls if isinstance(each, dict)):
                raise ValueError("it computes something from constants")
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []


def _require_moderate_size(config):
    """Refuse parameters that LARGEST_MODEL has no room for, and outputs above LARGEST_OUTPUT, before any are made."""
    import keras
    from keras.src.backend.common.global_state import get_global_attribute
    from keras.src.saving.serialization_lib import ObjectSharingScope, SafeModeScope

    def output_sizes(model):
        for operation in getattr(getattr(model, "_functional", None) or model, "operations", []):
            tensors = [tensor for node in operation._inbound_nodes for tensor in node.output_tensors]
            yield from (math.prod(filter(None, tensor.shape)) for tensor in tensors)
            yield from output_sizes(operation)

    def count_parameters():
        sharing = ObjectSharingScope() if "module" in config else nullcontext()  # as Keras' own readers
        with SafeModeScope(True), sharing, keras.StatelessScope(initialize_variables=False):
            if "module" in config:
                model = keras.saving.deserialize_keras_object({**config, "compile_config": None})
            else:  # of an .h5 file
                kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
                model = kind.from_config(config["config"])
            made = [*model.variables, *(get_global_attribute("uninitialized_variables") or [])]  # also of unused layers
            if max(output_sizes(model), default=0) > LARGEST_OUTPUT:
                raise ValueError(f"one of its layers gives more than {LARGEST_OUTPUT:,} numbers for an image")
        return sum(math.prod(variable.shape) for variable in {id(each): each for each in made}.values())

    with ThreadPoolExecutor(1) as thread:  # Keras' scopes, and its list of variables to be made, are local to a thread
        parameters = thread.submit(count_parameters).result()
    if parameters > LARGEST_MODEL // 4:  # float32
        raise ValueError(f"it asks for {parameters:,} parameters")


def require_classifier(model, classes=10):
    """Refuse a compiled model that cannot be trained and evaluated as a classifier of 28 x 28 pixels (10 to 50 ms).

    Raises: LabError, it is not built or compiled, has other shapes, gives no probabilities that sum to one, or does not
        report its accuracy.
    """
    import keras

    if not model.built:
        raise LabError("the model is not built; let keras.Input((28, 28)) be its first layer")
    if not model.compiled:
        raise LabError("the model is not compiled; call model.compile before")
    if not hasattr(model, "output_shape"):
        raise LabError("the model is of a class of its own; make it keras.Sequential, or keras.Model(inputs, outputs)")
    takes, gives = model.input_shape, model.output_shape
    if takes not in INPUT_SHAPES[:2] or gives != (None, classes):
        must = f"it must take (None, 28, 28) and give (None, {classes}), a probability for each class"
        raise LabError(f"the model takes {takes} and gives {gives}; {must}")
    pixels = np.linspace(0, 1, 4 * 28 * 28, dtype=np.float32).reshape(4, 28, 28)
    try:
        with keras.StatelessScope():  # whatever it would change in itself stays as it is
            outputs = np.float32(keras.ops.convert_to_numpy(model(pixels, training=False)))
    except Exception as error:  # whatever its layers happen to raise
        raise LabError(f"the model cannot take images of 28 x 28 pixels ({_reason(error)})") from error
    if outputs.shape != (4, classes) or outputs.min() < 0 or not np.allclose(outputs.sum(axis=1), 1, atol=1e-2):
        found = f"the model's outputs are not {classes} probabilities that sum to one"
        raise LabError(f"{found}; end it with keras.layers.Softmax() and use a loss without from_logits=True")
    if getattr(model.loss, "from_logits", False):
        raise LabError("the model gives probabilities, but its loss has from_logits=True; leave that out")
    try:
        reported = ", ".join(model.compute_metrics(pixels, np.zeros(4, np.int64), outputs))
        model.reset_metrics()
    except Exception as error:  # whatever its metrics happen to raise
        reported = f"what cannot be computed here ({_reason(error)})"
    if "accuracy" not in reported.split(", "):
        raise LabError(f'the model reports {reported}; compile it with metrics=["accuracy"]')
