import io
import os
import struct
import zlib

import numpy as np
import pytest
from conftest import ROOT, run_measured
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


@pytest.mark.fault("pictures", "dust, noise, uneven light")
@pytest.mark.parametrize("disturb", [speck, gradient, noise])
def test_dust_noise_and_uneven_light_do_not_move_the_crop(tmp_path, disturb):
    pixels = np.array(shirt("white", "black"))
    disturb(pixels)
    _, pixels = read_photo(save(tmp_path, Image.fromarray(pixels)))
    assert (pixels[:, :6] == 0).all()
    assert pixels[1:27, 8:20].min() > 150


@pytest.mark.fault("pictures", "transparency")
def test_transparency_is_white(tmp_path):
    _, on_white = read_photo(save(tmp_path, shirt("white", "black")))
    _, transparent = read_photo(save(tmp_path, shirt((0, 0, 0, 0), (0, 0, 0, 255), mode="RGBA")))
    np.testing.assert_array_equal(transparent, on_white)


@pytest.mark.fault("pictures", "16 bits a channel")
def test_sixteen_bits_are_not_clipped(tmp_path):
    levels = np.full((300, 200), 65535, np.uint16)
    levels[50:170, 30:90] = 20_000
    _, deep = read_photo(save(tmp_path, Image.fromarray(levels)))
    _, plain = read_photo(save(tmp_path, Image.fromarray((levels // 257).astype(np.uint8))))
    np.testing.assert_allclose(deep.astype(int), plain, atol=1)
    assert 170 < deep[14, 14] < 185


@pytest.mark.fault("pictures", "pixels that are no numbers")
def test_floats_and_what_is_no_number(tmp_path):
    levels = np.asarray(shirt("white", "black", mode="L"), np.float32) / 255
    levels[0, 0] = np.nan
    _, pixels = read_photo(save(tmp_path, Image.fromarray(levels), "photo.tiff"))
    assert (pixels[:, :7] == 0).all()
    assert pixels[1:27, 8:20].min() > 200


@pytest.mark.fault("pictures", "every colour mode, CMYK too")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_every_colour_mode_shows_the_same_garment(tmp_path, mode):
    image = shirt("white", "black").convert(mode)
    _, pixels = read_photo(save(tmp_path, image, f"photo.{'tiff' if mode in ('CMYK', 'YCbCr', 'F', 'I') else 'png'}"))
    assert (pixels[:, :7] == 0).all()
    assert pixels[:, 8:20].min() > 200


@pytest.mark.fault("pictures", "lying on its side, by its EXIF")
def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    lying = shirt("white", "black").rotate(90, expand=True)
    _, pixels = read_photo(save(tmp_path, lying, "photo.jpg", exif=exif))
    # JPEG leaves a blurred pixel around the edges
    assert (pixels[:, :6] == 0).all()
    assert pixels[1:27, 9:19].min() > 200


@pytest.mark.fault("pictures", "96 to 100 megapixels")
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


@pytest.mark.fault("pictures", "nothing to be seen")
@pytest.mark.parametrize("size", [(1, 1), (50, 50)])
def test_a_flat_picture_has_no_garment(tmp_path, size):
    with pytest.raises(LabError, match=r"photo\.png: one flat colour"):
        read_photo(save(tmp_path, Image.new("RGB", size, "red")))


@pytest.mark.fault("pictures", "a garment as thin as a line")
def test_a_line_is_still_a_picture(tmp_path):
    image = Image.new("RGB", (500, 300), "white")
    image.paste("black", (0, 150, 500, 156))
    _, pixels = read_photo(save(tmp_path, image))
    assert 1 <= (pixels > 0).any(axis=1).sum() <= 2


@pytest.mark.fault("pictures", "no picture at all")
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
    os.mkfifo(tmp_path / "pipe.png")  # whose reader would wait for ever
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "loop.png", "n" * 300):
        with pytest.raises(LabError, match="file"):
            read_photo(tmp_path / name)


@pytest.mark.fault("pictures", "transparency")
def test_a_palette_with_transparency_is_white_where_it_is(tmp_path):
    image = shirt("red", "black").convert("P", palette=Image.Palette.ADAPTIVE)
    _, pixels = read_photo(save(tmp_path, image, transparency=image.getpixel((0, 0))))
    assert (pixels[:, :7] == 0).all()
    assert pixels[:, 8:20].min() == 255  # of black on white; black on red is no brighter than red


@pytest.mark.fault("pictures", "16 bits a channel")
def test_sixteen_bits_of_each_colour(tmp_path):
    levels = np.full((300, 200, 3), 65535, ">u2")
    levels[50:170, 30:90] = 20_000
    (tmp_path / "deep.png").write_bytes(png(200, 300, levels.reshape(300, -1).view(np.uint8), depth=16, colour=2))
    _, pixels = read_photo(tmp_path / "deep.png")
    assert (pixels[:, :7] == 0).all()
    assert 170 < pixels[14, 14] < 185


@pytest.mark.fault("pictures", "animated")
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff", "avif"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix):
    first, second = shirt("white", "black"), Image.new("RGB", (200, 300), "white")
    second.paste("black", (0, 100, 200, 150))
    _, still = read_photo(save(tmp_path, first))
    path = save(tmp_path, first, f"moving.{suffix}", save_all=True, append_images=[second, first])
    with Image.open(path) as moving:
        assert moving.n_frames == 3
    _, pixels = read_photo(path)
    assert (pixels[:, :6] == 0).all()
    np.testing.assert_allclose(pixels[1:27, 9:19], still[1:27, 9:19], atol=10)


def png(width, height, rows, depth=8, colour=0):
    """Return a PNG file that claims a size and holds `rows`, uint8 arrays, as many as there are."""
    packer = zlib.compressobj(1)
    content = b"".join(packer.compress(b"\0" + row.tobytes()) for row in rows) + packer.flush()
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


READ = """
from lab import LabError
from lab.photo import read_photo
try:
    photograph, pixels = read_photo({path!r})
    print(max(photograph.size), pixels[:, :7].max(), pixels[:, 8:20].min())
except LabError as error:
    print(error)
"""


@pytest.mark.fault("pictures", "96 to 100 megapixels")
@pytest.mark.parametrize(("colour", "channels", "mebibytes"), [(0, 1, 200), (2, 3, 500), (6, 4, 900)])
def test_a_very_large_png_takes_no_more_than_its_pixels(tmp_path, colour, channels, mebibytes):
    # it cannot be decoded small: 1 byte a pixel if grey, 4 of colour, and as many again with transparency
    row = np.full((1, 12_500, channels), 255, np.uint8)
    black = row.copy()
    black[:, 3_000:6_000, :3] = 0
    rows = [row] * 1_000 + [black] * 6_000 + [row] * 1_000
    path = tmp_path / "large.png"
    path.write_bytes(png(12_500, 8_000, rows, colour=colour))
    printed, peak = run_measured(READ.format(path=str(path)))
    side, outside, inside = map(int, printed.split())
    assert (side, outside) == (280, 0)
    assert inside > 200
    assert peak < mebibytes


@pytest.mark.fault("pictures", "decompression bomb")
@pytest.mark.parametrize(
    ("side", "rows", "reason", "mebibytes"),
    [
        (2**31 - 1, 2, "exceeds limit", 100),  # refused by what it claims
        (20_000, 2, "exceeds limit", 100),
        (13_000, 13_000, "one flat colour", 300),  # 169 megapixels of zeros, in 700 kB
        (13_000, 2, "one flat colour", 300),  # claims as many, and holds two rows, which Pillow completes
    ],
)
def test_a_bomb_takes_bounded_memory(tmp_path, side, rows, reason, mebibytes):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, [np.zeros(13_000, np.uint8)] * rows))
    assert path.stat().st_size < 1_000_000
    printed, peak = run_measured(READ.format(path=str(path)))
    assert reason in printed
    assert peak < mebibytes


@pytest.mark.fault("pictures", "no height or no width")
def test_a_picture_without_pixels_is_refused(tmp_path, count_cases):
    grey = Image.new("L", (9, 9))
    files = {
        f"{width}x{height}.png": png(width, height, np.zeros((1, 1))) for width, height in ((0, 0), (0, 5), (5, 0))
    }
    files["none.ppm"] = b"P5 0 0 255\n"
    for format, offset, length in (("GIF", 6, 4), ("BMP", 18, 8)):
        content = encoded(grey, format)
        files[f"none.{format}"] = content[:offset] + bytes(length) + content[offset + length :]
    content = encoded(grey, "JPEG")
    offset = content.index(b"\xff\xc0") + 5
    files["none.jpg"] = content[:offset] + bytes(4) + content[offset + 4 :]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabError, match=name):
            read_photo(tmp_path / name)
    count_cases(len(files))


