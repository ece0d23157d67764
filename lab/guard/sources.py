"""Where the files of a named data set are found, or fetched from."""

import functools
import logging
import os
import shutil
import subprocess
import time
from pathlib import Path

from lab.guard.data_files import LARGEST_NAMED, DataError, MissingFile, read_verified
from lab.guard.errors import LabError, brief
from lab.guard.files import atomic_write, temporary_folder

DEBIAN_PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the package puts its files
DOWNLOAD_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"  # where keras.datasets downloads from
SILENCE_SECONDS = 10  # without a byte, after which a server counts as out of reach
DOWNLOAD_SECONDS = 600  # for one file, however steadily it arrives
PACKAGE_SECONDS = 300

logger = logging.getLogger(__name__)


def find_files(data_set, digests, folder=None):
    """Return the verified contents of files of a named data set, from the first source that has all of them.

    The sources: `folder` or the environment's FASHION_MNIST_DIR or MNIST_DIR, and then no other; Keras' cache; the
    folder of Debian's package; the download that Keras does; the package, unpacked without being installed.

    Args and returns: as `read_verified`
    Raises: DataError, no source has them; or the given folder does not, which never falls through to another source.
    """
    variable = f"{data_set.upper().replace('-', '_')}_DIR"
    given = folder or os.environ.get(variable)
    if given:
        try:
            contents = read_verified(data_set, given, digests)
        except DataError as error:
            raise DataError(f"{error}{'' if folder else f'; {variable} gives this folder'}") from error
        note(f"data: {given}")
        return contents

    sources = [(keras_cache(data_set), read_verified), (DOWNLOAD_URL, functools.partial(_fetch, _download))]
    ways = f"allow https to {DOWNLOAD_URL.split('/')[2]} (through a proxy with a certificate of its own: set "
    ways += "SSL_CERT_FILE to that), or give the folder of the four files with --data-dir"
    if data_set == "fashion-mnist":  # of MNIST, Debian has no package
        sources.insert(1, (SYSTEM_FOLDER, read_verified))
        sources.append((f"package {DEBIAN_PACKAGE}", functools.partial(_fetch, _unpack_package)))
        ways = f"install the package {DEBIAN_PACKAGE} (Debian, Ubuntu), {ways}"
    failures = []
    for source, read in sources:
        try:
            contents = read(data_set, source, digests)
        except DataError as error:
            if isinstance(source, Path) and not isinstance(error, MissingFile):  # not our file: say it, leave it
                note(f"{error}; left as it is (remove it if it is of no use); looking elsewhere", logging.WARNING)
            failures.append(str(error))
        else:
            note(f"data: {source}")
            return contents
    raise DataError(f"{data_set} was not found: {'; '.join(failures)}. Ways out: {ways}")


def keras_cache(data_set):
    """Return the folder where Keras keeps a data set (https://keras.io/api/utils/python_utils: get_file)."""
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return Path(os.path.expanduser(home), "datasets", "" if data_set == "mnist" else data_set)


@functools.cache
def note(message, level=logging.INFO):
    """Log a message once in a process, however often the data is loaded."""
    logger.log(level, "%s", message)


def _fetch(fetch, data_set, source, digests):
    """Fetch files into a temporary folder, verify them, and only then keep them in Keras' cache."""
    note(f"fetching {data_set}: {source}")
    names = ["mnist.npz"] if data_set == "mnist" else [f"{name}.gz" for name in digests]
    with temporary_folder(f"{data_set}-") as scratch:
        try:
            folder = fetch(scratch, names)
            contents = read_verified(data_set, folder, digests)
        except (OSError, subprocess.SubprocessError, DataError) as error:
            said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
            said = (said or str(error)).strip().rpartition("\n")[2]
            # without the name of the temporary folder, which will be gone
            raise DataError(f"{source}: {brief(error, said.replace(f'{scratch}{os.sep}', ''))}") from error
        _keep([folder / name for name in names], keras_cache(data_set))
    return contents


def _keep(paths, cache):
    """Copy verified files to the cache, but never over another file."""
    try:
        for path in paths:
            if not os.path.lexists(cache / path.name):
                with atomic_write(cache / path.name) as temporary:
                    shutil.copyfile(path, temporary)
    except LabError as error:
        note(f"not kept for the next time: {error}", logging.WARNING)


def _download(folder, names):
    """Download files into a folder; return it.

    Not by Keras' `get_file`: it has neither time-outs nor a limit of size, and follows redirects to http.
    """
    from http.client import HTTPException  # here, and in `_make_opener`, because --help need not wait for it

    opener = _make_opener()
    for name in names:
        url, deadline = f"{DOWNLOAD_URL}{name}", time.monotonic() + DOWNLOAD_SECONDS
        try:
            with opener.open(url, timeout=SILENCE_SECONDS) as response, open(folder / name, "wb") as file:
                while chunk := response.read1(1 << 16):
                    file.write(chunk)
                    if file.tell() > LARGEST_NAMED or time.monotonic() > deadline:
                        raise DataError(f"sends more than it should, or is not done after {DOWNLOAD_SECONDS} s")
        # ValueError: urllib's, if the address of a proxy or of a redirect cannot be parsed
        except (OSError, ValueError, HTTPException, DataError) as error:
            raise DataError(f"{name}: {brief(error)}") from error
    return folder


def _make_opener():
    """Return an opener that follows redirects to https only; urllib's own also follows http and ftp."""
    from urllib import error, request

    class RedirectsToHTTPS(request.HTTPRedirectHandler):
        def redirect_request(self, request, response, code, message, headers, url):
            response.close()  # or its body would be read, which may have no end
            if not url.startswith("https:"):
                raise error.URLError(f"refused: redirects to {url}, which is not https")
            return super().redirect_request(request, response, code, message, headers, url)

    return request.build_opener(RedirectsToHTTPS)


def _unpack_package(folder, names):
    """Fetch Debian's package with apt-get and unpack it, both without root; return the folder of its files."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DataError("no apt-get on this machine")
    # apt's lists and caches go where we may write; apt-get creates neither folder by itself
    for partial in ("lists/partial", "cache/archives/partial"):
        (folder / partial).mkdir(parents=True)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    run = functools.partial(subprocess.run, cwd=folder, timeout=PACKAGE_SECONDS, **pipes)
    apt_get = ["apt-get", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    # update fails if one of several archives is out of reach; whether that matters, the download tells
    run([*apt_get, "update"])
    run([*apt_get, "download", DEBIAN_PACKAGE], check=True)
    run(["dpkg-deb", "-x", *folder.glob("*.deb"), folder], check=True)
    return folder / SYSTEM_FOLDER.relative_to("/")
