"""Where the archives of Fashion-MNIST are found, and how each is verified before anything reads it.

An archive is described by its name without `.gz`, its size in bytes and its SHA-256, both of the decompressed content.
"""

import contextlib
import gzip
import hashlib
import http.client
import logging
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from lab.plumbing.errors import LabError, cleanup_on_signal
from lab.plumbing.files import atomic_write, temporary_folder

DEBIAN_PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_HOST = "storage.googleapis.com"
DOWNLOAD_URL = f"https://{DOWNLOAD_HOST}/tensorflow/tf-keras-datasets/"
SILENCE_SECONDS = 10  # without a byte, after which a mirror counts as out of reach
DOWNLOAD_SECONDS = 600  # for one archive, however steadily it arrives
PACKAGE_SECONDS = 300
LONGEST_REASON = 300  # characters of a server's own words

_announced = set()
logger = logging.getLogger(__name__)


class DataError(LabError):
    """Fashion-MNIST was not found, or is not what it should be."""


class CorruptArchive(DataError):
    """An archive exists but does not hold what its name says."""


def find_archives(archives, data_dir=None):
    """Return the verified contents of archives, a list of bytes, from the first source that has all of them.

    The sources: `data_dir` or the environment's FASHION_MNIST_DIR, and then no other; Keras' cache; the folder of
    Debian's package; the download that Keras does; the package, unpacked into Keras' cache without being installed.

    Args: (name, size, SHA-256) of each; folder of the .gz files
    Raises: DataError, no source has them; or the given folder does not, which never falls through to another source.
    """
    given = data_dir or os.environ.get("FASHION_MNIST_DIR")
    package, failures = f"package {DEBIAN_PACKAGE}", []
    sources = {
        keras_cache(): _read_cache,
        SYSTEM_FOLDER: lambda archives: read_archives(SYSTEM_FOLDER, archives),
        DOWNLOAD_URL: lambda archives: _fetch(_download, archives, DOWNLOAD_URL),
        package: lambda archives: _fetch(_unpack_package, archives, package),
    }
    for source, read in ({given: lambda archives: read_archives(given, archives)} if given else sources).items():
        try:
            contents = read(archives)
        except DataError as error:
            if given:
                raise
            failures.append(str(error))
        else:
            if str(source) not in _announced:  # once in a process, however often the data is loaded
                _announced.add(str(source))
                logger.info("data: %s", source)
            return contents
    ways = f"install the package {DEBIAN_PACKAGE} (Debian, Ubuntu), allow https to {DOWNLOAD_HOST}, or give the folder"
    ways = f"Fix it in one of three ways: {ways} of the four .gz files with --data-dir"
    raise DataError(f"Fashion-MNIST was not found: {'; '.join(failures)}. {ways}")


def read_archives(folder, archives):
    """Return the contents of a folder's archives. Args and raises: as `read_archive`, for each"""
    return [read_archive(Path(folder) / f"{name}.gz", size, sha256) for name, size, sha256 in archives]


