"""Pixel values of image files of all kinds that people have."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import files
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store


def _content(image, suffix, **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def _decode(image, suffix="PNG", background=files.WHITE, **options):
    content = _content(image, suffix, **options)
    return np.asarray(files.decode(content, f"x.{suffix}", background)).astype(int)


def _png(values: np.ndarray, color_type: int, chunks: bytes = b"") -> bytes:
    """Return a PNG file of 16 bits a channel, [H, W, C] uint16."""

    def chunk(name, data):
        check = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + check

    height, width = values.shape[:2]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    rows = [b"\0" + row.astype(">u2").tobytes() for row in values]
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head + bytes([16, color_type, 0, 0, 0])),
            *([chunk(b"tRNS", chunks)] if chunks else []),
            chunk(b"IDAT", zlib.compress(b"".join(rows))),
            chunk(b"IEND", b""),
        ]
    )


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_range(suffix):
    found = _decode(Image.fromarray(RAMP), suffix)
    assert found.shape == (256, 256, 3)
    np.testing.assert_array_equal(found, np.rint(RAMP / 257)[..., None].repeat(3, -1))
    assert abs(found.mean() - 127.5) < 0.01


@pytest.mark.parametrize("color_type", [2, 6])
def test_16_bit_color_keeps_its_range(color_type):
    values = np.stack([RAMP, RAMP.T, RAMP[::-1]], -1)
    if color_type == 6:
        values = np.concatenate([values, np.full_like(values[..., :1], 65535)], -1)
    found = np.asarray(files.decode(_png(values, color_type), "x.png")).astype(int)
    np.testing.assert_allclose(found, values[..., :3] / 257, atol=1)


def test_16_bit_gray_may_be_transparent():
    values = np.array([[[0], [1000], [65535]]], np.uint16)
    content = _png(values, 0, (1000).to_bytes(2, "big"))
    found = np.asarray(files.decode(content, "x.png", (10, 20, 30)))
    np.testing.assert_array_equal(found[0], [[0] * 3, [10, 20, 30], [255] * 3])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_show_the_background(mode):
    image = Image.new(mode, (3, 1))
    bands = [(200, 100, 50)] * 3 if mode == "RGBA" else [(200,)] * 3
    for x, alpha in enumerate((0, 255, 51)):
        image.putpixel((x, 0), (*bands[x], alpha))
    color = np.array([200, 100, 50] if mode == "RGBA" else [200] * 3)
    for background in ((255, 255, 255), (0, 128, 255)):
        found = _decode(image, background=background)[0]
        under = np.array(background)
        expected = [under, color, 0.2 * color + 0.8 * under]
        np.testing.assert_allclose(found, expected, atol=1)


def test_a_palette_may_be_transparent():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    for suffix in ("PNG", "GIF"):
        found = _decode(image, suffix, (9, 9, 9), transparency=1)
        np.testing.assert_array_equal(found[0], [[255, 0, 0], [9, 9, 9], [0, 0, 255]])
        found = _decode(image, suffix)
        np.testing.assert_array_equal(found[0], 255 * np.eye(3, dtype=int))


def test_a_color_may_be_transparent():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    found = _decode(image, transparency=(4, 5, 6))
    np.testing.assert_array_equal(found[0], [[1, 2, 3], [255, 255, 255]])


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(np.array([[True, False]]))
    assert image.mode == "1"
    for suffix in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(_decode(image, suffix)[0], [[255] * 3, [0] * 3])


def test_cmyk_is_converted():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(_decode(image, "TIFF")[8, 8], [255, 0, 0], atol=1)
    found = _decode(image, "JPEG", quality=100)[8, 8]
    np.testing.assert_allclose(found, [255, 0, 0], atol=6)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_pixels_are_rejected(dtype):
    with pytest.raises(SourceError, match=r"x\.TIFF: 32-bit values.*; convert"):
        _decode(Image.fromarray(np.array([[0, 1]], dtype)), "TIFF")


@pytest.mark.parametrize("suffix", ["WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_first_frame_of_each_format_is_read(suffix):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    if suffix == "GIF":  # of few colors
        pixels = pixels // 255 * 255
    first, second = map(Image.fromarray, pixels)
    options = {"lossless": True} if suffix == "WEBP" else {}
    if suffix in ("WEBP", "TIFF", "GIF"):
        options |= {"save_all": True, "append_images": [second]}
    np.testing.assert_array_equal(_decode(first, suffix, **options), pixels[0])


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(suffix, orientation):
    upright = np.zeros((48, 32, 3), np.uint8)
    upright[:24, :16] = 250
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(turned[orientation]))
    found = _decode(image, suffix, exif=exif)
    np.testing.assert_allclose(found, upright, atol=12)


def test_limits_of_pillow_are_reported():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "x" * (1 << 21), zip=True)
    with pytest.raises(SourceError, match=r"x\.PNG: .* not supported .*MAX_TEXT_CHUNK"):
        _decode(Image.new("RGB", (9, 9)), pnginfo=texts)


def test_too_large_image_is_reported_as_such(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SourceError, match=r"x\.PNG: too large"):
        _decode(Image.new("RGB", (9, 9)))


def test_no_external_program_is_run():
    assert "EPS" not in files.formats() and ".eps" not in files.suffixes()
    with pytest.raises(SourceError, match="not an image; replace or remove it"):
        files.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x.png")
    assert {".webp", ".tif", ".tiff", ".bmp", ".gif", ".jpg"} <= files.suffixes()


def test_skipped_files_are_logged_and_conversion_is_recorded(tmp_path, caplog):
    folder = tmp_path / "photos"
    folder.mkdir()
    for suffix in ("png", "webp", "tif", "bmp", "gif", "JPG"):
        Image.new("RGB", (20, 20), (0, 200, 0)).save(folder / f"a.{suffix}")
    for name in ("notes.txt", "more.txt", "x.json", "README"):
        (folder / name).write_text("no image")
    options = Options(source=folder, data_dir=tmp_path, image_size=16, background="red")
    with caplog.at_level("WARNING"):
        store = Store.open(prepare("images", options))
    assert store.splits == {"test": 6}
    assert "skipped 4 of 10 files" in caplog.text
    assert "2 .txt, 1 no suffix, 1 .json" in caplog.text
    assert store.settings["transparency"] == "over #ff0000"
    assert "65535" in store.settings["depth"]
    with pytest.raises(UserError, match="--background: not used by --dataset=shapes"):
        prepare("shapes", Options(data_dir=tmp_path, background="red"))
