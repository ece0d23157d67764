import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, flip_bits, run_measured

from lab import data
from lab.data import DamagedFile, DataError


def idx(array):
    """Return the bytes of an IDX file that holds a uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_split(folder, images, labels, split="test"):
    """Write made-up gzip IDX files; return a table as `data.FILES` that vouches for them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for (name, _, _), content in zip(data.FILES[split], (idx(images), idx(labels)), strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        rows.append((name, len(content), hashlib.sha256(content).hexdigest()))
    return {split: tuple(rows)}


@pytest.fixture
def made_up(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), np.uint8), rng.integers(0, 10, 7, np.uint8)
    return tmp_path, images, labels, write_split(tmp_path, images, labels)


def first_file(folder, files):
    """Return path, size and digest of the table's images."""
    name, size, sha256 = files["test"][0]
    return folder / f"{name}.gz", size, sha256


def test_good_files_are_read_back(made_up):
    folder, images, labels, files = made_up
    (split,) = data.read_splits(folder, ["test"], files)
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images.dtype == split.labels.dtype == np.uint8
    assert split.source == str(folder)


@pytest.mark.fault("data", "archive cut off at any byte")
def test_cut_off_archive_is_damaged(made_up, soak, count_cases):
    path, size, sha256 = first_file(made_up[0], made_up[3])
    whole = path.read_bytes()
    kept = range(0, len(whole), 1 if soak else 13)
    for n in kept:
        path.write_bytes(whole[:n])
        with pytest.raises(DamagedFile, match=path.name):
            data.read_idx(path, size, sha256)
    count_cases(len(kept))


@pytest.mark.fault("data", "archive with a bit flipped")
def test_every_flipped_bit_is_damage_or_does_not_matter(made_up, soak, count_cases):
    path, size, sha256 = first_file(made_up[0], made_up[3])
    for _ in flip_bits(path, 1 if soak else 97, count_cases):
        try:
            array = data.read_idx(path, size, sha256)
        except DamagedFile:
            continue
        # some bits, such as those of gzip's time stamp, do not matter: what is read is still the very data
        np.testing.assert_array_equal(array, made_up[1])


@pytest.mark.fault("data", "another digest")
def test_wrong_digest_is_damage(made_up):
    path, size, _ = first_file(made_up[0], made_up[3])
    with pytest.raises(DamagedFile, match="SHA-256"):
        data.read_idx(path, size, "0" * 64)


@pytest.mark.fault("data", "too short or too long")
def test_wrong_size_is_damage(made_up):
    path, size, sha256 = first_file(made_up[0], made_up[3])
    with pytest.raises(DamagedFile, match="instead of"):
        data.read_idx(path, size + 1, sha256)
    with pytest.raises(DamagedFile, match="more than"):
        data.read_idx(path, size - 1, sha256)


@pytest.mark.fault("data", "gzip bomb")
def test_gzip_bomb_stops_at_the_known_size(made_up):
    path, size, sha256 = first_file(made_up[0], made_up[3])
    with gzip.open(path, "wb") as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    _, before = run_measured("from lab import data")
    message, peak = run_measured(
        "from lab import data\n"
        "try:\n"
        f"    data.read_idx({str(path)!r}, {size}, {sha256!r})\n"
        "except data.DamagedFile as error:\n"
        "    print(error)"
    )
    assert "more than" in message
    assert peak - before < 20


@pytest.mark.fault("data", "wrong magic, dimensions or length; an HTML page; nothing at all")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "nothing"),
        (b"<!DOCTYPE html><html>", "no IDX file"),
        (b"\x00\x00\x09\x03" + bytes(12), "no IDX file"),
        (b"\x00\x00\x08\x02" + bytes(8), "no IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "cut off"),
        (idx(np.zeros((2, 28, 27))), "28 x 27"),
        (idx(np.zeros((2, 28, 28)))[:-1], "announces 1,568"),
        (idx(np.zeros(3)) + b"\x00", "4 values where its header announces 3"),
        (b"\x00\x00\x08\x01\xff\xff\xff\xff", "announces 4,294,967,295"),
    ],
)
def test_what_is_no_idx_is_damage(content, reason):
    with pytest.raises(DamagedFile, match=reason):
        data.parse_idx(content)


@pytest.mark.fault("data", "labels that are no class")
def test_labels_over_nine_are_refused(tmp_path):
    files = write_split(tmp_path, np.zeros((3, 28, 28)), np.array([0, 10, 1]))
    with pytest.raises(DataError, match="label 10"):
        data.read_splits(tmp_path, ["test"], files)


@pytest.mark.fault("data", "images without labels")
def test_images_and_labels_of_different_number_are_refused(tmp_path):
    files = write_split(tmp_path, np.zeros((3, 28, 28)), np.zeros(2))
    with pytest.raises(DataError, match="3 test images but 2 labels"):
        data.read_splits(tmp_path, ["test"], files)


