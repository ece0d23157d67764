"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747; MIT licence): load, verify and scale it."""

from typing import NamedTuple

import numpy as np

from lab.plumbing.sources import find_archives

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

# split: (images, labels); of each file its name, its size in bytes and its SHA-256, both decompressed
FILES = {
    "train": (
        ("train-images-idx3-ubyte", 47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
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


def load_data(data_dir=None):
    """Load Fashion-MNIST, as `keras.datasets.fashion_mnist.load_data` does, from the first source that has it whole.

    The SHA-256 of every file is verified. `lab.plumbing.sources.find_archives` says where the files are looked for.

    Args: folder of the four .gz files; then no other source is tried
    Returns: (train_images, train_labels), (test_images, test_labels): two Splits, of 60,000 and 10,000 images
    Raises: LabError, no source has it.
    """
    return tuple(_load(FILES, data_dir))


def load_test_data(data_dir=None):
    """Return the test Split only. Args and raises: as `load_data`"""
    (test,) = _load(["test"], data_dir)
    return test


def _load(names, data_dir):
    contents = iter(find_archives([file for name in names for file in FILES[name]], data_dir))
    # the format is IDX: a header of 16 bytes for images and of 8 for labels, then the values
    return [
        Split(np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8))
        for images, labels in zip(contents, contents, strict=True)
    ]


def file_digests():
    """Return the SHA-256 of every file, in order: what identifies the data."""
    return [sha256 for files in FILES.values() for _, _, sha256 in files]


def scale(images):
    """Scale uint8 pixels, 0 to 255, to float32 in [0, 1], of the same shape."""
    scaled = images.astype(np.float32)
    scaled /= 255
    return scaled
