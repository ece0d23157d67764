"""Model files that are corrupt or hostile: loaded or refused in one line, with no side effect and in bounded memory."""

import os
import pickle
import shutil
import tempfile
import zipfile
import zlib

import numpy as np
import pytest
from conftest import run_measured
from model_files import (
    FEW_IMAGES,
    alter_model,
    assert_no_side_effects,
    assert_refused,
    describe_names,
    insert_layer,
    load_or_refuse,
    save_valid_models,
    set_in_last_layer,
)

from lab.guard.errors import LabError
from lab.guard.models import load_compatible_model
from lab.training.startup import start_tensorflow


@pytest.fixture
def valid(tmp_path):
    """Return the paths of a small valid model, as .keras and as legacy .h5."""
    return save_valid_models(tmp_path)


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
        files = [(name, content) for content in (b"", b"hello", pickled) for name in ("a.keras", "a.h5", "a.pkl", "a")]
        for name, content in files:
            (tmp_path / name).write_bytes(content)
            assert_refused(tmp_path / name)
        for name in ("config.json", "model.weights.h5"):
            assert_refused(alter_model(valid[0], "pickled", members=[(name, pickled)]))
    assert_refused(tmp_path / "missing.keras", match="no such model file")
    count_cases(len(files) + 3)


@pytest.mark.fault("models", "folder, FIFO, link loop or unreadable file in its place")
def test_what_cannot_be_read_is_refused(tmp_path, valid, count_cases):
    (tmp_path / "folder.keras").mkdir()
    os.mkfifo(tmp_path / "pipe.keras")  # opening it would block
    (tmp_path / "loop.keras").symlink_to(tmp_path / "loop.keras")
    for name in ("folder.keras", "pipe.keras", "loop.keras", "n" * 300 + ".keras", "pipe.keras/model.keras"):
        assert_refused(tmp_path / name, match="no such model file")
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        unreadable = [shutil.copy(path, folder) for path in valid]
        for path in unreadable:
            os.chmod(path, 0)
        os.seteuid(user or 65_534)  # root may read everything
        try:
            for path in unreadable:
                assert_refused(path, match="ermission denied")
        finally:
            os.seteuid(user)
    count_cases(7)


@pytest.mark.fault("models", "cut off")
def test_a_model_that_is_cut_off_is_refused(valid, tmp_path, soak, count_cases):
    cuts = 0
    for path in valid:
        content = path.read_bytes()
        for length in np.linspace(0, len(content), 1_000 if soak else 40, endpoint=False, dtype=int):
            cut = tmp_path / f"cut{path.suffix}"
            cut.write_bytes(content[:length])
            assert_refused(cut)
            cuts += 1
    count_cases(cuts)


@pytest.mark.fault("models", "bits flipped")
def test_a_model_with_flipped_bits_is_loaded_or_refused(valid, soak, count_cases):
    path = valid[0]  # not .h5: HDF5 crashes on some corrupt files, or does not return from them
    content, corrupt_path = path.read_bytes(), path.with_stem("corrupt")
    rng = np.random.default_rng(0)
    cases = 1_000 if soak else 50
    for number in range(cases):
        corrupt = bytearray(content)
        for _ in range(1 + number % 4):  # an archive's structure is at its end
            place = rng.integers(len(corrupt) if number % 2 else 4_096)
            corrupt[-1 - place] ^= 1 << rng.integers(8)
        corrupt_path.write_bytes(corrupt)
        load_or_refuse(corrupt_path, predict=number % 5 == 0)
    count_cases(cases)


ZEROS = zlib.compress(bytes(2**27), 9)


def create_empty_chunks(group, name):
    group.create_dataset(name, (2**15, 2**15), "f4", chunks=(1024, 1024))


def create_nothing_stored(group, name):
    group.create_dataset(name, (2**15, 2**15 - 1), "f4")  # Keras refuses from 4 GiB on


