"""Model files that are corrupt or hostile: loaded or refused in one line, with no side effect and in bounded memory."""

import contextlib
import json
import os
import pickle
import shutil
import zipfile
import zlib

import numpy as np
import pytest
from conftest import run_measured
from model_files import FEW_IMAGES, alter_model, assert_no_side_effects, assert_refused, insert_layer, set_in_last_layer

from lab.guard.errors import LabError
from lab.guard.models import load_compatible_model, load_model


class PickledCall:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.fault("models", "not a zip archive, not HDF5, a pickle, not a file")
def test_what_is_not_a_model_is_refused(valid, tmp_path, count_cases):
    with assert_no_side_effects(tmp_path) as (witness, _):
        pickled = pickle.dumps(PickledCall(witness))
        files = [(name, content) for content in (b"", b"hello", pickled) for name in ("a.keras", "a.h5", "a.pkl")]
        for name, content in files:
            (tmp_path / name).write_bytes(content)
            assert_refused(tmp_path / name)
        for name in ("config.json", "model.weights.h5"):
            assert_refused(alter_model(valid[0], "pickled", members=[(name, pickled)]))
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")  # opening it would block
    (tmp_path / "loop.keras").symlink_to(tmp_path / "loop.keras")
    names = ("missing.keras", "folder.keras", "pipe.keras", "loop.keras", "n" * 300 + ".keras", "pipe.keras/x.keras")
    for name in names:
        assert_refused(tmp_path / name, match="no such model file")
    count_cases(len(files) + 2 + len(names))


@pytest.mark.fault("models", "cut off")
def test_a_model_that_is_cut_off_is_refused(valid, tmp_path, soak, count_cases):
    cases = 1_000 if soak else 8
    for path in valid:
        content = path.read_bytes()
        for length in np.linspace(0, len(content), cases, endpoint=False, dtype=int):
            (tmp_path / f"cut{path.suffix}").write_bytes(content[:length])
            assert_refused(tmp_path / f"cut{path.suffix}")
    count_cases(2 * cases)


@pytest.mark.fault("models", "bits flipped")
def test_a_model_with_flipped_bits_is_loaded_or_refused(valid, soak, count_cases):
    path = valid[0]  # not .h5: HDF5 crashes on some corrupt files, or does not return from them
    content, corrupt_path = path.read_bytes(), path.with_stem("corrupt")
    rng = np.random.default_rng(0)
    cases = 1_000 if soak else 20
    for number in range(cases):
        corrupt = bytearray(content)
        for _ in range(1 + number % 4):  # an archive's structure is at its end
            place = rng.integers(len(corrupt) if number % 2 else 4_096)
            corrupt[-1 - place] ^= 1 << rng.integers(8)
        corrupt_path.write_bytes(corrupt)
        with contextlib.suppress(LabError):
            model = load_model(corrupt_path) if number % 5 else load_compatible_model(corrupt_path, *FEW_IMAGES)
            assert model.output_shape == (None, 10)
    count_cases(cases)


def create_nothing_stored(group, name):
    group.create_dataset(name, (2**15, 2**15 - 1), "f4")  # Keras refuses from 4 GiB on


def create_compressed(group, name):
    dataset = group.create_dataset(name, (2**10, 2**15), "f4", chunks=(2**10, 2**15), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**27), 9))


def create_texts(group, name):
    group.create_dataset(name, data=["x"] * 10)  # all could be the same gigabyte


