"""Loading data sets: Fashion-MNIST, MNIST and folders; where they are found, and what is refused.

tests/faults has the faults of servers and of files.
"""

import gzip
import lzma
import os
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from mirror import NAMES, format_idx, make_arrays, write_data_set, write_npz
from PIL import Image

from lab.guard import sources
from lab.guard.data_files import DataError
from lab.guard.errors import LabError
from lab.study.data_sets import class_names, find_data_set
from lab.training import data
from lab.training.data import DataSet, data_digest, load_data, load_test_data

FORMS = {
    "gzip": (".gz", gzip.compress),
    "xz": (".xz", lzma.compress),
    "plain": ("", bytes),
    "plain, named .gz": (".gz", bytes),
    "gzip, named .xz": (".xz", gzip.compress),
}


@pytest.mark.parametrize("name", ["mnist", "made up"])
@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_read_as_they_were_written_in_any_form(name, form, tmp_path, monkeypatch):
    arrays = make_arrays(train=7, test=5)
    digests = write_data_set(tmp_path, arrays, *FORMS[form])
    monkeypatch.setattr(data, "DIGESTS", {"mnist": digests})
    splits = load_data(DataSet(name, str(tmp_path)))
    for read, written in zip([array for split in splits for array in split], arrays, strict=True):
        np.testing.assert_array_equal(read, written)
        assert read.dtype == np.uint8
        assert not read.flags.writeable  # a view of the bytes, not a copy
    np.testing.assert_array_equal(load_test_data(DataSet(name, str(tmp_path), test_images=3)).labels, [0, 1, 2])


def test_the_first_images_are_taken_if_there_are_as_many(archives):
    train, test = load_data(DataSet(folder=str(archives), train_images=3, test_images=2))
    assert (train.images.shape, test.images.shape) == ((3, 28, 28), (2, 28, 28))
    np.testing.assert_array_equal(train.labels, [0, 1, 2])
    with pytest.raises(LabError, match="has 300 train images, not 301"):
        load_data(DataSet(folder=str(archives), train_images=301))


def test_test_data_need_no_training_data(archives):
    (archives / f"{NAMES[0]}.gz").unlink()
    assert len(load_test_data(DataSet(folder=str(archives))).labels) == 200
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte, \.gz or \.xz in it"):
        load_data(DataSet(folder=str(archives)))


# other data sets


def test_a_digest_is_of_the_content(tmp_path, monkeypatch):
    assert data_digest(DataSet("mnist")).startswith("c65580678af9")  # constants; nothing is read
    arrays = make_arrays(7, 5)
    named = write_data_set(tmp_path / "a", arrays)
    for path in (tmp_path / "a").iterdir():
        os.utime(path, (0, 0))
    write_data_set(tmp_path / "b", arrays, "", bytes)
    digest = data_digest(DataSet("a", str(tmp_path / "a"), train_images=2))
    assert digest == data_digest(DataSet("b", str(tmp_path / "b")))
    monkeypatch.setattr(data, "DIGESTS", {"mnist": named})
    assert digest == data_digest(DataSet("mnist"))
    arrays[0][0, 0, 0] ^= 1
    write_data_set(tmp_path / "a", arrays)
    assert digest != data_digest(DataSet("a", str(tmp_path / "a")))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (None, tuple("0123456789")),
        ("", tuple("0123456789")),
        ("\ufeffairplane\r\nautomobile\r\n\r\n cat \r\n\r\n", ("airplane", "automobile", "2", "cat", *"456789")),
        ("x\n" * 10, ("x",) * 10),
        ("x\n" * 11, None),
        ("x\x1b[2J\n", None),
        ("\udcff", None),
    ],
    ids=["no file", "empty", "some", "ten", "eleven", "control characters", "not UTF-8"],
)
def test_class_names_are_lines_of_a_file(content, names, tmp_path):
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content.encode("utf-8", "surrogateescape"))
    if names:
        assert class_names(DataSet("x", str(tmp_path))) == names
    else:
        with pytest.raises(DataError, match="classes.txt: "):
            class_names(DataSet("x", str(tmp_path)))


def test_classes_of_named_data_sets():
    assert class_names(DataSet())[9] == "Ankle boot"
    assert class_names(DataSet("mnist"))[9] == "9"


