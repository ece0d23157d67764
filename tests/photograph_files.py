"""Image files for the tests of photographs: a simple garment, and PNG files that claim what they do not hold."""

import struct
import zlib

from PIL import Image


def save(folder, image, name="photo.png", **options):
    """Save an image; return its path."""
    image.save(folder / name, **options)
    return folder / name


def draw_garment(background, garment, mode="RGB"):
    """Return an image with a rectangle, 60 wide and 120 high, off the center of a background."""
    image = Image.new(mode, (200, 300), background)
    image.paste(garment, (30, 50, 90, 170))
    return image


def build_png(width, height, rows, depth=8, color=0):
    """Return the bytes of a PNG file that claims a size and holds `rows`, uint8 arrays, however many there are."""
    packer = zlib.compressobj(1)
    content = b"".join(packer.compress(b"\0" + row.tobytes()) for row in rows) + packer.flush()
    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
