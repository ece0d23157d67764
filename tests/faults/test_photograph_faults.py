"""Photographs that are corrupt or very large, in every format: read or refused, in bounded memory."""

import io
import struct
import zlib

import numpy as np
import pytest
from conftest import run_measured
from photograph_files import build_png, draw_garment, save
from PIL import Image

from lab.guard.errors import LabError
from lab.guard.photographs import read_photograph


def encode(image, format, **options):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def encode_in_every_format():
    """Return image files of a small garment, in every format and compression that photographs come in."""
    image = draw_garment("white", "brown").resize((50, 75))
    more = {"save_all": True, "append_images": [image.rotate(90)]}
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(image, "PNG", exif=exif),
        encode(image.convert("P"), "PNG", transparency=0),
        encode(image, "PNG", **more),
        encode(image, "JPEG", exif=exif),
        encode(image, "JPEG", progressive=True),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "MPO", **more),
        encode(image, "GIF", **more),
        encode(image, "WEBP", exif=exif),
        encode(image, "WEBP", lossless=True, **more),
        *[encode(image, "TIFF", compression=each) for each in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")],
        encode(image, "BMP"),
        encode(image, "AVIF"),
    ]


def read_or_refuse(path, content):
    """Read a corrupt image file; return whether it could be read. Raise anything but a LabError."""
    path.write_bytes(content)
    try:
        _, pixels = read_photograph(path)
    except LabError:
        return False
    assert (pixels.shape, pixels.dtype) == ((28, 28), np.uint8)
    return True


@pytest.mark.fault("photographs", "cut off")
def test_an_image_that_is_cut_off_is_read_or_refused(tmp_path, soak, count_cases):
    cuts = 0
    for content in encode_in_every_format():
        assert read_or_refuse(tmp_path / "x", content)
        kept = np.linspace(0, len(content), 300 if soak else 4, endpoint=False, dtype=int)
        is_read = [read_or_refuse(tmp_path / "x", content[:length]) for length in kept]
        assert not is_read[0]
        cuts += len(kept)
    count_cases(cuts)


@pytest.mark.fault("photographs", "bits flipped, most of them in the header")
@pytest.mark.filterwarnings("error")  # Pillow's warnings do not reach the user
def test_an_image_with_flipped_bits_is_read_or_refused(tmp_path, soak, count_cases):
    rng = np.random.default_rng(0)
    flips = 0
    for content in encode_in_every_format():
        for number in range(1_500 if soak else 24):
            corrupt = bytearray(content)
            for _ in range(1 + number % 8):
                corrupt[rng.integers(min(len(content), (64, 512, len(content))[number % 3]))] ^= 1 << rng.integers(8)
            read_or_refuse(tmp_path / "x", corrupt)
            flips += 1
    count_cases(flips)


def write_large_jpeg(path):
    image = Image.new("RGB", (12_000, 8_000), "white")
    image.paste("black", (3_000, 1_000, 6_000, 7_000))
    save(path.parent, image, path.name, format="JPEG")


def write_large_png(path):
    white = np.full(12_500, 255, np.uint8)
    black = np.where(np.arange(12_500) // 3_000 == 1, 0, white).astype(np.uint8)
    path.write_bytes(build_png(12_500, 8_000, [white] * 1_000 + [black] * 6_000 + [white] * 1_000))


def write_bomb(path):
    path.write_bytes(build_png(13_000, 13_000, [np.zeros(13_000, np.uint8)] * 2))  # of which Pillow completes the rest


@pytest.mark.fault("photographs", "96 to 170 megapixels")
@pytest.mark.parametrize(
    ("write", "said", "mebibytes"),
    [(write_large_jpeg, "292 0 True", 150), (write_large_png, "292 0 True", 200), (write_bomb, "a single flat", 300)],
)
def test_a_very_large_image_takes_no_more_memory_than_its_pixels(tmp_path, write, said, mebibytes):
    write(tmp_path / "large")
    printed, peak = run_measured(
        "from lab.guard.errors import LabError\n"
        "from lab.guard.photographs import read_photograph\n"
        "try:\n"
        f"    photograph, pixels = read_photograph({str(tmp_path / 'large')!r})\n"
        "    print(max(photograph.size), pixels[:, :6].max(), pixels[:, 8:20].min() > 200)\n"
        "except LabError as error:\n"
        "    print(error)"
    )
    assert said in printed
    assert peak < mebibytes


@pytest.mark.fault("photographs", "TIFF of few pixels in huge tiles")
def test_an_image_of_few_pixels_in_huge_tiles_is_refused(tmp_path):
    # width, height, bits, deflate, grey, samples, sides of a tile, place and size of its data
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 32_000, 323: 32_000, 324: 134, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "x").write_bytes(b"II*\0\x08\0\0\0\x0a\0" + entries + bytes(4) + zlib.compress(b""))
    with pytest.raises(LabError, match="tiles of 1,024,000,000 pixels"):
        read_photograph(tmp_path / "x")


@pytest.mark.fault("photographs", "EXIF with a tag of another type, which Pillow cannot write again")
def test_an_image_with_unusual_exif_is_refused(tmp_path):
    tags = struct.pack("<HHHI4sHHIHHI", 2, 0x0106, 2, 4, b"abc", 0x0112, 3, 1, 6, 0, 0)  # a text; rotated
    image = draw_garment("white", "black")
    assert not read_or_refuse(tmp_path / "x", encode(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags))
