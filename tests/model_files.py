"""Keras model files for the tests: compatible ones, altered ones, and how to check that one is refused."""

import contextlib
import functools
import json
import os
import shutil
import socket
import sys
import tempfile
import zipfile
import zlib

import pytest

import deep_learning
from lab.guard.errors import LabError
from lab.training.startup import start_tensorflow
from lab.guard.models import load_compatible_model, load_model

COMPATIBLE_MODELS = {  # name: (largest pixel value, whether it gives logits)
    "probabilities": (1, False),
    "logits": (1, True),
    "functional": (1, False),
    "flat": (1, True),
    "flat probabilities": (1, False),
    "rescaling": (255, True),
    "rescaling to [-1, 1]": (255, True),
    "rescaling from [0, 1]": (1, True),
    "rescaling that inverts [0, 1]": (1, True),
    "rescaling of bytes": (255, True),
    "normalization": (255, True),
    "normalization of [0, 1]": (1, True),
}


def build_compatible_model(name):
    """Build one of COMPATIBLE_MODELS, which are like those that other people train."""
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    def build_logits(*first_layers, shape=(28, 28), dtype=None):
        return Sequential([Input(shape, dtype=dtype), *first_layers, layers.Flatten(), layers.Dense(10)])

    def build_functional():
        image = Input((28, 28, 1))
        features = layers.Flatten()(layers.Conv2D(4, 3, strides=2)(image))
        return Model(image, layers.Dense(10, activation="softmax")(features))

    builders = {
        "probabilities": deep_learning.build_model,
        "logits": build_logits,
        "functional": build_functional,
        "flat": lambda: build_logits(shape=(784,)),
        "flat probabilities": lambda: Sequential([Input((784,)), layers.Dense(10, activation="softmax")]),
        "rescaling": lambda: build_logits(Sequential([layers.Rescaling(1 / 255)])),
        "rescaling to [-1, 1]": lambda: build_logits(layers.Rescaling(1 / 127.5, offset=-1)),
        "rescaling from [0, 1]": lambda: build_logits(layers.Rescaling(2.0, offset=-1)),
        "rescaling that inverts [0, 1]": lambda: build_logits(layers.Rescaling(-1.0, offset=1)),
        "rescaling of bytes": lambda: build_logits(layers.Rescaling(1 / 255), dtype="uint8"),
        "normalization": lambda: build_logits(layers.Normalization(axis=None, mean=73, variance=8100)),
        "normalization of [0, 1]": lambda: build_logits(layers.Normalization(axis=None, mean=0.29, variance=0.12)),
    }
    return builders[name]()


def save_valid_models(folder):
    """Save a small valid model as .keras and as legacy .h5; return the two paths."""
    paths = [folder / f"valid{suffix}" for suffix in (".keras", ".h5")]
    for path in paths:
        build_compatible_model("logits").save(path)
    return paths


def alter_model(path, name, config=None, dataset=None, members=()):
    """Copy a model file under another name, with changes; return the copy's path.

    Args:
        config: function that changes the model's config, a dict
        dataset: function of the HDF5 group and the name of the last layer's weights that replaces them
        members: (ZipInfo or name, bytes) pairs that the archive of a .keras file gets, instead of its own of that name
    """
    import h5py

    target = shutil.copy(path, path.with_name(name + path.suffix))
    with contextlib.ExitStack() as stack:
        if path.suffix == ".h5":
            file = stack.enter_context(h5py.File(target, "a"))
            group = file
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            contents = {name: archive.read(name) for name in archive.namelist()}
            file = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            file.write(contents["model.weights.h5"])
            group = stack.enter_context(h5py.File(file, "a"))
        if config:
            value = json.loads(file.attrs["model_config"] if path.suffix == ".h5" else contents["config.json"])
            config(value)
            if path.suffix == ".h5":
                file.attrs["model_config"] = json.dumps(value)
            else:
                contents["config.json"] = json.dumps(value).encode()
        if dataset:
            names = []
            group.visititems(
                lambda name, item: names.append(name) if getattr(item, "shape", None) == (784, 10) else None
            )
            parent, _, name = names[0].rpartition("/")
            del group[names[0]]
            dataset(group[parent], name)
        if path.suffix == ".keras":
            group.close()
            file.seek(0)
            contents["model.weights.h5"] = file.read()
            contents.update(members)
            with zipfile.ZipFile(target, "w") as archive:
                for name, content in contents.items():
                    archive.writestr(name, content)
    return target


def compress_member(path, name, content, claimed_size):
    """Copy a .keras file with one member, 64 times the same `content`, compressed; it claims a size of its own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
    target = alter_model(path, f"{name}-{claimed_size}", members=[(name, block * 64 + b"\3\0")])
    file = bytearray(target.read_bytes())
    for signature, method, size in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
        at = file.index(name.encode(), file.index(signature)) - (30 if method == 8 else 46)
        at = at if file[at : at + 4] == signature else file.rindex(name.encode()) - 46
        file[at + method : at + method + 2] = (8).to_bytes(2, "little")
        file[at + size : at + size + 4] = claimed_size.to_bytes(4, "little")
    target.write_bytes(file)
    return target


def request_units(units):
    """Return a function that changes a model's config to so many outputs of its last layer."""
    return lambda config: config["config"]["layers"][-1]["config"].update(units=units)


def describe_names(module, name, arguments):
    """Yield how a config names a function, and how it names a class."""
    yield {"module": module, "class_name": "function", "config": name, "registered_name": name}
    yield {"module": module, "class_name": name, "config": arguments, "registered_name": None}


def insert_layer(name, arguments):
    """Return a function that inserts a layer of Keras' into a model's config."""
    layer = {"module": "keras.layers", "class_name": name, "config": arguments, "registered_name": None}
    return lambda config: config["config"]["layers"].insert(1, layer)


def assert_refused(path, match="loaded safely"):
    """Check that a model is refused in one line, which names its file."""
    with pytest.raises(LabError, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def load_or_refuse(path, load=load_compatible_model):
    """Load a corrupt model; raise anything but a LabError. Args: path; `load_model` or `load_compatible_model`"""
    with contextlib.suppress(LabError):
        assert load(path).output_shape == (None, 10)


class PickledCall:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class AuditLog:
    """Records what Python is about to do that loading a model has no reason for.

    It is an audit hook, which Python cannot remove; it records only while `events` is a list.
    """

    FORBIDDEN = frozenset(
        (
            *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"),
            *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
            *("shutil.rmtree", "shutil.copyfile", "shutil.move", "shutil.unpack_archive", "pickle.find_class"),
            *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"),
        )
    )

    def __init__(self):
        self.events = None
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.events is None:
            return
        writes = event == "open" and arguments[0] != os.devnull and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in self.FORBIDDEN:
            self.events.append((event, arguments))


@functools.cache
def audit_log():
    """Return the only AuditLog of this process."""
    return AuditLog()


@contextlib.contextmanager
def assert_no_side_effects(folder):
    """Yield a path and a URL of this machine; fail if they are used in the block, or if it has other side effects.

    What the block itself writes below the folder, such as altered models, is no side effect.
    """
    log, witness = audit_log(), folder / "witness"
    witness.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        log.events = []
        try:
            yield witness / "ran", f"http://127.0.0.1:{server.getsockname()[1]}/file"
        finally:
            events, log.events = log.events, None
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not list(witness.iterdir())
    assert [event for event in events if not str(event[1][0]).startswith(str(folder))] == []
