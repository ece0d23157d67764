"""How argparse converts the texts of the scripts' flags."""

import argparse
import math
import re
from pathlib import Path

LARGEST_SEED = 2**32 - 1


def whole_number(lowest, highest=None):
    """Return a type for whole numbers from `lowest` to `highest`."""

    def whole_number(text):  # argparse names the type by the function's name
        number = int(text)
        if number < lowest or (highest is not None and number > highest):
            allowed = f"{lowest} to {highest}" if highest else f"{lowest} or more"
            raise argparse.ArgumentTypeError(f"{number} is not {allowed}")
        return number

    return whole_number


def finite_float(text):
    """Convert a finite number."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def positive_float(text):
    """Convert a finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return number


def scheduler_address(text):
    """Convert the address of a Dask scheduler."""
    if not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like tcp://host:8786")
    return text


def nonempty_path(text):
    """Convert a path, `~` expanded; an empty one is a mistake, not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("empty path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no such user, or no home
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def path_with(suffixes):
    """Return a type for paths that end in one of the suffixes."""

    def path_with_suffix(text):
        path = nonempty_path(text)
        suffix = path.suffix if ".keras" in suffixes else path.suffix.lower()  # Keras knows small letters only
        if suffix not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
        return path

    return path_with_suffix
