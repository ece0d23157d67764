"""Errors that users see in one line, exit codes, and what is cleaned up when a signal ends the process."""

import contextlib
import logging
import os
import signal
import sys
import zipfile
import zlib

# what numpy.load and json raise for a corrupt .npz; RuntimeError is zipfile's, for compression methods it does not know
CORRUPT_FILE_ERRORS = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)

_cleanups = []


class LabError(Exception):
    """A failure that the user can fix; the message says what, where and what to do, in one line."""


def run_main(main):
    """Run a script's `main` and exit: 0 done, 1 failed with one line, 2 wrong usage, 130 or 143 ended by a signal.

    In a notebook or IPython (`%run`), return instead; signals and other errors are IPython's to handle.
    """
    debug = "--debug" in sys.argv[1:]
    if getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)():
        _log_notes()
        try:
            return main()
        except LabError as error:
            if debug:
                raise
            return print(f"error: {error}", file=sys.stderr)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="replace")  # a terminal without a character gets the rest
    _log_notes()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is for background jobs of a shell
            signal.signal(number, _exit_on_signal)
    try:
        main()
        sys.stdout.flush()
        exit_now(0)
    except BrokenPipeError:  # the reader, for example `head`, has closed standard output
        exit_now(1)
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, LabError)
        line = " ".join((f"{error}" if known else f"{type(error).__name__}: {error} (--debug shows where)").split())
        # without control characters that a terminal would obey
        printable = "".join(character if character.isprintable() else "?" for character in line)
        print(f"error: {printable}", file=sys.stderr)
        exit_now(1)


def _log_notes():
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lab").setLevel(logging.INFO)


def exit_now(code):
    """Exit without Python's interpreter shutdown, which takes TensorFlow 0.6 s and can crash its threads."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: a signal has come in the middle of a print
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def cleanup_on_signal(function):
    """Call the function if a signal ends the process within the block."""
    _cleanups.append(function)
    try:
        yield
    finally:
        _cleanups.remove(function)


def _exit_on_signal(number, frame):
    """Clean up and exit without raising: an exception that unwinds through TensorFlow's calls can crash its threads."""
    message = [lambda: os.write(2, b"interrupted\n")] if number == signal.SIGINT else []
    for function in (*reversed(_cleanups), *message):
        with contextlib.suppress(Exception):
            function()
    exit_now(128 + number)
