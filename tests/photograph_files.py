"""Image files for the tests of photographs: simple garments, and PNG files that claim what they do not hold."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from lab.guard.errors import LabError
from lab.guard.photographs import read_photograph

# program that prints what becomes of a photograph, for run_measured
READ_PHOTOGRAPH = """
from lab.guard.errors import LabError
from lab.guard.photographs import read_photograph
try:
    photograph, pixels = read_photograph({path!r})
    print(max(photograph.size), pixels[:, :7].max(), pixels[:, 8:20].min())
except LabError as error:
    print(error)
"""


def save(folder, image, name="photo.png", **options):
    """Save an image; return its path."""
    image.save(folder / name, **options)
    return folder / name


def draw_garment(background, garment, size=(200, 300), mode="RGB"):
    """Return an image with a rectangle, 60 wide and 120 high, off the center of a background."""
    image = Image.new(mode, size, background)
    image.paste(garment, (30, 50, 90, 170))
    return image


def add_speck(pixels):
    pixels[298, 197] = 0


def add_gradient(pixels):
    outside = pixels.min(axis=2) == 255
    pixels[outside] = np.broadcast_to(np.linspace(180, 255, 300)[:, None, None], pixels.shape)[outside]


def add_noise(pixels):
    pixels[:] = np.clip(pixels * 0.94 + np.random.default_rng(0).normal(0, 12, pixels.shape), 0, 255)


def encode(image, format, **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def build_png(width, height, rows, depth=8, color=0):
    """Return the bytes of a PNG file that claims a size and holds `rows`, uint8 arrays, however many there are."""
    packer = zlib.compressobj(1)
    content = b"".join(packer.compress(b"\0" + row.tobytes()) for row in rows) + packer.flush()
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def encode_in_every_format():
    """Yield image files of a small noisy garment, in every format and compression that photographs come in."""
    pixels = np.array(draw_garment("white", "black"))
    add_noise(pixels)
    image = Image.fromarray(pixels).resize((50, 75))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encode(image, "PNG", exif=exif)
    yield encode(image.convert("P"), "PNG", transparency=0)
    yield encode(image, "PNG", save_all=True, append_images=[image.rotate(90)])
    yield encode(image, "JPEG", exif=exif)
    yield encode(image, "JPEG", progressive=True)
    yield encode(image.convert("CMYK"), "JPEG")
    yield encode(image, "MPO", save_all=True, append_images=[image])
    yield encode(image, "GIF", save_all=True, append_images=[image.rotate(90)])
    yield encode(image, "WEBP", exif=exif)
    yield encode(image, "WEBP", save_all=True, append_images=[image], lossless=True)
    for compression in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        yield encode(image, "TIFF", compression=compression)
    yield encode(image, "BMP")
    yield encode(image.convert("P"), "BMP")
    yield encode(image, "AVIF")


def read_or_refuse(folder, content):
    """Read a corrupt image file; return whether it could be read. Raise anything but a LabError."""
    (folder / "corrupt").write_bytes(content)
    try:
        _, pixels = read_photograph(folder / "corrupt")
    except LabError:
        return False
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    return True
