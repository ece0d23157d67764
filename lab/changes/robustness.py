"""What robustness.py does to test images, in the manner of Hendrycks and Dietterich 2019 (arXiv 1903.12261)."""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from lab.training.predictions import predict

BILINEAR = 2  # PIL.Image.Resampling.BILINEAR


def shift(images, distance):
    """Yield the images shifted by `distance` pixels in each of eight directions, with black coming in at the edges."""
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (distance, distance), (distance, distance)))
    for top, left in product((0, distance, 2 * distance), repeat=2):
        if (top, left) != (distance, distance):
            yield padded[:, top : top + side, left : left + side]


def rotate(images, degrees):
    """Yield the images rotated about their centre, counterclockwise and clockwise."""
    for angle in (degrees, -degrees):
        yield _for_each(images, lambda image, angle=angle: image.rotate(angle, BILINEAR))


def rescale(images, factor):
    """Yield the images enlarged or reduced by the factor, about their centre."""
    side = images.shape[1]
    new = round(side * factor / 2) * 2  # an even number, so that the centre stays
    start = (new - side) // 2
    box = (start, start, start + side, start + side)  # beyond the image, it is black
    yield _for_each(images, lambda image: image.resize((new, new), BILINEAR).crop(box))


def blur(images, radius):
    """Yield the images after a Gaussian filter with a standard deviation of `radius` pixels."""
    from PIL import ImageFilter

    yield _for_each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def add_noise(images, deviation):
    """Yield the images with Gaussian noise, of a standard deviation in grey levels; the same noise at each call."""
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    yield (images + noise).round().clip(0, 255).astype(np.uint8)


def change_contrast(images, factor):
    """Yield the images with each pixel's distance from the image's mean multiplied by the factor."""
    from PIL import ImageEnhance

    yield _for_each(images, lambda image: ImageEnhance.Contrast(image).enhance(factor))


def _for_each(images, function):
    from PIL import Image

    return np.stack([np.asarray(function(Image.fromarray(image))) for image in images])


class Corruption(NamedTuple):
    """A corruption of the test images: the function, its strengths, and the strength that changes nothing."""

    function: Callable
    strengths: tuple
    identity: float


CORRUPTIONS = {
    "shift": Corruption(shift, (0, 1, 2, 3, 4, 5, 6), 0),
    "rotation": Corruption(rotate, (0, 5, 10, 15, 20, 25, 30, 35, 40, 45), 0),
    "scale": Corruption(rescale, (0.5, 0.64, 0.79, 0.93, 1, 1.07, 1.21, 1.36, 1.5), 1),
    "blur": Corruption(blur, (0, 0.5, 1, 1.5, 2, 3), 0),
    "noise": Corruption(add_noise, (0, 16, 32, 48, 64, 96, 128), 0),
    "contrast": Corruption(change_contrast, (0.25, 0.5, 0.75, 1, 1.5, 2), 1),
}


def collect_robustness(model, test_split, prepare):
    """Return for each corruption, at each of s strengths, `correct`, for how many views of each of n test images the
    prediction is correct, uint8 (s, n); `views`, how many views there are, uint8 (s,); and `consistency`, the fraction
    of them with the prediction for the clean image, float (s,).
    """
    images, labels = test_split
    clean = predict(model, prepare(images)).argmax(axis=1)
    arrays = {}
    for name, corruption in CORRUPTIONS.items():
        correct, views, consistency = [], [], []
        for strength in corruption.strengths:
            corrupted = [images] if strength == corruption.identity else corruption.function(images, strength)
            predicted = np.stack([predict(model, prepare(view)).argmax(axis=1) for view in corrupted])
            correct.append((predicted == labels).sum(axis=0))
            views.append(len(predicted))
            consistency.append((predicted == clean).mean())
        arrays[f"{name} correct"], arrays[f"{name} views"] = np.uint8(correct), np.uint8(views)
        arrays[f"{name} consistency"] = np.array(consistency)
    return arrays
