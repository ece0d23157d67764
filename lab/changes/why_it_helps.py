"""What why_it_helps.py does to images: garments are made smaller and moved."""

import numpy as np

SMALL = 20


def place(images, largest, seed):
    """Return the images shrunk to 20 x 20 pixels, each at a random offset from the centre of 28 x 28 black ones.

    Args: uint8 (n, 28, 28); largest offset in pixels, 0 to 4, in each direction; seed of the offsets
    """
    rng, margin = np.random.default_rng(seed), (28 - SMALL) // 2
    offsets = margin + rng.integers(-largest, largest, (len(images), 2), endpoint=True)
    placed = np.zeros_like(images)
    for image, small, (top, left) in zip(placed, shrink(images), offsets, strict=True):
        image[top : top + SMALL, left : left + SMALL] = small
    return placed


def shrink(images):
    """Return images of 28 x 28 pixels as uint8 (n, 20, 20), each pixel the mean of the 1.4 x 1.4 that it covers."""
    rows = np.repeat(images, 5, axis=1).reshape(-1, SMALL, 7, 28).sum(2, np.uint16)  # a fifth of a pixel each
    sums = np.repeat(rows, 5, axis=2).reshape(-1, SMALL, SMALL, 7).sum(3, np.uint16)
    return ((sums + 24) // 49).astype(np.uint8)
