"""Photographs as the model gets them, and what is said of those that it cannot get.

tests/faults/test_photograph_faults.py has corrupt and very large ones.
"""

import os

import numpy as np
import pytest
from photograph_files import build_png, draw_garment, save
from PIL import Image

from lab.guard.errors import LabError
from lab.guard.photographs import read_photograph, read_photographs


def is_on_black(pixels, columns=7):
    """Return whether nothing is left of the background: 60 x 120 becomes 14 x 28, between 7 black columns."""
    return not pixels[:, :columns].any() and not pixels[:, -columns:].any()


@pytest.mark.parametrize(
    ("background", "garment"),
    [
        ("white", "black"),
        ("black", "white"),
        ("white", (155, 155, 155)),
        ("black", (90, 90, 90)),
        ("navy", (255, 74, 74)),
        ("khaki", (255, 74, 74)),
        ((60, 60, 60), (20, 20, 20)),
        ((128, 128, 128), (255, 74, 74)),  # of the same brightness
        *[((level, level, level), "white") for level in (126, 128, 160, 200, 240)],
    ],
)
def test_the_garment_is_cropped_centered_and_bright_on_black(tmp_path, background, garment):
    shown, pixels = read_photograph(save(tmp_path, draw_garment(background, garment)))
    assert (shown.mode, pixels.shape, pixels.dtype) == ("RGB", (28, 28), np.uint8)
    assert is_on_black(pixels)
    assert (pixels[:, 7:21] >= 254).all()


