import base64
import contextlib
import json
import os
import pickle
import shutil
import socket
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import pytest
from conftest import run_measured

import deep_learning
from lab import LabError, store
from lab.recipe import SMOKE, start_tensorflow, weights_digest


@pytest.fixture
def saved(smoke_saves, tmp_path):
    """Return a copy of the dense model that --smoke saved, its record beside it."""
    for name in ("fashion.keras", "fashion.json"):
        shutil.copy(smoke_saves[0] / "smoke" / name, tmp_path)
    return tmp_path / "fashion.keras"


def retrained(path, recipe=SMOKE, seed=0, build_model=deep_learning.build_model):
    """Ask for a model and say whether it had to be trained."""
    before = path.stat().st_mtime_ns if path.exists() else None
    model, record = store.saved_or_trained(build_model, path, recipe, seed)
    assert record["weights_sha256"] == weights_digest(model)
    assert json.loads(store.record_path(path).read_text()) == record
    return path.stat().st_mtime_ns != before


def test_the_same_run_is_reused(saved):
    assert not retrained(saved)


def test_another_seed_recipe_or_model_is_not(saved, caplog):
    caplog.set_level("INFO")
    assert retrained(saved, seed=1)
    assert "another seed" in caplog.text

    def other_model():
        model = deep_learning.build_model()
        model.layers[2].rate = 0.3
        return model

    assert retrained(saved, seed=1, build_model=other_model)
    assert "another architecture" in caplog.text


def test_a_damaged_or_foreign_pair_is_trained_anew(saved, caplog):
    caplog.set_level("INFO")
    saved.write_bytes(saved.read_bytes()[:5_000])
    assert retrained(saved)
    record_path = store.record_path(saved)
    record_path.write_text(record_path.read_text()[:100])
    assert retrained(saved)
    assert "no usable record" in caplog.text
    record = json.loads(record_path.read_text())
    record_path.write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    assert retrained(saved)
    assert "two different runs" in caplog.text
    assert sorted(path.name for path in saved.parent.iterdir()) == ["fashion.json", "fashion.keras"]


def test_a_place_that_cannot_be_written_is_known_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match="cannot write"):
        store.trained(lambda: pytest.fail("trained"), tmp_path / "file" / "fashion.keras", SMOKE, 0)


def keras_models():
    """Return models as other people might have trained them, by name."""
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    functional_input = Input((28, 28, 1))
    hidden = layers.Conv2D(4, 3, strides=2)(functional_input)
    return {
        "probabilities": deep_learning.build_model(),
        "logits": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(10)]),
        "functional": Model(functional_input, layers.Dense(10, activation="softmax")(layers.Flatten()(hidden))),
        "rescaling": Sequential(
            [Input((28, 28)), Sequential([layers.Rescaling(1 / 255)]), layers.Flatten(), layers.Dense(10)]
        ),
        "normalization": Sequential(
            [
                Input((28, 28)),
                layers.Normalization(axis=None, mean=73, variance=8100),
                layers.Flatten(),
                layers.Dense(10),
            ]
        ),
    }


