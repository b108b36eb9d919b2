"""`open_image` on real files of every kind, and the listing of files and folders."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import load_image

from hf_fer.errors import FerError
from hf_fer.inference import images
from hf_fer.inference.images import iter_image_paths, open_image, to_rgb


def ramp(height: int = 48, width: int = 64) -> np.ndarray:
    """(H, W) uint8, a slope from 0 to 255."""
    y, x = np.mgrid[:height, :width]
    return np.rint((0.7 * x / (width - 1) + 0.3 * y / (height - 1)) * 255).astype(np.uint8)


def colour() -> np.ndarray:
    grey = ramp()
    return np.stack([grey, 255 - grey, np.roll(grey, 20, axis=1)], axis=-1)


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and holds next to none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


# --- what is answered ------------------------------------------------------------------------


def save_png(path: Path) -> None:
    Image.fromarray(colour()).save(path, "PNG")


def save_grey(path: Path) -> None:
    Image.fromarray(ramp()).save(path, "PNG")


def save_jpeg(path: Path) -> None:
    Image.fromarray(colour()).save(path, "JPEG")


def save_cmyk(path: Path) -> None:
    Image.fromarray(colour()).convert("CMYK").save(path, "JPEG")


def save_palette_gif(path: Path) -> None:
    Image.fromarray(colour()).quantize(64).save(path, "GIF")


def save_animated_gif(path: Path) -> None:
    first, second = Image.fromarray(colour()), Image.fromarray(255 - colour())
    first.quantize(64).save(path, "GIF", save_all=True, append_images=[second.quantize(64)])


def save_one_bit(path: Path) -> None:
    Image.fromarray(ramp()).convert("1").save(path, "PNG")


def save_webp(path: Path) -> None:
    Image.fromarray(colour()).save(path, "WEBP", lossless=True)


def save_bmp(path: Path) -> None:
    Image.fromarray(colour()).save(path, "BMP")


def save_rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colour()).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "save",
    [
        save_png,
        save_grey,
        save_jpeg,
        save_cmyk,
        save_palette_gif,
        save_animated_gif,
        save_one_bit,
        save_webp,
        save_bmp,
        save_rotated,
    ],
)
def test_gives_what_transformers_gives(save: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "image"  # the content decides, not the name
    save(path)
    np.testing.assert_array_equal(pixels(path), np.asarray(load_image(str(path))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, array in (("a.png", colour()), ("b.tif", colour())):
        Image.fromarray(array).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(pixels(tmp_path / name), np.asarray(load_image(str(tmp_path / name))))
    wide = Image.fromarray(ramp().astype(np.uint16) * 257)
    wide.save(tmp_path / "c.png", exif=exif)
    Image.fromarray(ramp()).save(tmp_path / "d.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "c.png"), pixels(tmp_path / "d.png"))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(ramp().astype(np.uint16) * 257).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as raw:
        assert raw.mode.startswith("I")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png")[..., 0], ramp())
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / "b.tif")
    expected = np.rint(every.astype(np.float64) / 257)
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif")[..., 1], expected)
    big_endian = Image.frombytes("I;16B", (256, 256), every.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(to_rgb(big_endian))[..., 2], expected)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (ramp().astype(np.uint16), "8-bit values in 16 bits"),
        (ramp().astype(np.int32), "8-bit values in 32 bits"),
        (ramp().astype(np.int32) * 257, "16-bit values in 32 bits"),
        (ramp().astype(np.int32) * 2**22, "more than 16 bits"),
        (ramp().astype(np.float32) / 255, "floats, 0 to 1"),
        (ramp().astype(np.float32), "floats, 0 to 255"),
        (ramp().astype(np.float32) * 257, "floats, 0 to 65535"),
        (ramp().astype(np.float32) * 1e6, "floats, any range"),
    ],
)
def test_ranges_of_wide_greys(array: np.ndarray, why: str, tmp_path: Path) -> None:
    Image.fromarray(array).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[..., 0], ramp(), err_msg=why)


def test_floats_that_are_no_numbers_or_negative(tmp_path: Path) -> None:
    array = np.full((4, 4), 0.5, np.float32)
    array[0] = np.nan, np.inf, -np.inf, -3.0
    Image.fromarray(array).save(tmp_path / "a.tif")
    out = pixels(tmp_path / "a.tif")[..., 0]
    assert out[0].tolist() == [0, 0, 0, 0]
    assert (out[1:] == 128).all()
    Image.fromarray(np.full((4, 4), -2.0, np.float32)).save(tmp_path / "b.tif")
    assert (pixels(tmp_path / "b.tif") == 0).all()


def test_transparency_is_white(tmp_path: Path) -> None:
    alpha = np.full(ramp().shape, 255, np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 51
    Image.fromarray(np.dstack([colour(), alpha])).save(tmp_path / "rgba.png")
    out = pixels(tmp_path / "rgba.png")
    assert (out[:10] == 255).all()
    np.testing.assert_allclose(out[10:20], 0.2 * colour()[10:20] + 0.8 * 255, atol=1)
    np.testing.assert_array_equal(out[20:], colour()[20:])

    Image.merge("LA", [Image.fromarray(ramp()), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    out = pixels(tmp_path / "la.png")
    assert (out[:10] == 255).all()
    np.testing.assert_array_equal(out[20:, :, 0], ramp()[20:])

    palette = Image.fromarray(colour()).quantize(16)
    index = palette.getpixel((0, 0))
    palette.save(tmp_path / "p.gif", transparency=index)
    out = pixels(tmp_path / "p.gif")
    assert (out[np.asarray(palette) == index] == 255).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    Image.fromarray(colour()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff" + b"\x7f" * 40)
    assert pixels(tmp_path / "a.jpg").shape == (48, 64, 3)


def test_the_file_is_closed(tmp_path: Path) -> None:
    save_jpeg(tmp_path / "a.jpg")
    open_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(b"")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        with pytest.raises(FerError):
            open_image(tmp_path / "a.jpg")
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


# --- what is refused -------------------------------------------------------------------------


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


def write_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def write_noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def write_half_jpeg(path: Path) -> None:
    save_jpeg(path)
    path.write_bytes(path.read_bytes()[:700])


def write_half_png(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:3000])


def write_header_only(path: Path) -> None:
    path.write_bytes(png_header(48, 48)[:20])


def write_postscript(path: Path) -> None:
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (write_empty, "empty"),
        (write_html, "web page"),
        (write_lfs_pointer, "git lfs pull"),
        (write_noise, "not an image"),
        (write_half_jpeg, "damaged or cut short"),
        (write_half_png, "damaged or cut short"),
        (write_header_only, "image"),
        (write_postscript, "not an image"),
        (make_folder, "folder"),
        (make_nothing, "no such file"),
        pytest.param(
            make_pipe,
            "not a regular file",
            marks=pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here"),
        ),
    ],
)
def test_refusals_are_one_sentence_with_the_path(write: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "face.jpg"
    write(path)
    with pytest.raises(FerError) as caught:
        open_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["", "a\0b.png", "https://example.org/a.png", "a\nb.png", "\udcff.png"])
def test_names_that_are_no_files(name: str) -> None:
    with pytest.raises(FerError) as caught:
        open_image(name)
    assert str(caught.value).isprintable()


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_png(tmp_path / "a.png")
    monkeypatch.setattr(images.os, "access", lambda *_: False)  # a test run as root can read everything
    with pytest.raises(FerError, match="permission denied"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(40_000, 25_000), (10_000, 7_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_from_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(*size))
    limit = Image.MAX_IMAGE_PIXELS
    tracemalloc.start()
    try:
        with pytest.raises(FerError, match="limit of 64,000,000 pixels"):
            open_image(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png")
    open_image(tmp_path / "a.png", max_pixels=48 * 64)
    with pytest.raises(FerError, match="64 x 48"):
        open_image(tmp_path / "a.png", max_pixels=48 * 64 - 1)


# --- listing ---------------------------------------------------------------------------------


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def test_folders_patterns_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = touch(tmp_path / "set" / "b.PNG")
    a = touch(tmp_path / "set" / "a.jpg")
    deep = touch(tmp_path / "set" / "deep" / "c.webp")
    touch(tmp_path / "set" / "notes.txt")
    touch(tmp_path / "set" / ".hidden.png")
    touch(tmp_path / "set" / ".cache" / "d.png")
    odd = touch(tmp_path / "no-ending")
    folder = str(tmp_path / "set")

    assert iter_image_paths([folder]) == ([a, b, deep], [])
    assert iter_image_paths([odd, folder, b, a]) == ([odd, a, b, deep], [])
    assert iter_image_paths([str(tmp_path / "set" / "*.jpg")]) == ([a], [])
    assert iter_image_paths([str(tmp_path / "s*")]) == ([a, b, deep], [])
    assert iter_image_paths([str(tmp_path / "**" / "*.webp")]) == ([deep], [])
    monkeypatch.chdir(tmp_path / "set")
    assert iter_image_paths(["a.jpg", a, Path("a.jpg"), "./a.jpg"]) == (["a.jpg"], [])
    missing = str(tmp_path / "missing.png")
    assert iter_image_paths([missing]) == ([missing], [])  # said when it is opened


def test_nothing_there_is_a_failure_with_a_sentence(tmp_path: Path) -> None:
    touch(tmp_path / "texts" / "a.txt")
    pattern = str(tmp_path / "*.png")
    found, failures = iter_image_paths([tmp_path / "texts", pattern])
    assert found == []
    assert [failure.path for failure in failures] == [str(tmp_path / "texts"), pattern]
    assert "no image file in this folder" in failures[0].reason
    assert "no file matches" in failures[1].reason


def test_a_name_that_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    name = touch(tmp_path / "a[1].png")
    touch(tmp_path / "a1.png")
    assert iter_image_paths([name]) == ([name], [])


def test_an_address_is_no_pattern() -> None:
    address = "https://host/photo.jpg?size=[large]"
    assert iter_image_paths([address]) == ([address], [])


def test_link_loops_end(tmp_path: Path) -> None:
    name = touch(tmp_path / "set" / "a.png")
    try:
        (tmp_path / "set" / "loop").symlink_to(tmp_path / "set", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert iter_image_paths([tmp_path / "set"]) == ([name], [])