@pytest.mark.fault("models", "decompression bomb: archive, HDF5, config")
def test_a_decompression_bomb_takes_bounded_memory(valid, count_cases):
    bombs = [
        alter_model(path, create.__name__, dataset=create)
        for path in valid
        for create in (create_nothing_stored, create_compressed, create_texts)
    ]
    bombs += [alter_model(path, "large", set_in_last_layer(units=10**6)) for path in valid]
    member = zipfile.ZipInfo("config.json")
    member.compress_type = zipfile.ZIP_DEFLATED
    bombs.append(alter_model(valid[0], "zipped", members=[(member, b" " * 2**27)]))
    harmless = {"model_config": zipfile.ZipFile(valid[0]).read("config.json").decode()}  # not what Keras reads
    members = [("metadata.json", json.dumps(harmless))]
    bombs.append(alter_model(valid[0], "two configs", set_in_last_layer(units=10**6), members=members))
    peak = "int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    printed, after = run_measured(
        "import warnings\n"
        "warnings.simplefilter('ignore', ResourceWarning)\n"
        "from lab.guard.errors import LabError\n"
        "from lab.guard.models import load_model\n"
        "from lab.training.startup import start_tensorflow\n"
        "start_tensorflow()\n"
        f"load_model({str(valid[0])!r})\n"
        f"print({peak})\n"
        f"for path in {[*map(str, bombs)]}:\n"
        "    try:\n"
        "        load_model(path)\n"
        "    except LabError as error:\n"
        "        print(error)"
    )
    before, *lines = printed.splitlines()
    assert [line.split(": ")[0] for line in lines] == [*map(str, bombs)]
    assert after - int(before) / 1024 < 50
    assert sum("it asks for 785,000,000 parameters" in line for line in lines) == 3
    count_cases(len(bombs))


@pytest.mark.fault("models", "archive or HDF5 that names one content often, other members, large metadata")
def test_what_a_file_repeats_is_not_read(valid, count_cases):
    import h5py

    def name_often(group, name):
        group.create_dataset(name, data=np.zeros((784, 10), "f4"))

    path = alter_model(valid[1], "often", dataset=name_often)
    with h5py.File(path, "a") as file:
        group = next(each for each in file["model_weights"].values() if len(each.attrs["weight_names"]))
        group.attrs["weight_names"] = [next(iter(group.attrs["weight_names"]))] * 1_000
        file.attrs["more"] = np.array(["x", "y"], dtype=h5py.string_dtype())
    assert_refused(path, match="compressed or larger than what is stored")
    for members in ([("assets/x", b"x")], [("metadata.json", b" " * 2**22 + b"{}")]):
        assert_refused(
            alter_model(valid[0], "members", members=members), match="does not hold just|more than 4,194,304"
        )
    count_cases(3)


@pytest.mark.fault("models", "operations that call what the config names or compute from constants; unused layers")
def test_the_graph_of_a_model_calls_and_makes_nothing_else(tmp_path, count_cases):
    from keras import Input, Model, layers

    inputs = Input((28, 28))
    Model(inputs, layers.Dense(10)(layers.Flatten()(inputs))).save(tmp_path / "graph.keras")
    called = {"class_name": "function", "config": "TFSMLayer", "module": "keras.layers", "registered_name": "TFSMLayer"}
    array = {"class_name": "__numpy__", "config": {"value": 0.5, "dtype": "99f4"}}
    large = {"units": 400_000, "kernel_initializer": "zeros"}
    entries = [
        ("keras.src.ops.core", "Switch", {}, [0, [called], str(tmp_path)], "Switch, which is not a safe part"),
        ("keras.layers", "Flatten", {"activation": called}, None, "TFSMLayer, which is not a safe part"),
        ("keras.src.ops.numpy_test", "Arange", {}, None, "Arange, which is not a safe part"),
        ("keras.src.saving.saving_lib", "Arange", {}, None, "Arange, which is not a safe part"),
        ("keras.src.ops.numpy", "Arange", {}, [0, 99, 1], "computes something from constants"),
        ("keras.layers", "Flatten", {"x": array}, None, "an array of an unusual dtype"),
        ("keras.layers", "Dense", large, None, "asks for 314,007,850 parameters"),
    ]
    for module, name, config, arguments, match in entries:
        nodes = [{"args": arguments, "kwargs": {}}] if arguments else []
        entry = {"module": module, "class_name": name, "config": {"name": "x", **config}, "inbound_nodes": nodes}
        entry |= {"name": "x", "registered_name": None, "build_config": {"input_shape": [None, 784]}}
        assert_refused(alter_model(tmp_path / "graph.keras", "more", insert_layer(entry)), match=match)
    hidden = layers.GlobalMaxPooling1D()(layers.RepeatVector(6_000)(layers.Flatten()(inputs)))
    Model(inputs, layers.Dense(10)(hidden)).save(tmp_path / "graph.keras")
    assert_refused(tmp_path / "graph.keras", match="gives more than 4,194,304 numbers for an image")
    count_cases(len(entries) + 1)


