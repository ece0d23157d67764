"""Errors that users see in one line, exit codes, and what is cleaned up when a signal ends the process."""

import contextlib
import logging
import os
import signal
import sys

_cleanups = []


class LabError(Exception):
    """A failure that the user can fix; the message says what, where and what to do, in one line."""

    def __str__(self):
        return one_line(super().__str__())


def one_line(text):
    """Return a text on one line, without control characters that a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(str(text).split()))


def brief(error, text=None):
    """Return what anybody's exception says, or a text in its place, on one short line; its type if that is nothing."""
    if text is None:
        text = getattr(error, "strerror", None) or error  # the operating system's words, without number and path
    return one_line(text)[:300] or type(error).__name__


def run_main(main):
    """Run a script's `main`: return if it is done, exit with 1 if it failed, with 130 or 143 if a signal has ended it.

    Then there is one line on standard error. In a notebook or IPython (`%run`), return after an error, too; signals and
    errors that are not LabErrors are IPython's to handle.
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
    _open_closed_streams()
    _log_notes()
    try:
        with _exit_on_signals():
            main()
            return sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # the reader, for example `head`, has gone; rich then exits
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        line = "standard output was closed before the end"
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, LabError)
        line = str(error) if known else one_line(f"{type(error).__name__}: {error} (--debug shows where)")
    with contextlib.suppress(OSError):
        print(f"error: {line}", file=sys.stderr)
        sys.stdout.flush()
        sys.exit(1)
    return exit_now(1)  # Python would try once more to write what cannot be written, and complain


def _open_closed_streams():
    """Give what a parent process has closed something to write to; a terminal without a character gets the rest."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # otherwise the next file would get its number, and what native code prints
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if hasattr(getattr(sys, name), "reconfigure"):  # IDLE's has not
            getattr(sys, name).reconfigure(errors="replace")


def _log_notes():
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("lab", "__main__"):  # the latter is the script's own
        logging.getLogger(name).setLevel(logging.INFO)


def exit_now(code):
    """Exit without Python's shutdown, which can crash TensorFlow's threads in the middle of their work."""
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


@contextlib.contextmanager
def _exit_on_signals():
    """Let SIGINT and SIGTERM clean up and end the process within the block."""
    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as it is for background jobs of a shell
            with contextlib.suppress(ValueError):  # not in the main thread, as in some consoles
                previous[number] = signal.signal(number, _exit_on_signal)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _exit_on_signal(number, frame):
    """Clean up and exit without raising: an exception that unwinds through TensorFlow's calls can crash its threads."""
    message = [lambda: os.write(2, b"interrupted\n")] if number == signal.SIGINT else []
    for function in (*reversed(_cleanups), *message):
        with contextlib.suppress(Exception):
            function()
    exit_now(128 + number)