@pytest.mark.fault("models", "somebody else's, .keras and legacy .h5: taken")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["probabilities", "logits", "functional", "rescaling", "normalization"])
def test_models_of_other_people_are_taken(tmp_path, name, suffix, splits):
    import keras

    model = keras_models()[name]
    model.compile(optimizer="sgd", loss="mse")
    model.save(tmp_path / f"model{suffix}")
    images = splits[1].images[:20]
    probabilities = store.predict(store.load_model(tmp_path / f"model{suffix}"), images)
    assert probabilities.shape == (20, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    pixels = images / np.float32(1 if name in ("rescaling", "normalization") else 255)
    outputs = model(pixels[..., None] if name == "functional" else pixels)
    if name in ("logits", "rescaling", "normalization"):
        outputs = keras.ops.softmax(outputs)
    np.testing.assert_allclose(probabilities, outputs, atol=1e-5)


@pytest.mark.fault("models", "other shapes")
def test_other_shapes_are_refused_in_one_line(tmp_path):
    start_tensorflow()
    from keras import Input, Model, Sequential, layers

    pair = Input((28, 28)), Input((28, 28))
    wrong = {
        "flat input": Sequential([Input((784,)), layers.Dense(10)]),
        "colour input": Sequential([Input((28, 28, 3)), layers.Flatten(), layers.Dense(10)]),
        "eleven classes": Sequential([Input((28, 28)), layers.Flatten(), layers.Dense(11)]),
        "an output per row": Sequential([Input((28, 28)), layers.Dense(10)]),
        "two inputs": Model(pair, layers.Dense(10)(layers.Flatten()(layers.Add()(pair)))),
    }
    for name, model in wrong.items():
        model.save(tmp_path / "model.keras")
        with pytest.raises(LabError, match="it must take") as caught:
            store.load_model(tmp_path / "model.keras")
        assert "\n" not in str(caught.value), name


@pytest.mark.fault("models", "no zip, no HDF5, no file")
def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    for name, content in (
        ("empty.keras", b""),
        ("text.keras", b"hello"),
        ("text.h5", b"hello"),
        ("model.pkl", b"\x80"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabError, match=name) as caught:
            store.load_model(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="no such model file"):
        store.load_model(tmp_path / "missing.keras")


@pytest.mark.fault("models", "Lambda layer")
def test_code_in_a_model_is_not_run(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    witness = tmp_path / "ran"
    code = layers.Lambda(lambda x, path=str(witness): (open(path, "w").close(), x)[1])
    model = Sequential([Input((28, 28)), code, layers.Flatten(), layers.Dense(10)])
    witness.unlink(missing_ok=True)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"lambda{suffix}")
        with pytest.raises(LabError, match="loaded safely"):
            store.load_model(tmp_path / f"lambda{suffix}")
    assert not witness.exists()


@pytest.mark.fault("models", "weights that are not numbers")
def test_weights_that_are_not_numbers_are_refused(tmp_path, splits):
    model = keras_models()["logits"]
    model.layers[-1].kernel.assign(np.full((784, 10), np.nan))
    with pytest.raises(LabError, match="not finite"):
        store.predict(model, splits[1].images[:5])


@pytest.fixture
def honest(tmp_path):
    """Return the paths of a small honest model, as .keras and as legacy .h5."""
    paths = [tmp_path / f"honest{suffix}" for suffix in (".keras", ".h5")]
    for path in paths:
        keras_models()["logits"].save(path)
    return paths


def altered(path, name, config=None, dataset=None, members=()):
    """Return the path of a copy of a model file.

    Args:
        config: a function that changes the model's config, a dictionary
        dataset: a function that is given the HDF5 group and the name of the last layer's weights and replaces them
        members: (ZipInfo or name, bytes) that the archive of a .keras file gets, instead of its own of that name
    """
    import h5py

    target = shutil.copy(path, path.with_name(name + path.suffix))
    with contextlib.ExitStack() as stack:
        if path.suffix == ".h5":
            file = stack.enter_context(h5py.File(target, "a"))
            group = file
        else:
            archive = zipfile.ZipFile(path)
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


def refused(path, match="loaded safely"):
    """Make sure that a model is refused in one line, which names it."""
    with pytest.raises(LabError, match=match) as caught:
        store.load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def taken_or_refused(path):
    """Load a model that is damaged; anything but a model or a LabError is raised."""
    with contextlib.suppress(LabError):
        assert store.load_model(path).output_shape == (None, 10)


@pytest.mark.fault("models", "cut off")
def test_a_model_that_is_cut_off_is_refused(honest, tmp_path, soak, count_cases):
    cuts = 0
    for path in honest:
        whole = path.read_bytes()
        for length in np.linspace(0, len(whole), 1_000 if soak else 40, endpoint=False, dtype=int):
            cut = tmp_path / f"cut{path.suffix}"
            cut.write_bytes(whole[:length])
            refused(cut)
            cuts += 1
    count_cases(cuts)


@pytest.mark.fault("models", "bits flipped")
def test_a_model_with_flipped_bits_is_taken_or_refused(honest, tmp_path, soak, count_cases):
    rng = np.random.default_rng(0)
    for path in honest:
        for number in range(1_000 if soak else 30):
            damaged = bytearray(path.read_bytes())
            for _ in range(1 + number % 4):  # an HDF5 file's structure is at its beginning, an archive's at its end
                place = rng.integers(len(damaged) if number % 2 else 4_096)
                damaged[place if path.suffix == ".h5" else -1 - place] ^= 1 << rng.integers(8)
            (tmp_path / f"damaged{path.suffix}").write_bytes(damaged)
            taken_or_refused(tmp_path / f"damaged{path.suffix}")
    count_cases(2 * (number + 1))


def deflated(path, name, content, claimed):
    """Compress a member of a .keras file, 64 times the same `content`, and let it claim a size that is not its own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)
    target = altered(path, f"{name}-{claimed}", members=[(name, block * 64 + b"\3\0")])
    file = bytearray(target.read_bytes())
    for signature, method, size in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
        at = file.index(name.encode(), file.index(signature)) - (30 if method == 8 else 46)
        at = at if file[at : at + 4] == signature else file.rindex(name.encode()) - 46
        file[at + method : at + method + 2] = (8).to_bytes(2, "little")
        file[at + size : at + size + 4] = claimed.to_bytes(4, "little")
    target.write_bytes(file)
    return target


def empty_chunks(group, name):
    group.create_dataset(name, (2**15, 2**15), "f4", chunks=(1024, 1024))


def nothing_stored(group, name):
    group.create_dataset(name, (2**15, 2**15), "f4")


def compressed_chunks(group, name):
    dataset = group.create_dataset(name, (2**13, 2**15), "f4", chunks=(2**13, 2**12), compression="gzip")
    for column in range(8):
        dataset.id.write_direct_chunk((0, column * 2**12), ZEROS)


def chunk_of_another_size(group, name):
    group.create_dataset(name, (784, 10), "f4", chunks=(784, 10), compression="gzip").id.write_direct_chunk(
        (0, 0), ZEROS
    )


def texts(group, name):
    group.create_dataset(name, data=["x"] * 10)


ZEROS = zlib.compress(bytes(2**27), 9)
HDF5_BOMBS = [empty_chunks, nothing_stored, compressed_chunks, chunk_of_another_size, texts]


def ask_for(units):
    """Return what lets a model's config ask for so many outputs of its last layer."""
    return lambda config: config["config"]["layers"][-1]["config"].update(units=units)


@pytest.mark.fault("models", "bomb: archive, HDF5, config, file")
def test_a_bomb_takes_bounded_memory(honest, tmp_path, count_cases):
    archive = honest[0]
    bombs = [
        deflated(archive, member, b" " * 2**26, claimed)
        for member in ("config.json", "model.weights.h5", "metadata.json")
        for claimed in (2**32 - 1, 2**26 * 64 - 2**31, 1_000)
    ]
    bombs += [altered(path, f"{bomb.__name__}", dataset=bomb) for path in honest for bomb in HDF5_BOMBS]
    bombs += [altered(path, f"units-{units}", config=ask_for(units)) for path in honest for units in (10**6, 10**9)]
    bombs += [altered(archive, "long", members=[("config.json", b"[" + b"{}," * 30_000_000 + b"{}]")])]
    bombs += [altered(archive, "deep", members=[("config.json", b"[" * 2**20)])]
    for suffix in (".keras", ".h5"):
        bombs.append(tmp_path / f"hole{suffix}")
        bombs[-1].touch()
        os.truncate(bombs[-1], 2**40)
    peak = "int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    printed, after = run_measured(
        "import warnings\n"
        "warnings.simplefilter('ignore', ResourceWarning)\n"
        "from lab import LabError, store\n"
        f"store.load_model({str(archive)!r})\n"
        f"print({peak})\n"
        f"for path in {[*map(str, bombs)]}:\n"
        "    try:\n"
        "        store.load_model(path)\n"
        "    except LabError as error:\n"
        "        print(error)"
    )
    before, *lines = printed.splitlines()
    assert [line.split(": ")[0] for line in lines] == [*map(str, bombs)]
    assert after - int(before) / 1024 < 50
    count_cases(len(bombs))


@pytest.mark.fault("models", "links out of an HDF5 file")
def test_an_hdf5_file_leads_to_no_other(honest, tmp_path, count_cases):
    import h5py

    other, pipe = tmp_path / "other.h5", tmp_path / "pipe"
    shutil.copy(honest[1], other)
    os.mkfifo(pipe)  # whoever opened it would wait for ever

    def elsewhere(group, name):
        group[name] = h5py.ExternalLink(other, "/model_weights")

    def into_a_pipe(group, name):
        group[name] = h5py.ExternalLink(pipe, "/")

    def within(group, name):
        group[name] = h5py.SoftLink("/")

    def raw(group, name):
        group.create_dataset(name, (784, 10), "f4", external=[(other, 0, 784 * 10 * 4)])

    def virtual(group, name):
        layout = h5py.VirtualLayout((784, 10), "f4")
        layout[:] = h5py.VirtualSource(other, "weights", (784, 10))
        group.create_virtual_dataset(name, layout)

    kinds = (elsewhere, into_a_pipe, within, raw, virtual)
    for path in honest:
        for kind in kinds:
            refused(altered(path, kind.__name__, dataset=kind))
    count_cases(2 * len(kinds))


@pytest.mark.fault("models", "paths out of the archive")
def test_nothing_is_unpacked_elsewhere(honest, tmp_path, monkeypatch, count_cases):
    unpacked = tmp_path / "a" / "b" / "unpacked"
    unpacked.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(unpacked))
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    members = {
        "parent": [("../witness", b""), ("../../witness", b""), ("assets/../../../witness", b"")],
        "absolute": [(str(tmp_path / "witness"), b""), (f"/{tmp_path}/a/witness", b"")],
        "backslash": [("..\\witness", b""), ("assets\\..\\..\\..\\witness", b"")],
        "link": [(link, str(tmp_path).encode()), ("assets/link/witness", b"")],
    }
    models = [altered(honest[0], name, members=added) for name, added in members.items()]
    before = sorted(tmp_path.rglob("*"))
    for path in models:
        refused(path, match="does not hold just")
    assert sorted(tmp_path.rglob("*")) == before
    count_cases(len(models))


