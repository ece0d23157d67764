"""Turn a photograph into what Fashion-MNIST is made of: 28 x 28 grey pixels, the garment bright on black.

The steps are those of section 2 of arXiv 1708.07747, where the input was a 51 x 73 thumbnail on white: trim the edges
that are close to the corner's colour, subsample to 28 pixels along the longer side, sharpen, centre, negate, make grey.
On white, negated means: the farther from white, the brighter. Here, a pixel of the garment is the brighter, the farther
its colour is from that of the background, whichever of the two is lighter.
"""

import logging
import math
import os
import warnings

import numpy as np

from lab.guard.errors import LabError, brief

# no others that Pillow knows: one of them is a programming language (EPS), and most are read by few
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SIDE = 28
THUMBNAIL = 73  # the longer side of the images that Fashion-MNIST was made from
CLOSE = 0.05 * 255 * 3**0.5  # "within 5% of the maximum possible intensity in RGB space"
GREY = np.float32([0.299, 0.587, 0.114])  # weights of red, green and blue in brightness (ITU-R 601)
LEAST_SHARE, LEAST_MEAN = 0.2, 5  # the least of 20,000 images: 22% of the box around the garment, 5 of 255 on average
LARGEST_SIDE = 4 * THUMBNAIL  # of a photograph; a hundred of this size can be shown

logger = logging.getLogger(__name__)


def read_photographs(paths):
    """Read image files as the model gets them; log a line for each that cannot be read.

    Returns: list of (path, photograph, pixels), the latter two as from `read_photograph`
    Raises: LabError, none can be read.
    """
    read = []
    for path in paths:
        try:
            read.append((path, *read_photograph(path)))
        except LabError as error:
            if len(paths) == 1:
                raise
            logger.error("error: %s", error)
    if not read:
        raise LabError(f"none of {len(paths)} photographs can be read")
    return read


def require_all(photographs, paths):
    """Raise a LabError if fewer photographs were read than there are paths; called when the others have been shown."""
    if len(photographs) < len(paths):
        raise LabError(f"{len(paths) - len(photographs)} of {len(paths)} photographs could not be read")


def read_photograph(path):
    """Read an image file as the model gets it; warn if hardly a garment is left of it.

    Returns: photograph, pixels: as from `open_photograph`, and uint8 (28, 28)
    Raises: LabError, as `open_photograph` and `to_fashion_mnist`, with the file's name.
    """
    photograph = open_photograph(path)
    pixels = to_fashion_mnist(photograph, path)
    if not pixels.any():
        raise LabError(f"{path}: all of it is black for the model")
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    share = (pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0).mean()
    if share < LEAST_SHARE or pixels.mean() < LEAST_MEAN:
        advice = "take one garment on a plain background of another color"
        logger.warning("warning: %s: hardly a garment is left (%.0f%% of its box); %s", path, 100 * share, advice)
    return photograph, pixels


def open_photograph(path):
    """Open an image file of a common format: its first frame, upright, on white if it is transparent.

    Returns: PIL.Image in mode RGB, its longer side at most 292 pixels
    Raises: LabError, no such file, not an image, corrupt, or more pixels than Pillow's decompression-bomb limit.
    """
    from PIL import Image, ImageOps

    if not os.path.isfile(path):  # opening a FIFO would block
        raise LabError(f"{path}: {'not a file' if os.path.exists(path) else 'no such file'}")
    try:
        with warnings.catch_warnings():
            # Pillow warns of a bomb from 89 megapixels on and refuses twice as much; some cameras come close. It also
            # warns of corrupt metadata
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as photo:
                tile = math.prod(getattr(photo, "tag_v2", {}).get(tag, 0) for tag in (322, 323))  # of TIFF: its sides
                if tile > max(2**20, 16 * math.prod(photo.size)):
                    raise ValueError(f"tiles of {tile:,} pixels")
                if photo.mode in ("1", "P"):  # whose pixels cannot be averaged
                    photo = photo.convert("RGBA")
                photo.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)  # averages noise and dust away
                photo = ImageOps.exif_transpose(photo)
    except Exception as error:  # Pillow raises what its readers of images and of metadata happen to raise
        is_heic = os.path.splitext(path)[1].lower() in (".heic", ".heif")
        reason = "HEIC; export it as JPEG" if is_heic else brief(error)
        raise LabError(f"{path}: not an image that can be read ({reason})") from error
    if photo.mode.startswith(("I", "F")):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        levels = np.nan_to_num(np.asarray(photo, np.float32))
        max_pixel = next((level for level in (1, 255, 65_535) if levels.max() <= level), levels.max())
        photo = Image.fromarray((levels.clip(0) * (255 / max_pixel)).astype(np.uint8))
    photo = photo.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