def encoded(image, format, **options):
    """Return a picture file's bytes."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def picture_files():
    """Yield picture files of a small noisy shirt, in every format and way of compressing that photographs come in."""
    pixels = np.array(shirt("white", "black"))
    noise(pixels)
    image = Image.fromarray(pixels).resize((50, 75))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encoded(image, "PNG", exif=exif)
    yield encoded(image.convert("P"), "PNG", transparency=0)
    yield encoded(image, "PNG", save_all=True, append_images=[image.rotate(90)])
    yield encoded(image, "JPEG", exif=exif)
    yield encoded(image, "JPEG", progressive=True)
    yield encoded(image.convert("CMYK"), "JPEG")
    yield encoded(image, "MPO", save_all=True, append_images=[image])
    yield encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)])
    yield encoded(image, "WEBP", exif=exif)
    yield encoded(image, "WEBP", save_all=True, append_images=[image], lossless=True)
    for compression in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        yield encoded(image, "TIFF", compression=compression)
    yield encoded(image, "BMP")
    yield encoded(image.convert("P"), "BMP")
    yield encoded(image, "AVIF")


def read_or_refuse(tmp_path, content):
    """Read a picture file that is damaged; anything but a picture or a LabError is raised."""
    (tmp_path / "damaged").write_bytes(content)
    try:
        _, pixels = read_photo(tmp_path / "damaged")
    except LabError:
        return False
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    return True


@pytest.mark.fault("pictures", "cut off")
def test_a_picture_that_is_cut_off_is_read_or_refused(tmp_path, soak, count_cases):
    cuts = 0
    for content in picture_files():
        kept = np.linspace(0, len(content), 300 if soak else 12, endpoint=False, dtype=int)
        read = [read_or_refuse(tmp_path, content[:length]) for length in kept]
        assert not read[0]
        cuts += len(kept)
    count_cases(cuts)


@pytest.mark.fault("pictures", "bits flipped, most of them in the header")
@pytest.mark.filterwarnings("error")  # none of Pillow's reaches the user
def test_a_picture_with_flipped_bits_is_read_or_refused(tmp_path, soak, count_cases):
    rng = np.random.default_rng(0)
    flips = 0
    for content in picture_files():
        for number in range(1_500 if soak else 30):
            damaged = bytearray(content)
            for _ in range(1 + number % 8):
                damaged[rng.integers(min(len(content), (64, 512, len(content))[number % 3]))] ^= 1 << rng.integers(8)
            read_or_refuse(tmp_path, damaged)
            flips += 1
    count_cases(flips)


@pytest.mark.fault("pictures", "a program instead of a picture")
def test_formats_that_are_programs_or_rare_are_not_opened(tmp_path):
    for format in ("EPS", "ICNS", "PCX", "TGA"):
        (tmp_path / "photo").write_bytes(encoded(shirt("white", "black"), format))
        with pytest.raises(LabError, match="no picture that can be read"):
            read_photo(tmp_path / "photo")


@pytest.mark.fault("pictures", "1,000 at once")
def test_a_thousand_photographs_at_once(tmp_path, smoke_saves, soak, count_cases):
    for level in range(20):
        image = shirt("white", (level, level, level)).resize((1000, 1500) if soak else (100, 150))
        save(tmp_path, image, f"{level}.jpg")
    paths = [tmp_path / f"photo-{number}.jpg" for number in range(1_000)]
    for number, path in enumerate(paths):
        path.hardlink_to(tmp_path / f"{number % 20}.jpg")
    script = ROOT / "deep_learning_pred.py"
    arguments = [script, "--smoke", "--save", "--output-dir", smoke_saves[0], "--image", *paths]
    printed, peak = run_measured(
        f"import runpy\nsys.argv = {[*map(str, arguments)]}\nrunpy.run_path({str(script)!r}, run_name='__main__')"
    )
    lines = printed.splitlines()
    assert [line.split(": ")[0] for line in lines if "photo-" in line] == [*map(str, paths)]
    assert len({line.split(": ")[1] for line in lines[:20]}) > 1
    assert peak < 1_500  # of which TensorFlow takes 600, and each photograph at most 0.3
    count_cases(len(paths))
