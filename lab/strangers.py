"""What must not be in a model file from a stranger, refused before Keras opens it."""

import io
import json
import math
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

LARGEST_MODEL = 2**30  # bytes, on disk and in memory: tenfold what a classifier of 28 x 28 pixels needs
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}  # of a .keras file whose layers read no other files
LARGEST_CONFIG = 4 * 2**20  # bytes of JSON: thousands of layers
FUNCTIONS = {"activations", "ops"}  # of Keras, that a config may name
CLASSES = FUNCTIONS | {"constraints", "dtype_policies", "initializers", "layers", "models", "quantizers", "random"}
CLASSES |= {"regularizers", "src"}


def refuse_bombs_and_code(path):
    """Refuse what Keras' safe mode lets pass: huge models in small files, and functions that are no part of a model.

    Keras refuses only from 4 GiB on, and never what a config asks for. It compresses nothing that it writes, so that
    what is compressed is not Keras' own and need not be unpacked to learn how large it is.

    Raises:
        ValueError: there is such a thing; and what zipfile, json, h5py and Keras raise.
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
                _refuse_config(config.read(LARGEST_CONFIG + 1))
            _refuse_hdf5_bombs(io.BytesIO(archive.read("model.weights.h5")))
    elif str(path).endswith((".h5", ".hdf5")):
        _refuse_hdf5_bombs(path)
    with ThreadPoolExecutor(1) as thread:  # Keras' scopes, and the list of variables to be made, are a thread's own
        parameters = thread.submit(_count_parameters, path).result()
    if parameters > LARGEST_MODEL // 4:  # float32
        raise ValueError(f"it asks for {parameters:,} parameters")


def _refuse_config(text):
    if len(text) > LARGEST_CONFIG:
        raise ValueError(f"its config has more than {LARGEST_CONFIG:,} bytes")
    config = json.loads(text)
    nodes = [{**config, "compile_config": None}]  # which is not loaded, and may name what its author likes
    for node in nodes:
        if isinstance(node, dict):
            _refuse_code(**{key: node.get(key) for key in ("module", "class_name", "config")})
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node


def _refuse_code(module, class_name, config):
    """Refuse functions that a Lambda or an activation would call, and classes that are neither layers nor their parts.

    Keras takes any name that it exports, `keras.callbacks.CSVLogger` as an activation.
    """
    kind, name = (FUNCTIONS, config) if class_name == "function" else (CLASSES, class_name)
    parts = f"{module}.{name}".split(".")
    if parts[-1] == "Lambda" or (parts[0] == "keras" and len(parts) > 2 and parts[1] not in kind):
        raise ValueError(f"it names {'.'.join(parts)}, which is no safe part of a model")


def _refuse_hdf5_bombs(file):
    import h5py

    with h5py.File(file) as weights:
        _refuse_config(weights.attrs.get("model_config", "{}"))
        links = {}  # listed first, because h5py loses what is raised on such a visit
        weights.visititems_links(links.__setitem__)
        for name, link in links.items():
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{name} is a link to elsewhere")
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
