import numpy as np
import pytest
from conftest import run_measured
from PIL import Image

from lab import LabError
from lab.photo import read_photo


def save(tmp_path, image, name="photo.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def shirt(background, garment, size=(200, 300), mode="RGB"):
    """Return a picture with a rectangle, 60 wide and 120 high, somewhere on a background."""
    image = Image.new(mode, size, background)
    image.paste(garment, (30, 50, 90, 170))
    return image


@pytest.mark.parametrize(
    ("background", "garment", "level"),
    [("white", "black", 255), ("black", "white", 255), ("white", (155, 155, 155), 100), ("black", (90, 90, 90), 90)],
)
def test_the_garment_is_cropped_centred_and_bright_on_black(tmp_path, background, garment, level):
    _, pixels = read_photo(save(tmp_path, shirt(background, garment)))
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    # 60 x 120 becomes 14 x 28: as high as the picture, with 7 black columns on either side
    assert (pixels[:, :7] == 0).all()
    assert (pixels[:, 21:] == 0).all()
    np.testing.assert_allclose(pixels[:, 7:21], level, atol=1)


@pytest.mark.parametrize("background", ["lightgrey", "dimgrey", "khaki", "navy", (128, 128, 128)])
def test_the_background_becomes_black_whatever_it_was(tmp_path, background):
    _, pixels = read_photo(save(tmp_path, shirt(background, (255, 74, 74))))
    assert (pixels[:, :7] == 0).all()
    assert pixels[1:27, 8:20].min() > 40


def test_light_and_dark_parts_of_a_garment_stay_apart(tmp_path):
    image = shirt((130, 130, 130), "white")
    image.paste((10, 10, 10), (30, 110, 90, 170))
    _, pixels = read_photo(save(tmp_path, image))
    assert pixels[18:26, 9:19].min() - int(pixels[2:10, 9:19].max()) > 200


def speck(pixels):
    pixels[298, 197] = 0


def gradient(pixels):
    outside = pixels.min(axis=2) == 255
    pixels[outside] = np.broadcast_to(np.linspace(180, 255, 300)[:, None, None], pixels.shape)[outside]


def noise(pixels):
    pixels[:] = np.clip(pixels * 0.94 + np.random.default_rng(0).normal(0, 12, pixels.shape), 0, 255)


@pytest.mark.parametrize("disturb", [speck, gradient, noise])
def test_dust_noise_and_uneven_light_do_not_move_the_crop(tmp_path, disturb):
    pixels = np.array(shirt("white", "black"))
    disturb(pixels)
    _, pixels = read_photo(save(tmp_path, Image.fromarray(pixels)))
    assert (pixels[:, :6] == 0).all()
    assert pixels[1:27, 8:20].min() > 150


def test_transparency_is_white(tmp_path):
    _, on_white = read_photo(save(tmp_path, shirt("white", "black")))
    _, transparent = read_photo(save(tmp_path, shirt((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA")))
    np.testing.assert_array_equal(transparent, on_white)


def test_sixteen_bits_are_not_clipped(tmp_path):
    levels = np.full((300, 200), 65535, np.uint16)
    levels[50:170, 30:90] = 20_000
    _, deep = read_photo(save(tmp_path, Image.fromarray(levels)))
    _, plain = read_photo(save(tmp_path, Image.fromarray((levels // 257).astype(np.uint8))))
    np.testing.assert_allclose(deep.astype(int), plain, atol=1)
    assert 170 < deep[14, 14] < 185


def test_floats_and_what_is_no_number(tmp_path):
    levels = np.asarray(shirt("white", "black", mode="L"), np.float32) / 255
    levels[0, 0] = np.nan
    _, pixels = read_photo(save(tmp_path, Image.fromarray(levels), "photo.tiff"))
    assert (pixels[:, :7] == 0).all()
    assert pixels[1:27, 8:20].min() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_colour_mode_shows_the_same_garment(tmp_path, mode):
    image = shirt("white", "black").convert(mode)
    _, pixels = read_photo(save(tmp_path, image, f"photo.{'tiff' if mode in ('CMYK', 'YCbCr', 'F', 'I') else 'png'}"))
    assert (pixels[:, :7] == 0).all()
    assert pixels[:, 8:20].min() > 200


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    lying = shirt("white", "black").rotate(90, expand=True)
    _, pixels = read_photo(save(tmp_path, lying, "photo.jpg", exif=exif))
    # JPEG leaves a blurred pixel around the edges
    assert (pixels[:, :6] == 0).all()
    assert pixels[1:27, 9:19].min() > 200


def test_a_very_large_photograph_takes_bounded_memory(tmp_path):
    large = Image.new("RGB", (12_000, 8_000), "white")
    large.paste("black", (3_000, 1_000, 6_000, 7_000))
    path = save(tmp_path, large, "large.jpg")
    large.close()
    printed, peak = run_measured(
        "from lab.photo import read_photo\n"
        f"photograph, pixels = read_photo({str(path)!r})\n"
        "print(max(photograph.size), pixels[:, :7].max(), pixels[:, 8:20].min())"
    )
    side, outside, inside = map(int, printed.split())
    assert (side, outside) == (280, 0)
    assert inside > 200
    assert peak < 150


@pytest.mark.parametrize("size", [(1, 1), (50, 50)])
def test_a_flat_picture_has_no_garment(tmp_path, size):
    with pytest.raises(LabError, match=r"photo\.png: one flat colour"):
        read_photo(save(tmp_path, Image.new("RGB", size, "red")))


def test_a_line_is_still_a_picture(tmp_path):
    image = Image.new("RGB", (500, 300), "white")
    image.paste("black", (0, 150, 500, 156))
    _, pixels = read_photo(save(tmp_path, image))
    assert 1 <= (pixels > 0).any(axis=1).sum() <= 2


def test_what_is_no_picture_is_one_line(tmp_path):
    whole = save(tmp_path, Image.effect_noise((400, 400), 90), "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("cut.jpg", "text.png", "empty.png", "folder.png", "missing.png"):
        with pytest.raises(LabError, match=name) as caught:
            read_photo(tmp_path / name)
        assert "\n" not in str(caught.value)
