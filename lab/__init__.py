"""What every experiment shares. Here at the root: what every room of the package stands on."""

import os
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path


class LabError(Exception):
    """A failure that the user can mend; its message says what, where and what to do, in one line."""


def require_writable(path):
    """Make sure that a file can be written, its folder created, before the work that is to be written.

    Raises:
        LabError: it cannot.
    """
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(folder, error) from error
    if Path(path).is_dir():
        raise LabError(f"{path} is a folder; name a file")


@contextmanager
def replacing(path):
    """Write a file as a whole or not at all: yield a path beside `path`, rename it to `path` when the block ends well.

    The temporary name keeps the suffix, because Keras and Matplotlib choose the format by it.

    Raises:
        LabError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _unwritable(path, error):
    return LabError(f"cannot write {path} ({error.strerror or error}); make room there or name another place")