def test_a_command_line_names_a_data_set(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_data_set(tmp_path / "cifar", make_arrays(7, 5))
    assert find_data_set("fashion-mnist", train_images=9) == DataSet(train_images=9)
    assert find_data_set("mnist", "~/x", test_images=9) == DataSet("mnist", str(tmp_path / "x"), test_images=9)
    for text in ("cifar", "~/cifar", "./mnist files/../cifar/"):
        assert find_data_set(text, train_images=5) == DataSet("cifar", str(tmp_path / "cifar"), 5)
    # a folder with the name of a known data set is to hold that
    shutil.copytree(tmp_path / "cifar", tmp_path / "x" / "MNIST")
    assert find_data_set("x/MNIST") == DataSet("mnist", str(tmp_path / "x" / "MNIST"))
    with pytest.raises(LabError, match="another data set .* takes others in a folder of another name"):
        load_data(find_data_set("x/MNIST"))
    for arguments, reason in (
        (["nowhere"], "neither fashion-mnist nor mnist nor a folder"),
        (["cifar", "x"], "--data-dir x is for fashion-mnist and mnist"),
        (["x"], f"x: no t10k-labels-idx1-ubyte, .*; {tmp_path}/x/MNIST has it"),
        ([f"cifar/{NAMES[1]}.gz"], "is a file; give the folder that it is in"),
    ):
        with pytest.raises(LabError, match=reason):
            find_data_set(*arguments)
    with pytest.raises(LabError, match="imagenet is neither fashion-mnist nor mnist, and no folder"):
        load_data(DataSet("imagenet"))


def test_the_documented_code_makes_a_data_set(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = [(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n)[:, None] % 10) for n in (11, 7)]
    datasets = SimpleNamespace(cifar10=SimpleNamespace(load_data=lambda: arrays))
    monkeypatch.setitem(sys.modules, "keras", SimpleNamespace(datasets=datasets))
    monkeypatch.setitem(sys.modules, "keras.datasets", datasets)
    monkeypatch.chdir(tmp_path)
    exec((ROOT / "docs/data.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], {})
    data_set = find_data_set("cifar10-grey")
    train, test = load_data(data_set)
    for split, (images, labels) in zip((train, test), arrays, strict=True):
        luminance = Image.fromarray(images[0]).convert("L").crop((2, 2, 30, 30))
        np.testing.assert_allclose(split.images[0], np.asarray(luminance, float), atol=1)
        np.testing.assert_array_equal(split.labels, labels[:, 0])
    assert class_names(data_set)[::9] == ("airplane", "truck")


@pytest.mark.fault("data", "folder of other files, or of files that contradict each other")
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (0, format_idx(np.zeros((7, 32, 32))), "not an IDX file of 28 x 28 grey images"),
        (0, format_idx(np.zeros((0, 28, 28)))[:4] + b"\xff" * 4 + bytes((0, 0, 0, 28)) * 2, "too large"),
        (0, format_idx(np.zeros((6, 28, 28))), "6 train images with 7 labels"),
        (0, format_idx(np.zeros((7, 28, 28)))[:-1], "holds 5,503 bytes instead of 5,504"),
        (0, format_idx(np.zeros((7, 28, 28))) + b"x", "holds more bytes instead of 5,504"),
        (1, b"\x00\x00\x09" + format_idx(np.zeros(7))[3:], "not an IDX file of labels"),
        (1, format_idx(np.full(7, 10)), "has a train label 10; at most ten classes, 0 to 9"),
        (3, b"", "not an IDX file of labels"),
    ],
)
def test_a_folder_is_checked(file, content, reason, tmp_path):
    write_data_set(tmp_path, make_arrays(7, 5))
    (tmp_path / f"{NAMES[file]}.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=reason):
        load_data(DataSet("made up", str(tmp_path)))


def test_a_folder_without_images_is_refused(tmp_path):
    write_data_set(tmp_path, make_arrays(7, 0))
    with pytest.raises(DataError, match="0 test images"):
        load_data(DataSet("made up", str(tmp_path)))


# sources


def test_the_cache_is_read_before_the_system_folder_and_that_before_a_download(client, archives, mirror, monkeypatch):
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", archives)
    assert client.load() == str(archives)
    shutil.copytree(archives, client.cache / "fashion-mnist")
    assert client.load() == str(client.cache / "fashion-mnist")
    assert not mirror.connections


@pytest.mark.fault("data", "given folder that is missing or corrupt, other sources being good")
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_a_given_folder_is_the_only_source(name, client, archives, monkeypatch, tmp_path):
    shutil.copytree(archives, client.cache / ("" if name == "mnist" else name))
    given = tmp_path / ("mnist files" if name == "mnist" else "archives")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert client.load(name, str(given)) == str(given)
    variable = "MNIST_DIR" if name == "mnist" else "FASHION_MNIST_DIR"
    monkeypatch.setenv(variable, f"~/{given.name}")
    client.load(name)
    path = given / f"{NAMES[1]}.gz"
    path.write_bytes(gzip.compress(format_idx(np.zeros(300))))
    with pytest.raises(DataError, match=rf"{path}: corrupt, or .*SHA-256 is not {name}'s.*; {variable} gives this"):
        load_data(DataSet(name))
    with pytest.raises(DataError, match="elsewhere: no such folder"):
        load_data(DataSet(name, str(tmp_path / "elsewhere")))


def test_a_source_is_named_once(archives, tmp_path, caplog):
    shutil.copytree(archives, tmp_path / "copy")
    for folder in (archives, tmp_path / "copy", archives):
        load_data(DataSet(folder=str(folder)))
        load_test_data(DataSet(folder=str(folder)))
    assert caplog.messages == [f"data: {archives}", f"data: {tmp_path / 'copy'}"]


@pytest.mark.fault("data", "corrupt file in Keras' cache")
@pytest.mark.parametrize(("name", "bad"), [("fashion-mnist", f"fashion-mnist/{NAMES[2]}.gz"), ("mnist", "mnist.npz")])
def test_a_bad_file_in_the_cache_is_left_alone(name, bad, client, mirror, caplog):
    path = client.cache / bad
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody's")
    for _ in range(2):  # the bad file is in the way, so that it is fetched again
        assert client.load(name) == sources.DOWNLOAD_URL
    assert f"{path}: c" in caplog.text
    assert "left as it is (remove it if it is of no use); looking elsewhere" in caplog.text
    assert path.read_bytes() == b"somebody's"
    assert sum(file.is_file() for file in client.cache.rglob("*")) == (4 if name == "fashion-mnist" else 1)
    path.unlink()
    client.load(name)
    assert client.load(name) == str(path.parent)


@pytest.mark.fault("data", "no source at all")
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_one_error_lists_what_was_tried_and_the_ways_out(name, archives):
    with pytest.raises(DataError) as caught:
        load_data(DataSet(name))
    for part in (f"{name} was not found", "home", "Connection refused", "--data-dir", "SSL_CERT_FILE"):
        assert part in str(caught.value)
    for part in ("nowhere", "apt-get", sources.DEBIAN_PACKAGE):  # of MNIST, Debian has no package
        assert (part in str(caught.value)) == (name == "fashion-mnist")


@pytest.mark.parametrize(
    ("name", "files"), [("fashion-mnist", [f"{name}.gz" for name in sorted(NAMES)]), ("mnist", ["mnist.npz"])]
)
def test_a_download_is_verified_kept_as_keras_keeps_it_and_not_repeated(name, files, mirror, client):
    assert client.load(name) == sources.DOWNLOAD_URL
    assert client.kept_files() == files
    assert client.load(name) == str(sources.keras_cache(name))
    assert mirror.connections == len(files)


@pytest.mark.fault("data", "mnist.npz with other arrays, or none")
def test_another_npz_is_not_mnist(archives):
    for write in (
        lambda path: write_npz(path, make_arrays(seed=2)),
        lambda path: np.savez(path, x_train=np.zeros(3)),
        lambda path: path.write_bytes(b"PK\x03\x04"),
        lambda path: zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2).writestr("x_train.npy", b"\x93NUMPY"),  # a bomb
    ):
        write(archives / "mnist.npz")
        with pytest.raises(DataError, match="mnist.npz: (corrupt|cannot be read)"):
            load_data(DataSet("mnist", str(archives)))


def write_package_tools(monkeypatch, archives, folder, download):
    """Put an `apt-get` that downloads as this shell command does, and a `dpkg-deb`, before the system's."""
    folder.mkdir()
    unpacked = f'"$3{sources.SYSTEM_FOLDER}"'
    for name, command in (
        ("apt-get", f"case $* in *download*) {download};; *) exit 100;; esac"),  # `update` fails
        ("dpkg-deb", f"mkdir -p {unpacked} && cp {archives}/* {unpacked}"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sources.shutil, "which", lambda name: name)


@pytest.mark.fault("data", "package that cannot be downloaded")
def test_a_package_is_unpacked_or_one_line_says_why_not(client, archives, monkeypatch, tmp_path):
    write_package_tools(monkeypatch, archives, tmp_path / "bad", "printf 'first\\nE: no such package\\n' >&2; exit 100")
    assert f"package {sources.DEBIAN_PACKAGE}: E: no such package. " in client.assert_fails_cleanly("not found")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "PACKAGE_SECONDS", 1)
        write_package_tools(patch, archives, tmp_path / "slow", "echo waits >&2; exec sleep 60")
        assert "timed out after 1 seconds. " in client.assert_fails_cleanly("not found")
    write_package_tools(monkeypatch, archives, tmp_path / "bin", "touch x.deb")
    assert client.load() == f"package {sources.DEBIAN_PACKAGE}"
    assert client.kept_files() == sorted(f"{name}.gz" for name in NAMES)


@pytest.mark.fault("data", "cache that cannot be written")
def test_fetched_data_are_used_even_if_they_cannot_be_kept(client, mirror, tmp_path, caplog):
    (tmp_path / "home").write_text("a file in place of the folder")
    assert client.load() == sources.DOWNLOAD_URL
    assert "not kept for the next time: cannot write" in caplog.text
