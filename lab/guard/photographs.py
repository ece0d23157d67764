"""Turn a photograph into what Fashion-MNIST is made of: 28 x 28 grey pixels, the garment bright on black.

The steps are those of section 2 of arXiv 1708.07747, where the input was a 51 x 73 thumbnail on white: trim the edges
that are close to the corner's colour, subsample to 28 pixels along the longer side, sharpen, centre, negate, make grey.
"""

import os
import warnings

import numpy as np

from lab.guard.errors import LabError

# no others that Pillow knows: one of them is a programming language (EPS), and most are read by few
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SIDE = 28
THUMBNAIL = 73  # the longer side of the images that Fashion-MNIST was made from
CLOSE = 0.05 * 255 * 3**0.5  # "within 5% of the maximum possible intensity in RGB space"
GREY = np.float32([0.299, 0.587, 0.114])  # red, green and blue in Pillow's mode L (ITU-R 601)
WORKING_SIDE, CROPPING_SIDE, SHOWN_SIDE = 1024, 4 * THUMBNAIL, 280


def read_photograph(path):
    """Read an image file as the model gets it.

    Returns: photograph, pixels: PIL.Image in mode RGB, small enough to show a hundred of them, and uint8 (28, 28)
    Raises: LabError, as `open_photograph` and `to_fashion_mnist`, with the file's name.
    """
    photograph = open_photograph(path)
    try:
        pixels = to_fashion_mnist(photograph)
    except LabError as error:
        raise LabError(f"{path}: {error}") from error
    photograph.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return photograph, pixels


def open_photograph(path):
    """Open an image file of a common format: its first frame, upright, on white if it is transparent.

    Returns: PIL.Image in mode RGB, its longer side at most 1024 pixels
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
                photo.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded small to begin with
                photo.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
                photo = ImageOps.exif_transpose(photo)
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        # what Pillow raises for corrupt files; RuntimeError is AVIF's
        raise LabError(f"{path}: not an image that can be read ({error})") from error
    if photo.mode.startswith(("I", "F")):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        levels = np.nan_to_num(np.asarray(photo, np.float32))
        white = next((white for white in (1, 255, 65_535) if levels.max() <= white), levels.max())
        photo = Image.fromarray((levels.clip(0) * (255 / white)).astype(np.uint8))
    photo = photo.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


def to_fashion_mnist(photo):
    """Convert an RGB photograph (PIL.Image) of one garment on a plain background, bright or dark.

    Returns: uint8 (28, 28). Raises: LabError, nothing stands out from the border.
    """
    from PIL import Image, ImageFilter, ImageOps

    photo = photo.copy()
    photo.thumbnail((CROPPING_SIDE, CROPPING_SIDE), Image.Resampling.BOX)  # averages noise and dust away
    pixels = np.asarray(photo.filter(ImageFilter.MedianFilter(5)), np.float32)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    border = np.median(edges, axis=0)
    distance = np.linalg.norm(pixels - border, axis=2)
    # a background that is not even needs more than the paper's 5%, but never more than half of what stands out most
    unevenness = 1.5 * np.percentile(np.linalg.norm(edges - border, axis=1), 90)
    garment = distance > max(CLOSE, min(unevenness, distance.max() / 2))
    # a row or column that a hundredth of its pixels reach into is more than a speck
    rows, columns = (np.flatnonzero(garment.mean(axis=axis) > 0.01) for axis in (1, 0))
    if not (len(rows) and len(columns)):
        raise LabError("a single flat colour, no garment stands out from the border")
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)

    grey = photo.convert("L")
    if border @ GREY > 127:
        grey = ImageOps.invert(grey)
    grey = Image.fromarray(np.where(garment, grey, 0).astype(np.uint8)).crop(box)
    grey.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    size = [max(1, round(side * SIDE / max(grey.size))) for side in grey.size]
    grey = grey.resize(size, Image.Resampling.NEAREST).filter(ImageFilter.UnsharpMask(radius=1, percent=100))
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(grey, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(canvas)
