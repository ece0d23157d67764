"""Find, verify and load Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; MIT licence).

Whatever the source, an image reaches a model only after the SHA-256 of its decompressed file has been checked.
"""

import gzip
import hashlib
import http.client
import logging
import math
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab import LabError, replacing

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# split: (images, labels); per file its name, its size in bytes and its SHA-256, both of the decompressed content
FILES = {
    "train": (
        ("train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}

DEBIAN_PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_HOST = "storage.googleapis.com"
DOWNLOAD_URL = f"https://{DOWNLOAD_HOST}/tensorflow/tf-keras-datasets/"
SILENCE_SECONDS = 10  # a mirror that says nothing for so long is out of reach
DOWNLOAD_SECONDS = 600  # for one file, however steadily it drips
PACKAGE_SECONDS = 300
LONGEST_REASON = 300  # signs; a server's own words may be as long as it likes

logger = logging.getLogger(__name__)


class DataError(LabError):
    """Fashion-MNIST is not where it was looked for, or not what it should be."""


class DamagedFile(DataError):
    """A file is there, but does not hold what its name says."""


class Split(NamedTuple):
    """Images, uint8 (n, 28, 28), their labels, uint8 (n,), and the folder that they were read from."""

    images: np.ndarray
    labels: np.ndarray
    source: str


def load_data(data_dir=None):
    """Load all of Fashion-MNIST, as `keras.datasets.fashion_mnist.load_data` does.

    Returns:
        (train_images, train_labels), (test_images, test_labels): images uint8 (n, 28, 28), labels uint8 (n,), n being
        60,000 and 10,000.

    Raises:
        DataError: as `load_splits`.
    """
    train, test = load_splits(data_dir=data_dir)
    return (train.images, train.labels), (test.images, test.labels)


def load_splits(names=("train", "test"), data_dir=None):
    """Load the named splits from the first source that has them whole.

    The sources: `data_dir` or the environment's FASHION_MNIST_DIR, and then no other; Keras' cache; the folder of
    Debian's package; the download that Keras does; the package, unpacked into Keras' cache without being installed.

    Returns:
        list of Split, one per name

    Raises:
        DataError: no source has them; or the given folder does not, which never falls through to another source.
    """
    given = data_dir or os.environ.get("FASHION_MNIST_DIR")
    sources = [_from_given(given)] if given else [_from_cache, _from_system, _from_download, _from_package]
    tried = []
    for source in sources:
        try:
            splits = source(names)
        except DataError as error:
            if given:
                raise
            tried.append(str(error))
        else:
            logger.info("data: %s", splits[0].source)
            return splits
    raise DataError(
        f"Fashion-MNIST was not found: {'; '.join(tried)}. Mend it in one of three ways: install the package "
        f"{DEBIAN_PACKAGE} (Debian, Ubuntu), allow https to {DOWNLOAD_HOST}, or give the folder of the four .gz files "
        "with --data-dir"
    )


def scale(images):
    """Scale uint8 pixels (0 to 255) to float32 in [0, 1], same shape; float64 would double the memory for nothing."""
    scaled = images.astype(np.float32)
    scaled /= 255
    return scaled


def read_splits(folder, names=("train", "test"), files=FILES):
    """Read and verify splits of the `files` table from a folder of gzip IDX files.

    Returns:
        list of Split, one per name

    Raises:
        DataError: a file is missing or unreadable, images and labels differ in number, or a label is no class.
        DamagedFile: a file is not what the table says.
    """
    splits = []
    for split in names:
        images, labels = (read_idx(Path(folder) / f"{name}.gz", size, sha256) for name, size, sha256 in files[split])
        if len(images) != len(labels):
            raise DataError(f"{folder}: {len(images):,} {split} images but {len(labels):,} labels")
        if labels.max(initial=0) >= len(CLASS_NAMES):
            raise DataError(f"{folder}: {split} label {labels.max()}, but the classes end at {len(CLASS_NAMES) - 1}")
        splits.append(Split(images, labels, str(folder)))
    return splits


def read_idx(path, size, sha256):
    """Read one gzip IDX file whose decompressed content has `size` bytes and the hex digest `sha256`.

    Never decompresses more than `size` + 1 bytes, whatever the file claims.

    Returns:
        uint8 array, (n, 28, 28) for images, (n,) for labels.

    Raises:
        DataError: no such file, or not readable.
        DamagedFile: no gzip, cut off, too long, no IDX, or another digest.
    """
    try:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
        with gzip.open(path) as file:
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedFile(f"{path}: damaged ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) != size:
        held = f"{len(content):,}" if len(content) < size else f"more than {size:,}"
        raise DamagedFile(f"{path}: damaged (holds {held} bytes instead of {size:,})")
    try:
        array = parse_idx(content)
    except DamagedFile as error:
        raise DamagedFile(f"{path}: damaged ({error})") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedFile(f"{path}: damaged (its SHA-256 is not Fashion-MNIST's)")
    return array


def parse_idx(content):
    """Parse the bytes of an IDX file (format: http://yann.lecun.com/exdb/mnist) of uint8 images or labels.

    Returns:
        uint8 array, read-only, (n, 28, 28) or (n,).

    Raises:
        DamagedFile: another magic number, other image dimensions, or a length that the header does not announce.
    """
    dimensions = {b"\x00\x00\x08\x03": 3, b"\x00\x00\x08\x01": 1}.get(content[:4])
    if dimensions is None:
        raise DamagedFile(f"no IDX file of images or labels: it starts with {content[:4].hex() or 'nothing'}")
    offset = 4 + 4 * dimensions
    if len(content) < offset:
        raise DamagedFile("cut off in its header")
    shape = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, offset, 4))
    if shape[1:] not in ((), (28, 28)):
        raise DamagedFile(f"images of {shape[1]} x {shape[2]} pixels instead of 28 x 28")
    if len(content) - offset != math.prod(shape):
        raise DamagedFile(f"{len(content) - offset:,} values where its header announces {math.prod(shape):,}")
    return np.frombuffer(content, np.uint8, offset=offset).reshape(shape)


def digests():
    """Return the SHA-256 of every file, in order: what "the data" is."""
    return [sha256 for split in FILES.values() for _, _, sha256 in split]


def keras_cache():
    """Return the folder where Keras keeps Fashion-MNIST (https://keras.io/api/utils/python_utils: get_file)."""
    try:
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    except RuntimeError:  # no HOME and no such user; Keras, too, falls back to the temporary folder
        home = Path(tempfile.gettempdir()) / ".keras"
    return Path(home) / "datasets" / "fashion-mnist"


def _from_cache(names):
    """Read Keras' cache; what is damaged is set aside, so that neither we nor Keras stumble over it again."""
    folder = keras_cache()
    try:
        return read_splits(folder, names)
    except DamagedFile:
        for name, size, sha256 in (file for split in names for file in FILES[split]):
            _set_aside_if_damaged(folder / f"{name}.gz", size, sha256)
        raise


def _set_aside_if_damaged(path, size, sha256):
    try:
        read_idx(path, size, sha256)
    except DamagedFile as error:
        try:
            os.replace(path, f"{path}.damaged")
            logger.warning("%s; set aside as %s.damaged", error, path.name)
        except OSError:
            logger.warning("%s; passed over", error)
    except DataError:
        pass


def _from_given(folder):
    return lambda names: read_splits(folder, names)


def _from_system(names):
    return read_splits(SYSTEM_FOLDER, names)


def _from_download(names):
    return _fetch(_download, names, DOWNLOAD_URL)


def _from_package(names):
    return _fetch(_unpack_package, names, f"package {DEBIAN_PACKAGE}")


def _fetch(fetch, names, source):
    """Fetch into a temporary folder, verify what came, and only then keep it in Keras' cache."""
    logger.info("fetching Fashion-MNIST (31 MB): %s", source)
    try:
        scratch = tempfile.TemporaryDirectory(prefix="fashion-mnist-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DataError(f"no temporary folder to fetch into ({error.strerror})") from error
    with scratch:
        try:
            folder = fetch(Path(scratch.name), names)
            splits = read_splits(folder, names)
        except (OSError, http.client.HTTPException, subprocess.SubprocessError, DataError) as error:
            # the temporary folder is about to vanish; its name helps nobody
            raise DataError(f"{source}: {_reason(error).replace(f'{scratch.name}{os.sep}', '')}") from error
        try:
            for name, *_ in (file for split in names for file in FILES[split]):
                with replacing(keras_cache() / f"{name}.gz") as partial:
                    shutil.copyfile(folder / f"{name}.gz", partial)
        except LabError as error:
            logger.warning("not kept for the next time: %s", error)
    return [split._replace(source=source) for split in splits]


def _reason(error):
    """Return the cause of a failed fetch in a few words of one line, whatever signs the other side has put into it."""
    if isinstance(error, DataError):  # our own words
        return str(error)
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines()
        text = lines[-1] if lines else f"{error.cmd[0]} ended with {error.returncode}"
    elif isinstance(error, urllib.error.HTTPError):  # its reason alone has no number, and may be empty
        text = str(error)
    else:
        text = str(getattr(error, "reason", error))
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return text[:LONGEST_REASON] or type(error).__name__


def _download(folder, names):
    """Download the archives of the named splits; return their folder."""
    opener = urllib.request.build_opener(_RedirectsToHTTPS)
    for name, size, _ in (file for split in names for file in FILES[split]):
        deadline = time.monotonic() + DOWNLOAD_SECONDS
        try:
            with (
                opener.open(f"{DOWNLOAD_URL}{name}.gz", timeout=SILENCE_SECONDS) as response,
                open(folder / f"{name}.gz", "wb") as archive,
            ):
                while chunk := response.read1(1 << 16):
                    archive.write(chunk)
                    if archive.tell() > size:
                        raise DataError(f"{name}.gz: sends more than it should")
                    if time.monotonic() > deadline:
                        raise DataError(f"{name}.gz: not done after {DOWNLOAD_SECONDS} s")
                if response.length:
                    raise DataError(f"{name}.gz: cut off, {response.length:,} bytes before its end")
        except ValueError as error:  # so urllib says that the address of a proxy or of a redirect is none
            raise DataError(f"{name}.gz: no address that can be read ({error})") from error
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{name}.gz: {_reason(error)}") from error
    return folder


class _RedirectsToHTTPS(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; urllib's own goes on to plain http and ftp, where anybody may listen in."""

    def redirect_request(self, request, response, code, message, headers, url):
        response.close()  # or else its body would be read, which may have no end
        if not url.startswith("https:"):
            raise urllib.error.URLError(f"refused: redirects to {url}, which is not https")
        return super().redirect_request(request, response, code, message, headers, url)


def _unpack_package(folder, names):
    """Fetch Debian's package from the machine's own archive and unpack it, without root; return the data's folder."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("no apt-get on this machine")
    # apt's lists and caches go where we may write; apt-get creates neither folder by itself
    for partial in ("lists/partial", "cache/archives/partial"):
        (folder / partial).mkdir(parents=True)
    apt_get = ["apt-get", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    run = {"cwd": folder, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": PACKAGE_SECONDS}
    # one archive of several may be out of reach, and update then fails: whether it matters, the download tells
    subprocess.run([*apt_get, "update"], **run)
    subprocess.run([*apt_get, "download", DEBIAN_PACKAGE], check=True, **run)
    subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder], check=True, **run)
    return folder / SYSTEM_FOLDER.relative_to("/")
