"""Keras model files for the tests: small valid ones, altered ones, and how to check that one is refused."""

import contextlib
import json
import shutil
import socket
import tempfile
import zipfile

import numpy as np
import pytest

from lab.guard.errors import LabError
from lab.guard.models import load_compatible_model, load_model
from lab.training.startup import start_tensorflow

FEW_IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8), np.arange(20) % 10


@pytest.fixture(name="valid")
def save_valid_models(tmp_path):
    """Save a small valid model as .keras and as legacy .h5; return the two paths."""
    start_tensorflow()
    from keras import Input, Sequential, layers

    paths = [tmp_path / f"valid{suffix}" for suffix in (".keras", ".h5")]
    for path in paths:
        Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(10)]).save(path)
    return paths


def alter_model(path, name, config=None, dataset=None, members=(), version=None):
    """Copy a model file under another name, with changes; return the copy's path.

    Args:
        config: function that changes the model's config, a dict
        dataset: function of the HDF5 group and the name of the last layer's weights that replaces them
        members: (ZipInfo or name, bytes) pairs that the archive of a .keras file gets, instead of its own of that name
        version: of Keras, that the file says has written it
    """
    import h5py

    target = shutil.copy(path, path.with_name(name + path.suffix))
    with contextlib.ExitStack() as stack:
        if path.suffix == ".h5":
            file = group = stack.enter_context(h5py.File(target, "a"))
            text = file.attrs["model_config"]
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            contents = {name: archive.read(name) for name in archive.namelist()}
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            file.write(contents["model.weights.h5"])
            group = stack.enter_context(h5py.File(file, "a"))
            text = contents["config.json"]
        value = json.loads(text)
        if config:
            config(value)
        if dataset:
            weights = group.visititems(lambda name, item: name if getattr(item, "shape", None) == (784, 10) else None)
            parent, _, name = weights.rpartition("/")
            del group[weights]
            dataset(group[parent], name)
        if path.suffix == ".h5":
            file.attrs["model_config"] = json.dumps(value)
            file.attrs["keras_version"] = version or file.attrs["keras_version"]
        else:
            group.close()
            file.seek(0)
            contents.update({"model.weights.h5": file.read(), "config.json": json.dumps(value).encode()})
            if version:
                contents["metadata.json"] = json.dumps({"keras_version": version}).encode()
            for member, content in members:
                contents.pop(getattr(member, "filename", member), None)
                contents[member] = content
            with zipfile.ZipFile(target, "w") as archive:
                for name, content in contents.items():
                    archive.writestr(name, content)
    return target


def set_in_last_layer(**values):
    """Return a function that changes the configuration of a model's last layer."""
    return lambda config: config["config"]["layers"][-1]["config"].update(values)


def insert_layer(layer):
    """Return a function that inserts a layer, described by a dict, into a model's config."""
    return lambda config: config["config"]["layers"].insert(1, layer)


def assert_refused(path, match="loaded safely", predict=False):
    """Check that a model is refused in one line, which names its file, when it is loaded or predicts; return it."""
    with pytest.raises(LabError, match=match) as caught:
        load_compatible_model(path, *FEW_IMAGES) if predict else load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@contextlib.contextmanager
def assert_no_side_effects(folder):
    """Yield a path that must not exist after the block, and a URL of this machine that it must not connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield folder / "witness", f"http://127.0.0.1:{server.getsockname()[1]}/file"
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not (folder / "witness").exists()
