"""The data sets: Fashion-MNIST, MNIST, or a folder of files in their format; loaded, verified and scaled.

Fashion-MNIST: Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; MIT licence. MNIST: LeCun, Cortes and Burges 1998.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lab.guard.data_files import DataError, read_unverified
from lab.guard.errors import LabError
from lab.guard.sources import find_files, note

# split: (images, labels)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

# SHA-256 of the decompressed files
DIGESTS = {
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
}


class Split(NamedTuple):
    """Images, uint8 (n, 28, 28), and their labels, uint8 (n,), 0 to 9."""

    images: np.ndarray
    labels: np.ndarray

    def first(self, n):
        """Return the first n images with their labels."""
        return self.at(slice(n))

    def at(self, indices):
        """Return the images of these indices with their labels."""
        return Split(self.images[indices], self.labels[indices])

    def hold_out(self, fraction, seed):
        """Return two Splits: the rest, and a fraction of each class, chosen by the seed."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        by_class = [order[self.labels[order] == label] for label in np.unique(self.labels)]
        held_out = np.concatenate([each[: round(fraction * len(each))] for each in by_class])
        return self.at(np.setdiff1d(order, held_out)), self.at(np.sort(held_out))


@dataclass(frozen=True)
class DataSet:
    """Which images: "fashion-mnist" or "mnist", verified, or any other name for what a folder holds, not verified.

    `folder`: where its files are, and nowhere else. `train_images`, `test_images`: how many, the first ones; None: all.
    """

    name: str = "fashion-mnist"
    folder: str | None = None
    train_images: int | None = None
    test_images: int | None = None


FASHION_MNIST = DataSet()


def data_digest(data_set):
    """Return the SHA-256 of the SHA-256s of the four files, which identifies a data set. Raises: DataError"""
    digests = DIGESTS.get(data_set.name) or {
        name: hashlib.sha256(read_unverified(data_set.folder, name)).hexdigest()
        for names in FILES.values()
        for name in names
    }
    return hashlib.sha256("".join(digests.values()).encode()).hexdigest()


def load_data(data_set=FASHION_MNIST):
    """Load a data set, as `keras.datasets.fashion_mnist.load_data` does, from the first source that has it whole.

    The SHA-256 of every file of Fashion-MNIST and MNIST is verified. `lab.guard.sources.find_files` says where they are
    looked for. Other folders are checked only: sizes, labels from 0 to 9.

    Returns: (train_images, train_labels), (test_images, test_labels): two Splits
    Raises: LabError, no source has it, or it has fewer images than are wanted.
    """
    return tuple(_load(data_set, {"train": data_set.train_images, "test": data_set.test_images}))


def load_test_data(data_set=FASHION_MNIST):
    """Return the test Split only. Args and raises: as `load_data`"""
    (test,) = _load(data_set, {"test": data_set.test_images})
    return test


def _load(data_set, counts):
    """Return Splits, by the number of images that is wanted of each."""
    names = [name for split in counts for name in FILES[split]]
    if data_set.name in DIGESTS:
        digests = {name: DIGESTS[data_set.name][name] for name in names}
        contents = iter(find_files(data_set.name, digests, data_set.folder))
    elif data_set.folder:
        contents = iter([read_unverified(data_set.folder, name) for name in names])
    else:
        raise DataError(f"{data_set.name} is neither {' nor '.join(DIGESTS)}, and no folder of its files is given")
    # after a header of 16 bytes for images and of 8 for labels, the values
    splits = [
        Split(np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8))
        for images, labels in zip(contents, contents, strict=True)
    ]
    for (kind, wanted), (images, labels) in zip(counts.items(), splits, strict=True):
        what = f"{data_set.name} ({data_set.folder})" if data_set.folder else data_set.name
        if not 0 < len(images) == len(labels):
            raise DataError(f"{what}: {len(images):,} {kind} images with {len(labels):,} labels")
        if labels.max() > 9:
            raise DataError(f"{what}: has a {kind} label {labels.max()}; at most ten classes, 0 to 9, are possible")
        if wanted and wanted > len(images):
            raise LabError(f"{what}: has {len(images):,} {kind} images, not {wanted:,}")
    if data_set.name not in DIGESTS:
        note(f"data: {data_set.folder} (not verified: nothing is known about {data_set.name})")
    return [split.first(wanted) for wanted, split in zip(counts.values(), splits, strict=True)]


def scale(images):
    """Scale uint8 pixels, 0 to 255, to float32 in [0, 1], of the same shape."""
    scaled = images.astype(np.float32)
    scaled /= 255
    return scaled