def create_compressed_chunks(group, name):
    dataset = group.create_dataset(name, (2**13, 2**15), "f4", chunks=(2**13, 2**12), compression="gzip")
    for column in range(8):
        dataset.id.write_direct_chunk((0, column * 2**12), ZEROS)


def create_chunk_of_another_size(group, name):
    dataset = group.create_dataset(name, (784, 10), "f4", chunks=(784, 10), compression="gzip")
    dataset.id.write_direct_chunk((0, 0), ZEROS)


def create_texts(group, name):
    group.create_dataset(name, data=["x"] * 10)  # all could be the same gigabyte


@pytest.mark.fault("models", "decompression bomb: archive, HDF5, config, file")
def test_a_decompression_bomb_takes_bounded_memory(valid, tmp_path, count_cases):
    bombs = [
        alter_model(path, create.__name__, dataset=create)
        for path in valid
        for create in (
            *(create_empty_chunks, create_nothing_stored, create_compressed_chunks),
            *(create_chunk_of_another_size, create_texts),
        )
    ]
    bombs += [alter_model(path, "large", config=set_in_last_layer(units=10**6)) for path in valid]
    for name in ("config.json", "model.weights.h5", "metadata.json"):
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        bombs.append(alter_model(valid[0], f"zipped-{name}", members=[(member, b" " * 2**27)]))
    bombs.append(alter_model(valid[0], "long", members=[("config.json", b"[" + b"{}," * 3_000_000 + b"{}]")]))
    bombs.append(alter_model(valid[0], "deep", members=[("config.json", b"[" * 2**20)]))
    for name in ("sparse.keras", "sparse.h5", "SPARSE.H5"):
        bombs.append(tmp_path / name)
        bombs[-1].touch()
        os.truncate(bombs[-1], 2**40)
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
    assert sum("it asks for 785,000,000 parameters" in line for line in lines) == 2
    count_cases(len(bombs))


@pytest.mark.fault("models", "loads but cannot predict")
def test_a_model_whose_activations_do_not_fit_in_memory_is_refused(tmp_path):
    start_tensorflow()
    from keras import Input, Sequential, layers

    enlarge = layers.UpSampling2D(20_000)  # to 40 TB
    huge = [Input((28, 28, 1)), enlarge, layers.GlobalAveragePooling2D(), layers.Dense(10)]
    Sequential(huge).save(tmp_path / "huge.keras")
    with pytest.raises(LabError, match=r"huge\.keras: .*cannot predict"):
        load_compatible_model(tmp_path / "huge.keras", *FEW_IMAGES)


@pytest.mark.fault("models", "links out of an HDF5 file")
def test_an_hdf5_file_leads_to_no_other_file(valid, tmp_path, count_cases):
    import h5py

    other, pipe = tmp_path / "other.h5", tmp_path / "pipe"
    shutil.copy(valid[1], other)
    os.mkfifo(pipe)  # opening it would block

    def link_to_file(group, name):
        group[name] = h5py.ExternalLink(other, "/model_weights")

    def link_layers(group, name):
        layers = group.file["model_weights" if "model_weights" in group.file else "layers"]
        for layer in [*layers]:
            del layers[layer]
            layers[layer] = h5py.ExternalLink(other, f"/model_weights/{layer}")

    def link_to_pipe(group, name):
        group[name] = h5py.ExternalLink(pipe, "/")

    def link_within(group, name):
        group[name] = h5py.SoftLink("/")

    def store_outside(group, name):
        group.create_dataset(name, (784, 10), "f4", external=[(other, 0, 784 * 10 * 4)])

    def map_other_dataset(group, name):
        layout = h5py.VirtualLayout((784, 10), "f4")
        layout[:] = h5py.VirtualSource(other, "weights", (784, 10))
        group.create_virtual_dataset(name, layout)

    kinds = (link_to_file, link_layers, link_to_pipe, link_within, store_outside, map_other_dataset)
    for path in valid:
        for kind in kinds:
            assert_refused(alter_model(path, kind.__name__, dataset=kind))
    count_cases(2 * len(kinds))


