"""Turn a photograph into what Fashion-MNIST is made of: 28 x 28 grey pixels, the garment bright on black.

The steps are those of section 2 of arXiv 1708.07747, where the input was a 51 x 73 thumbnail on white: trim the edges
that are close to the corner's colour, subsample to 28 pixels along the longer side, sharpen, centre, negate, make grey.
"""

import warnings

import numpy as np

from lab import LabError

SIDE = 28
THUMBNAIL = 73  # the longer side of the pictures that Fashion-MNIST was made from
CLOSE = 0.05 * 255 * 3**0.5  # "within 5% of the maximum possible intensity in RGB space"
GREY = np.float32([0.299, 0.587, 0.114])  # red, green and blue in Pillow's mode L (ITU-R 601)
WORKING_SIDE = 1024
SHOWN_SIDE = 280


def read_photo(path):
    """Read a picture file as the model is to see it.

    Returns:
        photograph, pixels: PIL.Image in mode RGB, small enough to be shown by the hundred, and uint8 (28, 28)

    Raises:
        LabError: as `open_photo` and `to_fashion_mnist`, with the file's name.
    """
    photograph = open_photo(path)
    try:
        pixels = to_fashion_mnist(photograph)
    except LabError as error:
        raise LabError(f"{path}: {error}") from error
    photograph.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return photograph, pixels


def open_photo(path):
    """Open any picture that Pillow reads: its first frame, upright, on white where it is transparent.

    Returns:
        PIL.Image in mode RGB, its longer side at most 1024 pixels

    Raises:
        LabError: no such file, no picture, damaged, or more pixels than Pillow takes for honest.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns of a bomb from 89 megapixels on and refuses twice as much; cameras have come close
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as photo:
                photo.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded small to begin with
                photo.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
                photo = ImageOps.exif_transpose(photo)
    except FileNotFoundError as error:
        raise LabError(f"{path}: no such file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabError(f"{path}: no picture that can be read ({error})") from error
    if photo.mode.startswith(("I", "F")):  # 16 bits a pixel, which Pillow's own conversion would clip at 255
        levels = np.asarray(photo, np.float32)
        photo = Image.fromarray((levels / max(1, levels.max() / 255)).astype(np.uint8))
    photo = photo.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo).convert("RGB")


def to_fashion_mnist(photo):
    """Convert an RGB photograph (PIL.Image) of one garment on a plain background, bright or dark.

    Returns:
        uint8 (28, 28)

    Raises:
        LabError: nothing stands out from the border.
    """
    from PIL import Image, ImageFilter

    pixels = np.asarray(photo, np.float32)
    border = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    stands_out = np.linalg.norm(pixels - border, axis=2) > CLOSE
    if not stands_out.any():
        raise LabError("one flat colour, no garment stands out from its border")
    rows, columns = np.flatnonzero(stands_out.any(axis=1)), np.flatnonzero(stands_out.any(axis=0))
    garment = photo.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).convert("L")
    garment.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    size = [max(1, round(side * SIDE / max(garment.size))) for side in garment.size]
    garment = garment.resize(size, Image.Resampling.NEAREST).filter(ImageFilter.UnsharpMask(radius=1, percent=100))
    # the distance from the border's grey: negates on white, leaves as it is on black, and makes any background black
    background = border @ GREY
    levels = np.abs(np.asarray(garment, np.float32) - background) * (255 / max(background, 255 - background))
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = np.clip(levels, 0, 255).round()
    return canvas
