"""What the contestants share: their arguments, the arrays that they train on, and the line that they close with."""

import argparse
import ctypes
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EVALUATION_BATCH = 1000


class Arrays(NamedTuple):
    """Images float32 (n, 28, 28) in [0, 1] and labels uint8 (n,) of both splits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def parser(description, precisions=("float32",)):
    """Return the argument parser of a contestant that can compute in the named precisions."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=("dense", "conv"), default="dense")
    parser.add_argument("--epochs", type=_positive, default=5)
    parser.add_argument(
        "--images", type=_positive, default=60_000, help="number of training images; repeated beyond 60,000"
    )
    parser.add_argument("--batch-size", type=_positive, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=precisions, default="float32")
    return parser


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def load_bytes(images):
    """Load Fashion-MNIST as it is stored, uint8, with a number of training images."""
    if str(ROOT) not in sys.path:  # a script finds what lies beside it, but not the repository's packages
        sys.path.insert(0, str(ROOT))
    from lab.training.data import load_data

    (train_images, train_labels), (test_images, test_labels) = load_data()
    if images > len(train_images):
        train_images = np.resize(train_images, (images, *train_images.shape[1:]))
        train_labels = np.resize(train_labels, images)
    return Arrays(train_images[:images], train_labels[:images], test_images, test_labels)


def load_arrays(images):
    """Load Fashion-MNIST with its pixels scaled to [0, 1] and a number of training images."""
    arrays = load_bytes(images)
    from lab.training.data import scale

    return arrays._replace(train_images=scale(arrays.train_images), test_images=scale(arrays.test_images))


def keep_freed_memory():
    """Ask glibc to keep what is freed: fresh pages for every step's 11 MB gradient would cost a tenth of the epoch."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD


def report(contestant, options, epoch_seconds, test_accuracy, packages):
    """Print the closing line: one JSON object with what was run, its seconds, its accuracy and its memory."""
    result = {
        "contestant": contestant,
        "model": options.model,
        "precision": options.precision,
        "epochs": options.epochs,
        "images": options.images,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "epoch_seconds": [round(seconds, 4) for seconds in epoch_seconds],  # the first includes all compiling
        "test_accuracy": round(float(test_accuracy), 4),
        "peak_mebibytes": round(peak_mebibytes(), 1),
        "script_seconds": round(seconds_since_start(), 2),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", *packages)},
        },
    }
    print(json.dumps(result), flush=True)


def peak_mebibytes():
    """Return the most memory that this process has held; `getrusage` would count its parent's, from before exec."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def seconds_since_start():
    """Return the seconds since this process began, Python's own start included."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")  # field 22, starttime, in ticks since the boot
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
