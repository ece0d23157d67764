"""Photographs as the model gets them, and one example of each fault.

tests/faults/test_photograph_faults.py has many examples of each.
"""

import os

import numpy as np
import pytest
from conftest import run_measured
from photograph_files import (
    READ_PHOTOGRAPH,
    add_gradient,
    add_noise,
    add_speck,
    build_png,
    draw_garment,
    encode,
    encode_in_every_format,
    read_or_refuse,
    save,
)
from PIL import Image

from lab.guard.errors import LabError
from lab.guard.photographs import open_photograph, read_photograph, read_photographs, to_fashion_mnist


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
    _, pixels = read_photograph(save(tmp_path, draw_garment(background, garment)))
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    assert is_on_black(pixels)
    assert (pixels[:, 7:21] >= 254).all()


@pytest.mark.parametrize(("background", "garment", "dimmer"), [(255, 0, 128), (0, 255, 128), (215, 255, 235)])
def test_what_is_closer_to_the_background_is_dimmer(tmp_path, background, garment, dimmer):
    image = draw_garment((background,) * 3, (garment,) * 3)
    image.paste((dimmer,) * 3, (30, 110, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert pixels[2:10, 9:19].min() >= 254
    np.testing.assert_allclose(pixels[18:26, 9:19], 127, atol=2)


def test_a_shaded_white_garment_on_light_grey_is_whole(tmp_path):
    image = draw_garment((240, 240, 240), "white")
    image.paste((249, 249, 249), (30, 110, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert is_on_black(pixels)
    assert pixels[:, 8:20].min() > 100


def test_light_and_dark_parts_of_a_garment_are_both_kept(tmp_path):
    image = draw_garment((130, 130, 130), "white")
    image.paste((10, 10, 10), (30, 110, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert pixels[:, 8:20].min() > 200


@pytest.mark.parametrize(("wall", "floor"), [(120, 190), (215, 150)])
def test_a_wall_and_a_floor_are_both_background(tmp_path, wall, floor):
    image = Image.new("RGB", (200, 300), (wall,) * 3)
    image.paste((floor,) * 3, (0, 130, 200, 300))
    image.paste("white", (30, 50, 90, 170))
    _, pixels = read_photograph(save(tmp_path, image))
    assert is_on_black(pixels)
    assert pixels[:, 8:20].min() > 30


def test_a_garment_that_touches_the_border_is_not_taken_for_background(tmp_path):
    image = draw_garment("lightgrey", "white")
    image.paste("white", (0, 60, 200, 100))
    _, pixels = read_photograph(save(tmp_path, image))
    assert pixels[8:11, 1:27].min() >= 254


@pytest.mark.parametrize("name", ["same.png", "same.bmp", "same.gif", "same.tiff", "close.jpg"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_an_image_of_the_data_set_passes_as_it_is(tmp_path, splits, name, mode):
    if mode == "RGBA" and name.endswith("gif"):
        mode = "LA"  # a GIF of four channels loses grey levels when it is written
    for image in splits[1].images[:4]:
        photo = Image.fromarray(image).convert("RGB" if name.endswith("jpg") else mode)
        _, pixels = read_photograph(save(tmp_path, photo, name))
        np.testing.assert_allclose(pixels.astype(int), image, atol=40 if name.startswith("close") else 0)
        _, negated = read_photograph(save(tmp_path, Image.fromarray(255 - image), "negated.png"))
        np.testing.assert_array_equal(negated, image)


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


@pytest.mark.fault("photographs", "HEIC")
def test_of_a_heic_photograph_it_says_what_to_do(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(LabError, match="export it as JPEG"):
        read_photograph(tmp_path / "phone.HEIC")


def test_a_photograph_is_opened_small_and_converted_like_its_file(tmp_path):
    path = save(tmp_path, draw_garment("white", "black").resize((1000, 1500)))
    opened = open_photograph(path)
    assert (opened.mode, opened.size) == ("RGB", (683, 1024))
    shown, pixels = read_photograph(path)
    assert max(shown.size) == 280
    np.testing.assert_array_equal(to_fashion_mnist(opened), pixels)
    assert opened.size == (683, 1024)  # not changed by the conversion


@pytest.mark.fault("photographs", "dust, noise, uneven light")
@pytest.mark.parametrize("disturb", [add_speck, add_gradient, add_noise])
def test_dust_noise_and_uneven_light_do_not_move_the_crop(tmp_path, disturb):
    pixels = np.array(draw_garment("white", "black"))
    disturb(pixels)
    _, pixels = read_photograph(save(tmp_path, Image.fromarray(pixels)))
    assert is_on_black(pixels, 6)
    assert pixels[1:27, 8:20].min() > 150


@pytest.mark.fault("photographs", "transparency")
def test_transparency_is_white(tmp_path):
    _, on_white = read_photograph(save(tmp_path, draw_garment("white", "black")))
    _, transparent = read_photograph(save(tmp_path, draw_garment((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA")))
    np.testing.assert_array_equal(transparent, on_white)


@pytest.mark.fault("photographs", "16 bits a channel")
def test_sixteen_bits_are_not_clipped(tmp_path):
    levels = np.full((300, 200), 65535, np.uint16)
    levels[50:110, 30:90] = 0
    levels[110:170, 30:90] = 32_768
    _, deep = read_photograph(save(tmp_path, Image.fromarray(levels)))
    _, plain = read_photograph(save(tmp_path, Image.fromarray((levels // 257).astype(np.uint8))))
    np.testing.assert_allclose(deep.astype(int), plain, atol=1)
    np.testing.assert_allclose(deep[16:26, 8:20], 127, atol=2)


@pytest.mark.fault("photographs", "pixels that are not numbers")
def test_a_float_that_is_not_a_number_does_not_move_the_crop(tmp_path):
    levels = np.asarray(draw_garment("white", "black", mode="L"), np.float32) / 255
    levels[0, 0] = np.nan
    _, pixels = read_photograph(save(tmp_path, Image.fromarray(levels), "photo.tiff"))
    assert is_on_black(pixels)
    assert pixels[1:27, 8:20].min() > 200


@pytest.mark.fault("photographs", "every color mode, also CMYK")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_color_mode_shows_the_same_garment(tmp_path, mode):
    image = draw_garment("white", "black").convert(mode)
    name = f"photo.{'tiff' if mode in ('CMYK', 'YCbCr', 'F', 'I') else 'png'}"
    _, pixels = read_photograph(save(tmp_path, image, name))
    assert is_on_black(pixels)
    assert pixels[:, 8:20].min() > 200


@pytest.mark.fault("photographs", "rotated by its EXIF orientation")
def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    lying = draw_garment("white", "black").rotate(90, expand=True)
    _, pixels = read_photograph(save(tmp_path, lying, "photo.jpg", exif=exif))
    # JPEG leaves a blurred pixel around the edges
    assert is_on_black(pixels, 6)
    assert pixels[1:27, 9:19].min() > 200


@pytest.mark.fault("photographs", "animated")
def test_the_first_frame_of_an_animation_is_read(tmp_path):
    first, second = draw_garment("white", "black"), Image.new("RGB", (200, 300), "white")
    second.paste("black", (0, 100, 200, 150))
    _, still = read_photograph(save(tmp_path, first))
    _, pixels = read_photograph(save(tmp_path, first, "moving.gif", save_all=True, append_images=[second, first]))
    np.testing.assert_array_equal(pixels, still)


@pytest.mark.fault("photographs", "a garment as thin as a line")
def test_a_line_is_still_a_garment(tmp_path):
    image = Image.new("RGB", (500, 300), "white")
    image.paste("black", (0, 150, 500, 156))
    _, pixels = read_photograph(save(tmp_path, image))
    assert 1 <= (pixels > 0).any(axis=1).sum() <= 2


@pytest.mark.fault("photographs", "a single flat color")
@pytest.mark.parametrize(
    ("size", "color", "reason"),
    [((1, 1), "red", "a single flat "), ((50, 50), "red", "a single flat "), ((28, 28), "white", "all of it is black")],
)
def test_a_flat_image_has_no_garment(tmp_path, size, color, reason):
    with pytest.raises(LabError, match=rf"photo\.png: {reason}"):
        read_photograph(save(tmp_path, Image.new("RGB", size, color)))


@pytest.mark.fault("photographs", "not an image")
def test_what_is_not_an_image_is_refused_in_one_line(tmp_path):
    content = save(tmp_path, Image.effect_noise((400, 400), 90), "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("cut.jpg", "text.png", "empty.png", "folder.png", "missing.png"):
        with pytest.raises(LabError, match=name) as caught:
            read_photograph(tmp_path / name)
        assert "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would block
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "loop.png", "n" * 300):
        with pytest.raises(LabError, match="file"):
            read_photograph(tmp_path / name)


@pytest.mark.fault("photographs", "a program instead of an image")
def test_formats_that_are_programs_or_rare_are_not_opened(tmp_path):
    for format in ("EPS", "ICNS", "PCX", "TGA"):
        (tmp_path / "photo").write_bytes(encode(draw_garment("white", "black"), format))
        with pytest.raises(LabError, match="not an image that can be read"):
            read_photograph(tmp_path / "photo")


@pytest.mark.fault("photographs", "no height or no width")
def test_an_image_without_pixels_is_refused(tmp_path):
    (tmp_path / "none.png").write_bytes(build_png(0, 5, np.zeros((1, 1))))
    with pytest.raises(LabError, match=r"none\.png"):
        read_photograph(tmp_path / "none.png")


@pytest.mark.fault("photographs", "decompression bomb")
def test_a_decompression_bomb_is_refused_by_what_it_claims(tmp_path):
    (tmp_path / "bomb.png").write_bytes(build_png(20_000, 20_000, [np.zeros(20_000, np.uint8)] * 2))
    with pytest.raises(LabError, match=r"bomb\.png: not an image that can be read .*exceeds limit"):
        read_photograph(tmp_path / "bomb.png")


@pytest.mark.fault("photographs", "96 to 100 megapixels")
def test_a_very_large_photograph_takes_bounded_memory(tmp_path):
    large = Image.new("RGB", (12_000, 8_000), "white")
    large.paste("black", (3_000, 1_000, 6_000, 7_000))
    path = save(tmp_path, large, "large.jpg")
    large.close()
    printed, peak = run_measured(READ_PHOTOGRAPH.format(path=str(path)))
    side, outside, inside = map(int, printed.split())
    assert (side, outside) == (280, 0)
    assert inside > 200
    assert peak < 150


@pytest.mark.fault("photographs", "cut off")
def test_half_an_image_is_read_or_refused(tmp_path, count_cases):
    files = list(encode_in_every_format())
    for content in files:
        read_or_refuse(tmp_path, content[: len(content) // 2])
        assert read_or_refuse(tmp_path, content)
    count_cases(len(files))


@pytest.mark.fault("photographs", "bits flipped, most of them in the header")
@pytest.mark.filterwarnings("error")  # Pillow's warnings do not reach the user
def test_an_image_with_a_flipped_bit_is_read_or_refused(tmp_path, count_cases):
    files = list(encode_in_every_format())
    for content in files:
        flipped = bytearray(content)
        flipped[40] ^= 1
        read_or_refuse(tmp_path, flipped)
    count_cases(len(files))