@pytest.mark.fault("data", "missing, a folder, a FIFO or a link loop in its place")
@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "link loop"])
def test_what_is_no_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "x.gz"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link loop":
        path.symlink_to(path)
    with pytest.raises(DataError, match="no such file"):
        data.read_idx(path, 1, "")


def test_scale_gives_float32_between_0_and_1():
    images = np.arange(256, dtype=np.uint8).repeat(49).reshape(16, 28, 28)
    scaled = data.scale(images)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, images.astype(np.float32) / np.float32(255))
    assert (scaled.min(), scaled.max()) == (0, 1)


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """Give every source a made-up place, the fetching ones being empty; return the folders of cache and package."""
    cache, package = tmp_path / "home" / "datasets" / "fashion-mnist", tmp_path / "package"
    files = {}
    for split, n in (("train", 5), ("test", 3)):
        files |= write_split(package, np.full((n, 28, 28), n), np.arange(n), split)
    monkeypatch.setattr(data, "FILES", files)
    monkeypatch.setattr(data.read_splits, "__defaults__", (("train", "test"), files))
    monkeypatch.setattr(data, "SYSTEM_FOLDER", package)
    monkeypatch.setattr(data, "DOWNLOAD_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    return cache, package


def test_the_cache_comes_before_the_package(sources):
    cache, package = sources
    assert data.load_splits()[0].source == str(package)
    shutil.copytree(package, cache)
    assert data.load_splits()[0].source == str(cache)


def test_a_given_folder_comes_first_and_never_falls_through(sources, monkeypatch, tmp_path):
    cache, package = sources
    shutil.copytree(package, cache)
    assert data.load_splits(data_dir=package)[0].source == str(package)
    with pytest.raises(DataError, match="elsewhere"):
        data.load_splits(data_dir=tmp_path / "elsewhere")
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        data.load_splits()


@pytest.mark.fault("data", "damaged file in Keras' cache")
def test_a_damaged_cache_is_set_aside_and_said_so(sources, caplog):
    cache, package = sources
    shutil.copytree(package, cache)
    damaged = cache / f"{data.FILES['test'][0][0]}.gz"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert data.load_splits()[0].source == str(package)
    assert "set aside" in caplog.text
    assert not damaged.exists()
    assert damaged.with_name(f"{damaged.name}.damaged").stat().st_size == 40


@pytest.mark.fault("data", "no source at all")
def test_without_any_source_one_error_lists_what_was_tried(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")
    with pytest.raises(DataError) as caught:
        data.load_splits()
    message = str(caught.value)
    for part in ("home", "nowhere", "127.0.0.1", "no apt-get", "--data-dir", data.DEBIAN_PACKAGE, data.DOWNLOAD_HOST):
        assert part in message
    assert "\n" not in message


@pytest.mark.fault("data", "captive portal's page instead of an archive")
def test_what_is_fetched_is_verified_before_it_is_kept(sources, monkeypatch, tmp_path):
    cache, package = sources
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")

    def fetch_damaged(folder, names):
        shutil.copytree(package, folder, dirs_exist_ok=True)
        (folder / f"{data.FILES['test'][1][0]}.gz").write_bytes(b"<html>log in first</html>")
        return folder

    monkeypatch.setattr(data, "_download", fetch_damaged)
    with pytest.raises(DataError, match="damaged"):
        data.load_splits()
    assert not cache.exists()
    monkeypatch.setattr(data, "_download", lambda folder, names: package)
    assert data.load_splits()[0].source == data.DOWNLOAD_URL
    assert sorted(path.name for path in cache.iterdir()) == sorted(path.name for path in package.iterdir())


@pytest.mark.fault("data", "cache that cannot be written")
def test_fetched_data_serves_even_where_it_cannot_be_kept(sources, monkeypatch, tmp_path):
    _, package = sources
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(data, "_download", lambda folder, names: package)
    (tmp_path / "home").write_text("a file where the folder should be")
    assert len(data.load_splits()[0].labels) == 5


def test_load_data_returns_what_keras_returns(splits):
    (train_images, train_labels), (test_images, test_labels) = data.load_data()
    assert train_images.shape == (60_000, 28, 28)
    assert train_labels.shape == (60_000,)
    assert test_images.shape == (10_000, 28, 28)
    assert test_labels.shape == (10_000,)
    assert {array.dtype for array in (train_images, train_labels, test_images, test_labels)} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(np.bincount(train_labels), [6_000] * 10)
    np.testing.assert_array_equal(np.bincount(test_labels), [1_000] * 10)


def test_two_programs_at_once_on_an_empty_cache(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lab.data import load_data; print(load_data()[0][0].shape)"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0] for process in both] == ["(60000, 28, 28)\n"] * 2
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert all(name.endswith("-ubyte.gz") and not name.startswith(".") for name in kept)
