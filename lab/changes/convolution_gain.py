"""What convolution_gain.py does to images: the controls that destroy locality."""

import numpy as np


def shuffle_pixels(images, seed):
    """Return the images after a permutation of their pixels, one for each seed; it destroys locality."""
    order = np.random.default_rng(seed).permutation(28 * 28)
    return images.reshape(-1, 28 * 28)[:, order].reshape(-1, 28, 28)