class Watch:
    """Notes what Python is about to do that loading a model has no reason for: an audit hook, which stays for ever."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.seen is None:
            return
        writes = event == "open" and arguments[0] != os.devnull and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in self.FORBIDDEN:
            self.seen.append((event, arguments))

    FORBIDDEN = frozenset(
        (
            *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen"),
            *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
            *("shutil.rmtree", "shutil.copyfile", "shutil.move", "shutil.unpack_archive", "pickle.find_class"),
            *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"),
        )
    )


@pytest.fixture(scope="session")
def watch():
    return Watch()


@pytest.fixture
def nothing_happens(watch, tmp_path):
    """Yield a file and a URL of this machine that are to be left alone; fail if they or anything else was touched."""
    folder = tmp_path / "witness"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        watch.seen = []
        yield folder / "ran", f"http://127.0.0.1:{server.getsockname()[1]}/file"
        seen, watch.seen = watch.seen, None
        with pytest.raises(BlockingIOError):
            server.accept()
    assert not list(folder.iterdir())
    # the test's own making of models is told apart by where it writes
    assert [event for event in seen if not str(event[1][0]).startswith(str(tmp_path))] == []


def named(module, name, arguments):
    """Return how a config names a function and a class."""
    yield {"module": module, "class_name": "function", "config": name, "registered_name": name}
    yield {"module": module, "class_name": name, "config": arguments, "registered_name": None}


@pytest.mark.fault("models", "code named in its config")
@pytest.mark.parametrize("place", ["layer", "activation", "kernel_initializer", "kernel_regularizer", "dtype"])
def test_what_a_config_names_is_not_run(honest, place, nothing_happens, count_cases):
    witness, url = nothing_happens
    calls = [
        ("os", "system", {"command": f"touch {witness}"}),
        ("posix", "system", {"command": f"touch {witness}"}),
        ("builtins", "eval", {"source": f"open({str(witness)!r}, 'w')"}),
        ("builtins", "exec", {"source": f"open({str(witness)!r}, 'w')"}),
        ("builtins", "open", {"file": str(witness), "mode": "w"}),
        ("subprocess", "Popen", {"args": ["touch", str(witness)]}),
        ("pathlib", "Path", {"args": str(witness)}),
        ("importlib", "import_module", {"name": "antigravity"}),
        ("pickle", "loads", {"data": "x"}),
        ("numpy", "save", {"file": str(witness), "arr": 1}),
        ("tensorflow.io", "write_file", {"filename": str(witness), "contents": "x"}),
        ("keras.utils", "get_file", {"fname": str(witness), "origin": url}),
        ("keras.src.utils.file_utils", "get_file", {"fname": str(witness), "origin": url}),
        ("keras.config", "enable_unsafe_deserialization", {}),
        ("keras.src.saving.serialization_lib", "enable_unsafe_deserialization", {}),
        ("keras.src.saving.saving_lib", "H5IOStore", {"path_or_io": str(witness), "mode": "w"}),
        ("keras.src.saving.saving_lib", "load_model", {"filepath": str(witness), "safe_mode": False}),
        ("keras.callbacks", "CSVLogger", {"filename": str(witness)}),
        ("lab.store", "trained", {"path": str(witness)}),
        ("test_store", "Watch", {}),
    ]
    cases = [(path, name) for path in honest for call in calls for name in named(*call)]
    for path, name in cases:

        def change(config, name=name):
            layers = config["config"]["layers"]
            if place == "layer":
                layers[-1] = name
            else:
                layers[-1]["config"][place] = name

        refused(altered(path, "named", config=change))
    count_cases(len(cases))


class Opening:
    """A pickle of it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.fault("models", "layers that read files or run code")
