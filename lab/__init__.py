"""What every experiment shares. Here at the root: what every room of the package stands on."""

import glob
import os
import platform
import uuid
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

# what numpy.load and json raise of a damaged .npz; RuntimeError is zipfile's, of methods that it does not know
DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class LabError(Exception):
    """A failure that the user can mend; its message says what, where and what to do, in one line."""


def require_writable(path):
    """Make sure that a file can be written, its folder created, before the work that is to be written.

    Raises:
        LabError: it cannot.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise LabError(f"{path} is a folder; name a file")
        partial = _partial(path)  # longer than the name itself; it may be too long
        partial.touch(exist_ok=False)
        partial.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def replacing(path):
    """Write a file as a whole or not at all: yield a path beside `path`, rename it to `path` when the block ends well.

    The temporary name keeps the suffix, because Keras and Matplotlib choose the format by it, and tells whose it is, so
    that the next writer can remove what one that was killed in the middle has left.

    Raises:
        LabError: the file cannot be written.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _partial(path):
    return path.with_name(f".{path.stem}-{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:4]}{path.suffix}")


def _sweep(path):
    """Remove unfinished versions of a file by processes of this machine that are no more."""
    if os.name != "posix":  # elsewhere there is no harmless signal
        return
    for partial in path.parent.glob(f".{glob.escape(f'{path.stem}-{platform.node()}')}-*-????{path.suffix}"):
        try:
            os.kill(int(partial.stem.split("-")[-2]), 0)
        except ProcessLookupError:
            with suppress(OSError):
                partial.unlink()
        except (OSError, ValueError):  # somebody else's, alive; or no name of ours
            continue


def _unwritable(path, error):
    return LabError(f"cannot write {path} ({error.strerror or error}); make room there or name another place")