@pytest.mark.parametrize(("background", "garment", "dimmer"), [(255, 0, 128), (0, 255, 128), (215, 255, 235)])
def test_what_is_closer_to_the_background_is_dimmer(tmp_path, background, garment, dimmer):
    image = draw_garment((background,) * 3, (garment,) * 3)
    image.paste((dimmer,) * 3, (30, 110, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert pixels[2:10, 9:19].min() >= 254
    np.testing.assert_allclose(pixels[18:26, 9:19], 127, atol=2)


# of each: grey levels of the background, of its lower part, of the garment, of its lower part; the least that is left
TWO_TONES = {
    "shaded white garment on light grey": (240, 240, 255, 249, 100),
    "light and dark garment on grey": (130, 130, 255, 10, 200),
    "dark wall, light floor": (120, 190, 255, 255, 30),
    "light wall, dark floor": (215, 150, 255, 255, 30),
}


@pytest.mark.parametrize("case", TWO_TONES)
def test_both_parts_of_a_garment_or_of_a_background_are_known(tmp_path, case):
    wall, floor, garment, lower, least = TWO_TONES[case]
    image = draw_garment((wall,) * 3, (garment,) * 3)
    image.paste((floor,) * 3, (0, 130, 200, 300))
    image.paste((garment,) * 3, (30, 50, 90, 170))
    image.paste((lower,) * 3, (30, 110, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert is_on_black(pixels)
    assert pixels[:, 8:20].min() > least


def test_a_garment_that_touches_the_border_is_not_taken_for_background(tmp_path):
    image = draw_garment("lightgrey", "white")
    image.paste("white", (0, 60, 200, 100))
    _, pixels = read_photograph(save(tmp_path, image))
    assert pixels[8:11, 1:27].min() >= 254


@pytest.mark.parametrize(
    ("name", "mode"),
    [("same.png", "L"), ("same.png", "RGBA"), ("same.gif", "P"), ("same.tiff", "RGB"), ("close.jpg", "RGB")],
)
def test_an_image_of_the_data_set_passes_as_it_is(tmp_path, splits, name, mode):
    for image in splits[1].images[:4]:
        _, pixels = read_photograph(save(tmp_path, Image.fromarray(image).convert(mode), name))
        np.testing.assert_allclose(pixels.astype(int), image, atol=40 if name.startswith("close") else 0)
        _, negated = read_photograph(save(tmp_path, Image.fromarray(255 - image), "negated.png"))
        np.testing.assert_array_equal(negated, image)


# photographs that show the same garment


def save_lit(folder, light):
    """Save a garment on white, in a light that is a function of the place, from -1 to 1 in both directions."""
    y, x = np.mgrid[-1:1:300j, -1:1:200j][..., None]
    levels = np.asarray(draw_garment("white", "black")) * light(x, y) / 255
    return save(folder, Image.fromarray(levels.clip(0, 255).astype(np.uint8)))


def save_deep_colors(folder):
    levels = np.asarray(draw_garment("white", "black")).astype(">u2") * 257
    (folder / "deep.png").write_bytes(build_png(200, 300, levels.reshape(300, -1).view(np.uint8), depth=16, color=2))
    return folder / "deep.png"


def save_with_nan(folder):
    levels = np.asarray(draw_garment("white", "black", mode="L"), np.float32) / 255
    levels[0, 0] = np.nan
    return save(folder, Image.fromarray(levels), "photo.tiff")


def save_transparent_palette(folder):
    image = draw_garment("red", "black").convert("P", palette=Image.Palette.ADAPTIVE)
    return save(folder, image, transparency=image.getpixel((0, 0)))


def save_on_its_side(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(folder, draw_garment("white", "black").rotate(90, expand=True), "photo.jpg", exif=exif)


def save_animation(folder):
    second = Image.new("RGB", (200, 300), "black")
    return save(folder, draw_garment("white", "black"), "photo.gif", save_all=True, append_images=[second])


def save_in_mode(mode):
    suffix = "tiff" if mode in ("CMYK", "YCbCr", "F", "I") else "png"
    return lambda folder: save(folder, draw_garment("white", "black").convert(mode), f"photo.{suffix}")


NOISE = np.random.default_rng(0).normal(240, 12, (300, 200, 3))
SAME_GARMENT = {
    "dust": lambda folder: save_lit(folder, lambda x, y: 255 * ((x < 0.995) | (y < 0.995))),
    "noise": lambda folder: save_lit(folder, lambda x, y: NOISE),
    "uneven light": lambda folder: save_lit(folder, lambda x, y: 217 + 38 * y),
    "dark corners": lambda folder: save_lit(folder, lambda x, y: 235 - 45 * (x**2 + y**2)),
    "transparency": lambda folder: save(folder, draw_garment((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA")),
    "transparent color of a palette": save_transparent_palette,
    "16 bits of each color": save_deep_colors,
    "pixels that are not numbers": save_with_nan,
    "rotated by its EXIF orientation": save_on_its_side,
    "animated": save_animation,
    **{f"color mode {mode}": save_in_mode(mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F")},
}


@pytest.mark.fault("photographs", "dust, noise, uneven light; every color mode; rotated, animated, transparent")
@pytest.mark.parametrize("kind", SAME_GARMENT)
def test_the_same_garment_is_seen_in_every_kind_of_photograph(tmp_path, kind):
    _, pixels = read_photograph(SAME_GARMENT[kind](tmp_path))
    assert is_on_black(pixels, 6)
    assert pixels[1:27, 9:19].min() > 150


@pytest.mark.fault("photographs", "16 bits a channel")
def test_sixteen_bits_are_not_clipped(tmp_path):
    levels = np.full((300, 200), 65_535, np.uint16)
    levels[50:110, 30:90] = 0
    levels[110:170, 30:90] = 32_768
    _, pixels = read_photograph(save(tmp_path, Image.fromarray(levels)))
    np.testing.assert_allclose(pixels[16:26, 8:20], 127, atol=2)


# what is refused, or warned of


@pytest.mark.fault("photographs", "hardly a garment")
def test_what_hardly_shows_a_garment_is_named(tmp_path, caplog):
    image = Image.new("RGB", (200, 300), "white")
    for start in ((20, 20), (170, 270)):  # two corners of a box with nothing between
        image.paste("black", (*start, start[0] + 8, start[1] + 8))
    read_photograph(save(tmp_path, image, "corners.png"))
    read_photograph(save(tmp_path, draw_garment("lightgrey", "white"), "shirt.png"))
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [str(tmp_path / "corners.png")]


@pytest.mark.fault("photographs", "one bad file of several")
def test_good_photographs_are_read_beside_bad_ones(tmp_path, caplog):
    (tmp_path / "bad\x1b.png").write_text("hello")
    good = save(tmp_path, draw_garment("white", "black"))
    read = read_photographs([tmp_path / "bad\x1b.png", good, tmp_path / "missing.png"])
    assert [path for path, _, _ in read] == [good]
    bad, missing = (record.getMessage() for record in caplog.records)
    assert bad.startswith(f"error: {tmp_path / 'bad?.png'}: not an image")
    assert missing == f"error: {tmp_path / 'missing.png'}: no such file"
    with pytest.raises(LabError, match="none of 2 photographs"):
        read_photographs([tmp_path / "missing.png"] * 2)
    with pytest.raises(LabError, match=r"missing\.png: no such file"):
        read_photographs([tmp_path / "missing.png"])


NOT_PHOTOGRAPHS = {
    "text.png": (lambda path: path.write_text("hello"), "not an image that can be read"),
    "empty.png": (lambda path: path.touch(), "not an image that can be read"),
    "phone.HEIC": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "HEIC; export it as JPEG"),
    "program.eps": (lambda path: draw_garment("white", "black").save(path), "not an image that can be read"),
    "bomb.png": (lambda path: path.write_bytes(build_png(20_000, 20_000, [np.zeros(9)])), "exceeds limit"),
    "no width.png": (lambda path: path.write_bytes(build_png(0, 5, [np.zeros(1)])), "not an image that can be read"),
    "flat.png": (lambda path: Image.new("RGB", (50, 50), "red").save(path), "a single flat color"),
    "pixel.png": (lambda path: Image.new("RGB", (1, 1), "red").save(path), "a single flat color"),
    "black.png": (lambda path: Image.new("RGB", (28, 28)).save(path), "all of it is black"),
    "pipe.png": (os.mkfifo, "not a file"),  # opening it would block
}


@pytest.mark.fault("photographs", "not an image, HEIC, a program, no pixels, a single flat color, a decompression bomb")
@pytest.mark.parametrize("name", NOT_PHOTOGRAPHS)
def test_what_is_not_a_photograph_is_refused_in_one_line(tmp_path, name):
    write, reason = NOT_PHOTOGRAPHS[name]
    write(tmp_path / name)
    with pytest.raises(LabError, match=f"{name}: .*{reason}"):
        read_photograph(tmp_path / name)