def to_fashion_mnist(photo, path):
    """Convert an RGB photograph (PIL.Image) of one garment on a plain background of another color.

    A grey image of 28 x 28 pixels is taken for one of the data set: left as it is, or negated if its border is light.

    Returns: uint8 (28, 28). Raises: LabError with the path, nothing stands out from the background.
    """
    from PIL import Image, ImageFilter

    if photo.size == (SIDE, SIDE):
        pixels = np.asarray(photo)
        if np.ptp(pixels.astype(int), axis=2).max() <= 8:  # grey, as far as JPEG keeps it
            grey = pixels[..., 1]
            return 255 - grey if np.median(_border(grey)) > 127 else grey

    smooth = np.asarray(photo.filter(ImageFilter.MedianFilter(5)), np.float32)
    background = _estimate_background(smooth)
    distance = _distance(smooth, background)
    most = distance.max()
    if most <= CLOSE:
        raise LabError(f"{path}: a single flat color, no garment stands out from the border")
    # a background that is not even needs more than the paper's 5%, but never more than half of what stands out most.
    # Much of a white garment is within 5% of a light background: there, a third of what stands out most is enough
    unevenness = 1.5 * np.percentile(_border(distance), 90)
    garment = distance > max(min(CLOSE, most / 3), min(unevenness, most / 2))
    # a row or column that a hundredth of its pixels reach into is more than a speck
    rows, columns = (np.flatnonzero(garment.mean(axis=axis) > 0.01) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        raise LabError(f"{path}: nothing larger than a speck stands out from the border")
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)

    brightness = np.sqrt((np.asarray(photo, np.float32) - background) ** 2 @ GREY)
    # every image of the data set has a pixel of 254 or 255
    brightness *= garment * (255 / max(1, np.percentile(brightness[garment], 99)))
    grey = Image.fromarray(brightness.clip(0, 255).astype(np.uint8)).crop(box)
    grey.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    size = [max(1, round(side * SIDE / max(grey.size))) for side in grey.size]
    grey = grey.resize(size, Image.Resampling.NEAREST).filter(ImageFilter.UnsharpMask(radius=1, percent=100))
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(grey, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(canvas)


def _border(values):
    """Return the outermost values of an array (height, width, ...), side after side."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _estimate_background(pixels):
    """Return the background's color for pixels float (height, width, 3), guessed from the border.

    It is the first of three guesses to which about as many pixels are close as to the best: all of one color; each row
    running evenly from its left to its right end, as with a wall and a floor; or fitted to the upper and lower edge,
    too, as with corners that are darker than the center.
    """
    color = np.median(_border(pixels), axis=0)
    edges = [pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]]
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    if _distance(corners, corners.mean(axis=0)).max() <= 2 * CLOSE:  # a garment may touch the edges
        edges = [np.where(_distance(edge, color)[:, None] <= 4 * CLOSE, edge, color) for edge in edges]
    left, right, top, bottom = map(_smooth_steps, edges)
    down, across = (np.linspace(0, 1, size, dtype=np.float32)[:, None] for size in pixels.shape[:2])
    rows = left[:, None] + across * (right - left)[:, None]
    down = down[:, None]
    fitted = rows + (1 - down) * (top - rows[0]) + down * (bottom - rows[-1])
    guesses = np.broadcast_to(color, pixels.shape), rows, fitted
    shares = [(_distance(pixels, guess) <= CLOSE).mean() for guess in guesses]
    return next(guess for guess, share in zip(guesses, shares, strict=True) if share >= 0.9 * max(shares))


def _distance(colors, others):
    """Return how far colors (..., 3) are from others."""
    return np.linalg.norm(colors - others, axis=-1)


def _smooth_steps(colors):
    """Return the running median over half of the colors (n, 3): it drops what touches the edge and keeps a step."""
    reach = len(colors) // 4
    padded = np.pad(colors, ((reach, reach), (0, 0)), mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0), axis=-1)
