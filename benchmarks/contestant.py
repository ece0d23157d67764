"""What the contestants share: their arguments, the images that they train on, and the line that they close with."""

import argparse
import ctypes
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script finds what lies beside it, but not the repository's packages

from lab.training.data import DataSet, load_data, scale  # noqa: E402

BATCH_SIZE = 32
EVALUATION_BATCH = 1000


def parser(description):
    """Return the argument parser of a contestant."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=("dense", "conv"), default="dense")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000, help="number of training images")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def load_bytes(images):
    """Load Fashion-MNIST as it is stored, with a number of training images. Returns: train and test Splits"""
    return load_data(DataSet(train_images=images))


def load_scaled(images):
    """Load Fashion-MNIST with its pixels as float32 in [0, 1]. Returns: train and test Splits"""
    return [split._replace(images=scale(split.images)) for split in load_bytes(images)]


def keep_freed_memory():
    """Ask glibc to keep what is freed: fresh pages for every step's 11 MB gradient would cost a tenth of the epoch."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD


def report(options, epoch_seconds, test_accuracy, packages, **more):
    """Print the closing line: one JSON object with what was run, its seconds, its accuracy and its memory."""
    result = {
        **{name: getattr(options, name) for name in ("model", "epochs", "images", "seed")},
        "precision": "float32",
        "epoch_seconds": [round(seconds, 4) for seconds in epoch_seconds],  # the first includes all compiling
        "test_accuracy": round(float(test_accuracy), 4),
        "peak_mebibytes": round(peak_mebibytes(), 1),
        "versions": {name: version(name) for name in ("numpy", *packages)} | {"python": platform.python_version()},
        **more,
    }
    print(json.dumps(result), flush=True)


def peak_mebibytes():
    """Return the most memory that this process has held; `getrusage` would count its parent's, from before exec."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024
