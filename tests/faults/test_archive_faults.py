"""Files that are truncated, changed or made up: each is read as it was described, or is an error."""

import gzip
import hashlib
import lzma
import os
import zipfile

import numpy as np
import pytest
from conftest import run_measured
from mirror import NAMES, format_idx, write_npz

from lab.guard.data_files import DataError, MissingFile, find_file, read_unverified, read_verified

IMAGES = NAMES[2]
ARRAY = np.random.default_rng(0).integers(0, 256, (7, 28, 28), np.uint8)
CONTENT = format_idx(ARRAY)
DIGESTS = {IMAGES: hashlib.sha256(CONTENT).hexdigest()}
FORMS = {"gz": gzip.compress, "xz": lzma.compress, "plain": bytes, "npz": None}


def try_to(read, *arguments):
    """Return what a function reads, or its error's message."""
    try:
        return read(*arguments)
    except DataError as error:
        return str(error)


@pytest.mark.fault("data", "file that is truncated, or has a byte changed or inserted")
@pytest.mark.parametrize("form", FORMS)
def test_a_file_damaged_anywhere_is_refused_or_read_as_it_was(tmp_path, form, soak, count_cases):
    path = tmp_path / ("mnist.npz" if form == "npz" else f"{IMAGES}.gz")
    if form == "npz":
        write_npz(path, [ARRAY, np.arange(7), ARRAY, np.arange(7)])
    else:
        path.write_bytes(FORMS[form](CONTENT))
    whole = path.read_bytes()
    places = range(0, len(whole), 1 if soak else 137)
    for n in places:
        for rest in (b"", bytes([whole[n] ^ 0x41]) + whole[n + 1 :], b"\x00" + whole[n:]):
            path.write_bytes(whole[:n] + rest)
            read = try_to(read_verified, "mnist", tmp_path, DIGESTS)
            assert read == [CONTENT] or str(path) in read
            assert rest or read != [CONTENT]
            if form != "npz":  # by size only: pixels may differ
                read = try_to(read_unverified, tmp_path, IMAGES)
                assert len(read) == len(CONTENT) or str(path) in read
    count_cases(3 * len(places))


@pytest.mark.fault("data", "missing file, or a folder, a FIFO or a link loop in its place")
@pytest.mark.parametrize("make", [None, os.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_only_regular_files_are_opened(tmp_path, make):
    if make:
        make(tmp_path / f"{IMAGES}.gz")
    with pytest.raises(MissingFile, match=f"no {IMAGES}"):
        find_file(tmp_path, IMAGES)


def write_bomb(path, form):
    """Write a file that is small on disk: the header of seven images, then 200 MB of zeros."""
    zeros = bytes(200 << 20)
    if form == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("x_test.npy", b"\x93NUMPY\x01\x00\x76\x00" + zeros)
    else:
        compress = {"gz": gzip.compress, "xz": lambda content: lzma.compress(content, preset=0)}[form]
        path.write_bytes(compress(CONTENT[:16] + zeros))


@pytest.mark.fault("data", "decompression bomb")
@pytest.mark.parametrize(
    ("form", "function", "most"),
    [
        ("gz", f"read_unverified(FOLDER, {IMAGES!r})", 20),
        ("xz", f"read_unverified(FOLDER, {IMAGES!r})", 20),
        ("gz", f"read_verified('mnist', FOLDER, {DIGESTS!r})", 120),  # the largest file of MNIST has 45 MiB
        ("npz", f"read_verified('mnist', FOLDER, {DIGESTS!r})", 160),
    ],
)
def test_a_bomb_is_read_no_further_than_the_known_size(tmp_path, form, function, most):
    write_bomb(tmp_path / ("mnist.npz" if form == "npz" else f"{IMAGES}.{form}"), form)
    load = "from lab.guard.data_files import DataError, read_unverified, read_verified\n"
    _, before = run_measured(load)
    call = function.replace("FOLDER", repr(str(tmp_path)))
    message, peak = run_measured(f"{load}try:\n    {call}\nexcept DataError as error:\n    print(error)")
    assert "corrupt" in message
    assert peak - before < most
