"""How the files of a data set are read before anything trusts them.

They are in the IDX format: a header that says what the file holds and how much, then the values, a byte each. Here they
go by their names without .gz or .xz; in which of these forms a file is, its content says.
"""

import gzip
import hashlib
import lzma
import os
import zipfile
from pathlib import Path

from lab.guard.errors import LabError, brief

LARGEST_NAMED = 47_040_016  # bytes of the largest file of Fashion-MNIST and MNIST, decompressed
LARGEST_UNNAMED = 1 << 30  # bytes of the largest file that is read from any other folder: 1.4 million images

# Keras keeps MNIST as one file with four arrays
MNIST_ARRAYS = {
    "train-images-idx3-ubyte": "x_train.npy",
    "train-labels-idx1-ubyte": "y_train.npy",
    "t10k-images-idx3-ubyte": "x_test.npy",
    "t10k-labels-idx1-ubyte": "y_test.npy",
}


class DataError(LabError):
    """The files of a data set were not found, or are not what they should be."""


class MissingFile(DataError):
    """A folder does not have a file."""


def read_verified(data_set, folder, digests):
    """Return the decompressed contents of files of a named data set, a list of bytes.

    Args: "fashion-mnist" or "mnist"; where its files are; SHA-256 of each file's decompressed content, by its name
    Raises: MissingFile; DataError, a file cannot be read, or has another digest.
    """
    contents = []
    for name, sha256 in digests.items():
        path = Path(os.path.expanduser(folder), "mnist.npz")
        if data_set == "mnist" and os.path.isfile(path):
            content = _read_npz(path, name)
        else:
            path = find_file(folder, name)
            content = read_file(path, LARGEST_NAMED + 1)
        if hashlib.sha256(content).hexdigest() != sha256:
            reason = f"corrupt, or of another data set (its SHA-256 is not {data_set}'s)"
            raise DataError(f"{path}: {reason}; --dataset takes others in a folder of another name")
        contents.append(content)
    return contents


def read_unverified(folder, name):
    """Return the decompressed content of any IDX file of 28 x 28 images or of labels, of the size its header says.

    No more than that is decompressed, whatever the file holds.

    Raises: MissingFile; DataError, not such a file, or larger or smaller than its header says.
    """
    path = find_file(folder, name)
    header = read_file(path, len(_format_header(name, 0)))
    count = int.from_bytes(header[4:8], "big")
    if header != _format_header(name, count):
        kind = "28 x 28 grey images" if "images" in name else "labels"
        raise DataError(f"{path}: not an IDX file of {kind}, or corrupt (it starts with {header.hex(' ')})")
    size = len(header) + count * _value_bytes(name)
    if size > LARGEST_UNNAMED:
        raise DataError(f"{path}: too large ({size:,} bytes by its header; at most {LARGEST_UNNAMED:,} are read)")
    content = read_file(path, size + 1)
    if len(content) != size:
        held = "more" if len(content) > size else f"{len(content):,}"
        raise DataError(f"{path}: corrupt (holds {held} bytes instead of {size:,})")
    return content


def find_file(folder, name):
    """Return the path of a folder's file, plain or compressed. Raises: MissingFile, with a hint at what was meant"""
    folder = Path(os.path.expanduser(folder))
    for suffix in (".gz", "", ".xz"):
        path = folder / f"{name}{suffix}"
        if os.path.isfile(path):  # not a pipe, for which we might wait forever
            return path
    if os.path.isfile(folder):
        raise MissingFile(f"{folder} is a file; give the folder that it is in")
    if not os.path.isdir(folder):
        raise MissingFile(f"{folder}: no such folder")
    below = sorted(folder.glob(f"*/{name}*"))
    hint = f"; {below[0].parent} has it" if below else ""
    raise MissingFile(f"{folder}: no {name}, .gz or .xz in it{hint}")


def read_file(path, size):
    """Return the first `size` decompressed bytes of a file, or all if it has fewer. Raises: DataError"""
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        open_content = gzip.open if start[:2] == b"\x1f\x8b" else lzma.open if start == b"\xfd7zXZ\x00" else open
        with open_content(path, "rb") as file:
            return file.read(size)
    except Exception as error:  # whatever its readers happen to raise
        raise DataError(f"{path}: cannot be read ({brief(error)})") from error


def _read_npz(path, name):
    """Return an array of Keras' mnist.npz as the IDX file that it was made from."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MNIST_ARRAYS[name]) as file:
            if archive.getinfo(MNIST_ARRAYS[name]).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("compressed as NumPy does not")  # zipfile bounds no memory for other methods
            # all that is used of a file not yet verified: where the header of the array ends
            file.read(int.from_bytes(file.read(10)[8:], "little"))
            values = file.read(LARGEST_NAMED)
    except Exception as error:  # whatever its readers happen to raise
        raise DataError(f"{path}: cannot be read ({brief(error)})") from error
    return _format_header(name, len(values) // _value_bytes(name)) + values


def _format_header(name, count):
    """Return the header of an IDX file: values of one byte (8), in one or three dimensions, of these sizes."""
    sizes = (count, 28, 28) if "images" in name else (count,)
    return bytes((0, 0, 8, len(sizes))) + b"".join(size.to_bytes(4, "big") for size in sizes)


def _value_bytes(name):
    return 28 * 28 if "images" in name else 1
