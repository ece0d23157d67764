"""Files that are written as a whole or not at all."""

import glob
import os
import platform
import tempfile
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

from lab.guard.errors import LabError, brief, cleanup_on_signal


def require_writable(path):
    """Make sure that a file can be written, and create its folder, before the work whose result goes there.

    Raises: LabError, it cannot be written.
    """
    path = Path(path)
    with _one_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise LabError(f"{path} is a folder; name a file")
        temporary = _temporary_path(path)  # longer than the name itself; it may be too long
        temporary.touch(exist_ok=False)
        temporary.unlink()


@contextmanager
def atomic_write(path):
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without an error.

    The temporary name keeps the suffix, by which Keras and Matplotlib choose the format, and has the process number,
    so that the next writer can remove what a killed one has left. Raises: LabError, the file cannot be written.
    """
    path = Path(path)
    temporary = _temporary_path(path)
    with _one_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_temp_files(path)
        try:
            with cleanup_on_signal(temporary.unlink):
                yield temporary
                os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def temporary_folder(prefix):
    """Yield a folder that is removed at the end, also if a signal ends the process."""
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    with folder as path, cleanup_on_signal(folder.cleanup):
        yield Path(path)


def ensure_temporary_folder(otherwise):
    """Use a folder for temporary files if the system has none that is writable; TensorFlow does not start without.

    If the user has no home folder, this one stands in for it, as in Keras; Matplotlib does not start without.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        otherwise.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(otherwise.absolute())
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def _temporary_path(path):
    return path.with_name(f".{path.stem}-{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:4]}{path.suffix}")


def _remove_stale_temp_files(path):
    """Remove temporary files beside a path whose processes, on this machine, no longer exist."""
    for temporary in path.parent.glob(f".{glob.escape(f'{path.stem}-{platform.node()}')}-*-????{path.suffix}"):
        with suppress(OSError, ValueError):  # of another user, or not ours
            try:
                if os.name == "posix":  # elsewhere, signal 0 is not harmless
                    os.kill(int(temporary.stem.split("-")[-2]), 0)
            except ProcessLookupError:
                temporary.unlink()


@contextmanager
def _one_error(path):
    """Raise a LabError for whatever the operating system says of writing a file."""
    try:
        yield
    except OSError as error:
        raise LabError(f"cannot write {path} ({brief(error)}); make room there or name another place") from error