def read_archive(path, size, sha256):
    """Return the decompressed content of a gzip file, never more than `size` + 1 bytes whatever the file claims.

    Raises: DataError, no such file, or not readable; CorruptArchive, not gzip, truncated, another size or digest.
    """
    try:
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file")
        with gzip.open(path) as file:
            content = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptArchive(f"{path}: corrupt ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) != size:
        held = f"{len(content):,}" if len(content) < size else f"more than {size:,}"
        raise CorruptArchive(f"{path}: corrupt (holds {held} bytes instead of {size:,})")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptArchive(f"{path}: corrupt (its SHA-256 is not Fashion-MNIST's)")
    return content


def keras_cache():
    """Return the folder where Keras keeps Fashion-MNIST (https://keras.io/api/utils/python_utils: get_file)."""
    try:
        home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    except RuntimeError:  # no HOME and no such user; Keras, too, falls back to the temporary folder
        home = Path(tempfile.gettempdir()) / ".keras"
    return Path(home) / "datasets" / "fashion-mnist"


def _read_cache(archives):
    """Read Keras' cache; rename a corrupt archive, so that neither we nor Keras read it again."""
    contents = []
    for name, size, sha256 in archives:
        path = keras_cache() / f"{name}.gz"
        try:
            contents.append(read_archive(path, size, sha256))
        except CorruptArchive as error:
            logger.warning("%s; renamed to %s.corrupt, if that is allowed", error, path.name)
            with contextlib.suppress(OSError):
                os.replace(path, f"{path}.corrupt")
            raise
    return contents


def _fetch(fetch, archives, source):
    """Fetch archives into a temporary folder, verify them, and only then keep them in Keras' cache."""
    logger.info("fetching Fashion-MNIST (31 MB): %s", source)
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(temporary_folder("fashion-mnist-"))
        except OSError as error:
            raise DataError(f"no temporary folder to fetch into ({error.strerror})") from error
        try:
            folder = fetch(scratch, archives)
            contents = read_archives(folder, archives)
        except (OSError, http.client.HTTPException, subprocess.SubprocessError, DataError) as error:
            # without the name of the temporary folder, which is about to be removed
            raise DataError(f"{source}: {_reason(error).replace(f'{scratch}{os.sep}', '')}") from error
        try:
            for name, *_ in archives:
                with atomic_write(keras_cache() / f"{name}.gz") as temporary:
                    shutil.copyfile(folder / f"{name}.gz", temporary)
        except LabError as error:
            logger.warning("not kept for the next time: %s", error)
    return contents


def _reason(error):
    """Return the cause of a failed fetch as one short printable line, whatever the other side has put into it."""
    if isinstance(error, DataError):  # our own words
        return str(error)
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines()
        text = lines[-1] if lines else f"{error.cmd[0]} ended with {error.returncode}"
    elif isinstance(error, urllib.error.HTTPError):  # its reason alone has no number, and may be empty
        text = str(error)
    else:
        text = str(getattr(error, "reason", error))
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text[:LONGEST_REASON] or type(error).__name__


def _download(folder, archives):
    """Download archives into a folder; return it."""
    opener = urllib.request.build_opener(_RedirectsToHTTPS)
    for name, size, _ in archives:
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
                    raise DataError(f"{name}.gz: truncated, {response.length:,} bytes before its end")
        except ValueError as error:  # urllib's, if the address of a proxy or of a redirect cannot be parsed
            raise DataError(f"{name}.gz: malformed address ({error})") from error
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{name}.gz: {_reason(error)}") from error
    return folder


class _RedirectsToHTTPS(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; urllib's own also follows plain http and ftp, which can be tampered with."""

    def redirect_request(self, request, response, code, message, headers, url):
        response.close()  # or its body would be read, which may have no end
        if not url.startswith("https:"):
            raise urllib.error.URLError(f"refused: redirects to {url}, which is not https")
        return super().redirect_request(request, response, code, message, headers, url)


def _unpack_package(folder, archives):
    """Fetch Debian's package with apt-get and unpack it, both without root; return the folder of the archives."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("no apt-get on this machine")
    # apt's lists and caches go where we may write; apt-get creates neither folder by itself
    for partial in ("lists/partial", "cache/archives/partial"):
        (folder / partial).mkdir(parents=True)
    apt_get = ["apt-get", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    # update fails if one of several archives is out of reach; whether that matters, the download tells
    _run([*apt_get, "update"], folder, check=False)
    _run([*apt_get, "download", DEBIAN_PACKAGE], folder)
    _run(["dpkg-deb", "-x", *folder.glob("*.deb"), folder], folder)
    return folder / SYSTEM_FOLDER.relative_to("/")


def _run(command, folder, check=True):
    """Run a command as `subprocess.run` does, but end it also if a signal ends this process."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, **pipes) as process, cleanup_on_signal(process.kill):
        try:
            _, messages = process.communicate(timeout=PACKAGE_SECONDS)
        finally:
            process.kill()
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=messages)