# what Keras' safe mode refuses; these tests fail if another Keras does not


@pytest.mark.fault("models", "links out of an HDF5 file")
def test_an_hdf5_file_leads_to_no_other_file(valid, tmp_path, count_cases):
    import h5py

    other = shutil.copy(valid[1], tmp_path / "other.h5")

    def link_to_file(group, name):
        group[name] = h5py.ExternalLink(other, "/model_weights")

    def store_outside(group, name):
        group.create_dataset(name, (784, 10), "f4", external=[(other, 0, 784 * 10 * 4)])

    def map_other_dataset(group, name):
        layout = h5py.VirtualLayout((784, 10), "f4")
        layout[:] = h5py.VirtualSource(other, "weights", (784, 10))
        group.create_virtual_dataset(name, layout)

    kinds = (link_to_file, store_outside, map_other_dataset)
    for path in valid:
        for kind in kinds:
            assert_refused(alter_model(path, kind.__name__, dataset=kind))
    count_cases(2 * len(kinds))


@pytest.mark.fault("models", "code in its config, or named there; layers that read files")
def test_a_config_runs_no_code_and_reads_no_file(valid, tmp_path, count_cases):
    secret = tmp_path / "secret.txt"
    secret.write_text("PASSWORD\nb\nPASSWORD\n")
    with assert_no_side_effects(tmp_path) as (witness, url):
        code = pickle.dumps(PickledCall(witness)).decode("latin-1")
        lambda_config = {"code": code, "defaults": None, "closure": None}
        layers = [
            ("StringLookup", {"vocabulary": str(secret)}),
            ("TextVectorization", {"vocabulary": url}),
            ("TorchModuleWrapper", {"module": {"class_name": "__bytes__", "config": {"value": code}}}),
            ("TFSMLayer", {"filepath": str(tmp_path), "call_endpoint": "serve"}),
            ("Lambda", {"function": {"class_name": "__lambda__", "config": lambda_config}}),
            ("Lambda", {"function": [code, None, None], "function_type": "lambda"}),
            ("Lambda", {"function": {"module": "keras.ops", "class_name": "function", "config": "relu"}}),
        ]
        functions = [
            ("os", "system", {"command": f"touch {witness}"}),
            ("builtins", "open", {"file": str(witness), "mode": "w"}),
            ("keras.distribution", "set_distribution", {"value": None}),
            ("keras.datasets.mnist", "load_data", {"path": str(witness)}),
            ("keras.utils", "get_file", {"fname": str(witness), "origin": url}),
            ("keras.src.saving.saving_lib", "H5IOStore", {"path_or_io": str(witness), "mode": "w"}),
            ("lab.guard.files", "require_writable", {"path": str(witness)}),
        ]
        as_classes = [{"module": module, "class_name": name, "config": given} for module, name, given in functions]
        as_functions = [{"module": each[0], "class_name": "function", "config": each[1]} for each in functions]
        for path in valid:
            # the forms of what is refused below are those of what loads: it is refused for what it names
            relu = {"module": "keras.layers", "class_name": "ReLU", "config": {}, "registered_name": None}
            load_model(alter_model(path, "harmless", insert_layer(relu)))
            function = {"module": "keras.activations", "class_name": "function", "config": "relu"}
            for activation in ({"module": "keras.layers", "class_name": "ReLU", "config": {}}, function):
                load_model(alter_model(path, "harmless", set_in_last_layer(activation=activation)))
            for name, given in layers:
                layer = {"module": "keras.layers", "class_name": name, "config": given, "registered_name": None}
                assert_refused(alter_model(path, "layer", insert_layer(layer)))
            legacy = {"class_name": "StringLookup", "config": {"name": "s", "vocabulary": str(secret)}}  # as of Keras 2
            assert "PASSWORD" not in assert_refused(alter_model(path, "legacy", insert_layer(legacy)))
            for named in as_classes + as_functions:
                assert_refused(alter_model(path, "activation", set_in_last_layer(activation=named)))
    count_cases(2 * (len(layers) + 1 + 2 * len(functions)))