def test_layers_that_read_files_or_run_code_are_refused(honest, nothing_happens, tmp_path, count_cases):
    witness, url = nothing_happens
    secret = tmp_path / "secret.txt"
    secret.write_text("a\nb\n")
    code = base64.b64encode(pickle.dumps(Opening(witness))).decode()
    relu, lookup, vgg, fetch = (
        next(named(module, name, {}))
        for module, name in (
            ("keras.ops", "relu"),
            ("keras.layers", "StringLookup"),
            ("keras.applications", "VGG16"),
            ("keras.utils", "get_file"),
        )
    )
    lambda_config = {"code": code, "defaults": None, "closure": None}
    layers = [
        ("StringLookup", {"vocabulary": str(secret)}),
        ("StringLookup", {"vocabulary": url}),
        ("IntegerLookup", {"vocabulary": str(secret)}),
        ("TextVectorization", {"vocabulary": str(secret)}),
        ("TorchModuleWrapper", {"module": {"class_name": "__bytes__", "config": {"value": code}}}),
        ("TorchModuleWrapper", {"module": code}),
        ("TFSMLayer", {"filepath": str(tmp_path), "call_endpoint": "serve"}),
        ("Lambda", {"function": {"class_name": "__lambda__", "config": lambda_config}}),
        ("Lambda", {"function": [code, None, None], "function_type": "lambda"}),
        ("Lambda", {"function": next(named("os", "system", {}))}),
        ("Lambda", {"function": relu}),  # would do no harm, but it is the arguments that others are called with
        ("Lambda", {"function": lookup, "arguments": {"vocabulary": str(secret)}}),
        ("Lambda", {"function": vgg, "arguments": {"weights": str(witness)}}),
        ("Lambda", {"function": fetch, "arguments": {"origin": url}}),
    ]
    for path in honest:
        for name, arguments in layers:
            layer = {"module": "keras.layers", "class_name": name, "config": arguments, "registered_name": None}
            refused(
                altered(path, "layer", config=lambda config, layer=layer: config["config"]["layers"].insert(1, layer))
            )
    count_cases(2 * len(layers))