@pytest.mark.fault("models", "paths out of the archive")
def test_nothing_is_unpacked_elsewhere(valid, tmp_path, monkeypatch, count_cases):
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
    models = [alter_model(valid[0], name, members=added) for name, added in members.items()]
    before = sorted(tmp_path.rglob("*"))
    for path in models:
        load_or_refuse(path, predict=False)  # Keras unpacks such members below its temporary folder, or not at all
    assert sorted(path for path in tmp_path.rglob("*") if unpacked not in path.parents) == before
    count_cases(len(models))


@pytest.mark.fault("models", "code named in its config")
@pytest.mark.parametrize("place", ["layer", "activation", "kernel_initializer", "dtype"])
def test_what_a_config_names_is_not_run(valid, tmp_path, place, count_cases):
    def change(config):
        layers = config["config"]["layers"]
        if place == "layer":
            layers[-1] = name
        else:
            layers[-1]["config"][place] = name

    with assert_no_side_effects(tmp_path) as (witness, url):
        calls = [
            ("os", "system", {"command": f"touch {witness}"}),
            ("builtins", "exec", {"source": f"open({str(witness)!r}, 'w')"}),
            ("builtins", "open", {"file": str(witness), "mode": "w"}),
            ("tensorflow.io", "write_file", {"filename": str(witness), "contents": "x"}),
            ("keras.utils", "get_file", {"fname": str(witness), "origin": url}),
            ("keras.src.utils.file_utils", "get_file", {"fname": str(witness), "origin": url}),
            ("keras.src.saving.saving_lib", "H5IOStore", {"path_or_io": str(witness), "mode": "w"}),
            ("keras.datasets.california_housing", "load_data", {}),  # would load it from the network
            ("keras.distribution", "set_distribution", {}),  # would break all models that are loaded later
            ("keras.callbacks", "CSVLogger", {"filename": str(witness)}),
            ("lab.guard.files", "require_writable", {"path": str(witness)}),
        ]
        cases = [(path, name) for path in valid for call in calls for name in describe_names(*call)]
        for path, name in cases:  # noqa: B007 - `change` uses it
            assert_refused(alter_model(path, "named", config=change))
    count_cases(len(cases))


@pytest.mark.fault("models", "layers that read files or run code")
def test_layers_that_read_files_or_run_code_are_refused(valid, tmp_path, count_cases):
    secret = tmp_path / "secret.txt"
    secret.write_text("a\nb\n")
    relu, load_data = (
        next(describe_names(*name, {})) for name in (("keras.ops", "relu"), ("keras.datasets.imdb", "load_data"))
    )
    with assert_no_side_effects(tmp_path) as (witness, url):
        code = pickle.dumps(PickledCall(witness)).decode("latin-1")
        lambda_config = {"code": code, "defaults": None, "closure": None}
        layers = [
            ("StringLookup", {"vocabulary": str(secret)}),
            ("StringLookup", {"vocabulary": url}),
            ("TextVectorization", {"vocabulary": str(secret)}),
            ("TorchModuleWrapper", {"module": {"class_name": "__bytes__", "config": {"value": code}}}),
            ("TFSMLayer", {"filepath": str(tmp_path), "call_endpoint": "serve"}),
            ("Lambda", {"function": {"class_name": "__lambda__", "config": lambda_config}}),
            ("Lambda", {"function": [code, None, None], "function_type": "lambda"}),
            ("Lambda", {"function": relu}),  # harmless itself, but others would be called with any arguments
            ("Lambda", {"function": load_data, "arguments": {"index_from": 1}}),
        ]
        for path in valid:
            for name, arguments in layers:
                assert_refused(alter_model(path, "layer", config=insert_layer(name, arguments)))
    count_cases(2 * len(layers))
