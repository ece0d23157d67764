"""Photographs that are corrupt, hostile, rare or very many: more of each fault than tests/test_photographs.py has."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import run_measured
from photograph_files import (
    READ_PHOTOGRAPH,
    build_png,
    draw_garment,
    encode,
    encode_in_every_format,
    read_or_refuse,
    save,
)
from PIL import Image

from lab.guard.errors import LabError
from lab.guard.photographs import read_photograph


@pytest.mark.fault("photographs", "transparency")
def test_a_palette_with_a_transparent_color_is_white_there(tmp_path):
    image = draw_garment("red", "black").convert("P", palette=Image.Palette.ADAPTIVE)
    _, pixels = read_photograph(save(tmp_path, image, transparency=image.getpixel((0, 0))))
    assert (pixels[:, :7] == 0).all()
    assert pixels[:, 8:20].min() >= 254


@pytest.mark.fault("photographs", "16 bits a channel")
def test_sixteen_bits_of_each_color_are_not_clipped(tmp_path):
    levels = np.full((300, 200, 3), 65535, ">u2")
    levels[50:110, 30:90] = 0
    levels[110:170, 30:90] = 32_768  # a garment of 0 and of what is clipped would have one level
    (tmp_path / "deep.png").write_bytes(build_png(200, 300, levels.reshape(300, -1).view(np.uint8), depth=16, color=2))
    _, pixels = read_photograph(tmp_path / "deep.png")
    assert (pixels[:, :7] == 0).all()
    assert pixels[2:12, 8:20].min() >= 254
    np.testing.assert_allclose(pixels[16:26, 8:20], 127, atol=2)


@pytest.mark.fault("photographs", "animated")
@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff", "avif"])
def test_the_first_frame_is_read_in_every_format(tmp_path, suffix):
    first, second = draw_garment("white", "black"), Image.new("RGB", (200, 300), "white")
    second.paste("black", (0, 100, 200, 150))
    _, still = read_photograph(save(tmp_path, first))
    path = save(tmp_path, first, f"moving.{suffix}", save_all=True, append_images=[second, first])
    with Image.open(path) as moving:
        assert moving.n_frames == 3
    _, pixels = read_photograph(path)
    assert (pixels[:, :6] == 0).all()
    np.testing.assert_allclose(pixels[1:27, 9:19], still[1:27, 9:19], atol=10)


@pytest.mark.fault("photographs", "96 to 100 megapixels")
@pytest.mark.parametrize(("color", "channels", "mebibytes"), [(0, 1, 200), (2, 3, 500), (6, 4, 900)])
def test_a_very_large_png_takes_no_more_memory_than_its_pixels(tmp_path, color, channels, mebibytes):
    # it cannot be decoded small: a pixel takes 1 byte if grey, 4 if colored, and twice that with transparency
    row = np.full((1, 12_500, channels), 255, np.uint8)
    black = row.copy()
    black[:, 3_000:6_000, :3] = 0
    rows = [row] * 1_000 + [black] * 6_000 + [row] * 1_000
    path = tmp_path / "large.png"
    path.write_bytes(build_png(12_500, 8_000, rows, color=color))
    printed, peak = run_measured(READ_PHOTOGRAPH.format(path=str(path)))
    side, outside, inside = map(int, printed.split())
    assert (side, outside) == (280, 0)
    assert inside > 200
    assert peak < mebibytes


@pytest.mark.fault("photographs", "decompression bomb")
@pytest.mark.parametrize(
    ("side", "rows", "reason", "mebibytes"),
    [
        (2**31 - 1, 2, "exceeds limit", 100),  # refused by what it claims
        (20_000, 2, "exceeds limit", 100),
        (13_000, 13_000, "a single flat ", 300),  # 169 megapixels of zeros, in 700 kB
        (13_000, 2, "a single flat ", 300),  # claims as many, and holds two rows, which Pillow completes
    ],
)
def test_a_decompression_bomb_takes_bounded_memory(tmp_path, side, rows, reason, mebibytes):
    path = tmp_path / "bomb.png"
    path.write_bytes(build_png(side, side, [np.zeros(13_000, np.uint8)] * rows))
    assert path.stat().st_size < 1_000_000
    printed, peak = run_measured(READ_PHOTOGRAPH.format(path=str(path)))
    assert reason in printed
    assert peak < mebibytes


@pytest.mark.fault("photographs", "no height or no width")
def test_an_image_without_pixels_is_refused_in_every_format(tmp_path, count_cases):
    grey = Image.new("L", (9, 9))
    files = {
        f"{width}x{height}.png": build_png(width, height, np.zeros((1, 1)))
        for width, height in ((0, 0), (0, 5), (5, 0))
    }
    files["none.ppm"] = b"P5 0 0 255\n"
    for format, offset, length in (("GIF", 6, 4), ("BMP", 18, 8)):
        content = encode(grey, format)
        files[f"none.{format}"] = content[:offset] + bytes(length) + content[offset + length :]
    content = encode(grey, "JPEG")
    offset = content.index(b"\xff\xc0") + 5
    files["none.jpg"] = content[:offset] + bytes(4) + content[offset + 4 :]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabError, match=name):
            read_photograph(tmp_path / name)
    count_cases(len(files))


@pytest.mark.fault("photographs", "cut off")
def test_an_image_that_is_cut_off_is_read_or_refused(tmp_path, soak, count_cases):
    cuts = 0
    for content in encode_in_every_format():
        kept = np.linspace(0, len(content), 300 if soak else 12, endpoint=False, dtype=int)
        is_read = [read_or_refuse(tmp_path, content[:length]) for length in kept]
        assert not is_read[0]
        cuts += len(kept)
    count_cases(cuts)


@pytest.mark.fault("photographs", "bits flipped, most of them in the header")
@pytest.mark.filterwarnings("error")  # Pillow's warnings do not reach the user
def test_an_image_with_flipped_bits_is_read_or_refused(tmp_path, soak, count_cases):
    rng = np.random.default_rng(0)
    flips = 0
    for content in encode_in_every_format():
        for number in range(1_500 if soak else 90):
            corrupt = bytearray(content)
            for _ in range(1 + number % 8):
                corrupt[rng.integers(min(len(content), (64, 512, len(content))[number % 3]))] ^= 1 << rng.integers(8)
            read_or_refuse(tmp_path, corrupt)
            flips += 1
    count_cases(flips)


@pytest.mark.fault("photographs", "1,000 at once")
def test_a_thousand_photographs_at_once_take_bounded_memory(tmp_path, smoke_saves, soak, count_cases):
    for level in range(20):
        image = draw_garment("white", (level, level, level)).resize((1000, 1500) if soak else (100, 150))
        save(tmp_path, image, f"{level}.jpg")
    for number in range(1_000):
        (tmp_path / f"photo-{number:03}.jpg").hardlink_to(tmp_path / f"{number % 20}.jpg")
    program = f"""
        import glob, deep_learning_pred
        photographs = sorted(glob.glob({str(tmp_path / "photo-*.jpg")!r}))
        deep_learning_pred.main(["--smoke", "--save", "--output-dir", {str(smoke_saves[0])!r}, "--image", *photographs])
    """
    printed, peak = run_measured(textwrap.dedent(program))
    lines = [line.split(": ") for line in printed.splitlines() if "photo-" in line]
    assert [Path(path).name for path, _ in lines] == [f"photo-{number:03}.jpg" for number in range(1_000)]
    assert peak < 1_500  # of which TensorFlow takes 600, and each photograph at most 0.3
    count_cases(len(lines))