@pytest.mark.fault("models", "anything that Keras exports, in its config")
def test_nothing_that_keras_exports_does_harm(honest, nothing_happens, soak, count_cases):
    from keras.src.api_export import REGISTERED_NAMES_TO_OBJS

    exported = sorted(REGISTERED_NAMES_TO_OBJS)
    exported = exported if soak else np.random.default_rng(0).choice(exported, 15, replace=False)
    cases = [(path, *str(name).rsplit(".", 1)) for path in honest for name in exported]
    for path, module, name in cases:
        for value in named(module, name, {}):

            def change(config, value=value):
                config["config"]["layers"][-1]["config"]["activation"] = value

            taken_or_refused(altered(path, "exported", config=change))
    count_cases(2 * len(cases))


def test_functions_that_belong_to_a_model_are_taken(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, activations, initializers, layers, ops, regularizers

    def theirs(actual, predicted):
        return ops.mean(actual - predicted)

    head = layers.Dense(
        10,
        activation=ops.log_softmax,
        kernel_initializer=initializers.HeNormal(),
        kernel_regularizer=regularizers.L2(0.1),
        bias_constraint="non_neg",
    )
    hidden = [layers.Dense(4, activation=activation) for activation in ("relu", activations.gelu, activations.mish)]
    model = Sequential([Input((28, 28)), layers.Flatten(), *hidden, layers.LeakyReLU(), head])
    model.compile(loss=theirs, metrics=["accuracy"])
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        loaded = store.load_model(tmp_path / f"model{suffix}")
        np.testing.assert_array_equal(weights_digest(loaded), weights_digest(model))


@pytest.mark.fault("models", "a pickle")
def test_a_pickle_is_not_unpickled(honest, nothing_happens, tmp_path, count_cases):
    content = pickle.dumps(Opening(nothing_happens[0]))
    for name in ("model.pkl", "model.keras", "model.h5", "model"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    with zipfile.ZipFile(honest[0]) as archive:
        config = archive.read("config.json")
    npz = tmp_path / "model.weights.npz"
    for name, members in (
        ("config", {"config.json": content}),
        ("weights", {"config.json": config, "model.weights.h5": content}),
        ("arrays", {"config.json": config, npz.name: content}),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.keras", "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        refused(tmp_path / f"{name}.keras")
    count_cases(7)


@pytest.mark.fault("models", "a class of somebody else's")
def test_a_class_that_is_not_here_is_refused(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    class Theirs(layers.Layer):
        pass

    Sequential([Input((28, 28)), Theirs(), layers.Flatten(), layers.Dense(10)]).save(tmp_path / "model.keras")
    refused(tmp_path / "model.keras", match="Theirs")


@pytest.mark.fault("models", "a folder, FIFO, link loop or unreadable file in its place")
def test_what_cannot_be_read_is_refused(tmp_path, honest, count_cases):
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")
    (tmp_path / "loop.keras").symlink_to(tmp_path / "loop.keras")
    for name in ("folder.keras", "pipe.keras", "loop.keras", "n" * 300 + ".keras", "pipe.keras/model.keras"):
        refused(tmp_path / name, match="no such model file")
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        unreadable = [shutil.copy(path, folder) for path in honest]
        for path in unreadable:
            os.chmod(path, 0)
        os.seteuid(user or 65_534)  # root may read all
        try:
            for path in unreadable:
                refused(path, match="ermission denied")
        finally:
            os.seteuid(user)
    count_cases(7)


def test_a_saved_model_needs_nothing_of_ours(saved):
    import keras

    model = keras.models.load_model(saved)
    assert model.optimizer.name == "adam"
    assert int(model.optimizer.iterations) == 63
    with zipfile.ZipFile(saved) as archive:
        config = archive.read("config.json").decode()
    assert "lab." not in config
