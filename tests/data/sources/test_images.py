import numpy as np
import pytest
from PIL import Image

from sanorm_jax.core.errors import UserError
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources import files
from sanorm_jax.data.sources.base import Options, SourceError
from sanorm_jax.data.store import Store
from tests import commands

# Names in the order of the store: by path, whatever the order of writing.
NAMES = ["b/2.JPG", "b/deep/frame_0001.png", "b/deep/frame_0002.png", "a.jpeg", "c.png"]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = rng.integers(0, 256, (6, 9, 3), np.uint8)
        size = (90 + 30 * number, 150 - 20 * number)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def _prepare(folder, data_dir, **options):
    return prepare("images", Options(source=folder, data_dir=data_dir, **options))


def test_all_images_are_stored_by_path(folder, tmp_path):
    store = Store.open(_prepare(folder, tmp_path, image_size=32))
    assert store.splits == {"test": 5}
    assert store.manifest["source"]["files"] == sorted(NAMES)
    for number, name in enumerate(sorted(NAMES)):
        with Image.open(folder / name) as image:
            pixels = np.asarray(image.convert("RGB"), np.float64)
        found = store.read("test", "image", [number])[0]
        side = min(pixels.shape[:2])
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        middle = pixels[top : top + side, left : left + side]
        expected = _triangle(_triangle(middle, 32).swapaxes(0, 1), 32).swapaxes(0, 1)
        # Pillow rounds to whole numbers after each of its two passes.
        np.testing.assert_allclose(found, expected, atol=1.5)


def _triangle(values, size):
    """Resize axis 0 by a triangle as wide as the scale: bilinear, antialiased."""
    scale = len(values) / size
    centers = (np.arange(size) + 0.5) * scale
    distance = np.abs(np.arange(len(values)) + 0.5 - centers[:, None])
    weights = np.maximum(1 - distance / max(scale, 1), 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), values, 1)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
@pytest.mark.parametrize("name", ["c.png", "a.jpeg"])
def test_corrupt_image_is_reported_and_leaves_no_store(folder, tmp_path, name, damage):
    path = folder / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "text":
        content = b"no image"
    else:
        content[5] ^= 4  # in the signature: JPEG has no checksums
    path.write_bytes(content)
    if damage == "flipped" and name == "a.jpeg":
        path.write_bytes(b"\xff\xd9" + bytes(content))
    with pytest.raises(SourceError, match="corrupt") as error:
        _prepare(folder, tmp_path, image_size=32)
    assert str(path) in str(error.value)
    assert not (tmp_path / "images").exists()


def test_every_flipped_bit_in_the_pixels_of_a_png_is_found(folder):
    content = (folder / "c.png").read_bytes()
    start = content.index(b"IDAT")
    for byte in np.random.default_rng(0).integers(start, len(content) - 12, 40):
        hurt = bytearray(content)
        hurt[byte] ^= 16
        with pytest.raises(SourceError, match=r"c\.png: corrupt"):
            files.decode(bytes(hurt), "c.png")


def test_changed_folder_is_a_different_source(folder, tmp_path):
    _prepare(folder, tmp_path, image_size=32)
    (folder / "a.jpeg").rename(folder / "z.jpeg")
    with pytest.raises(UserError, match="written with other settings"):
        _prepare(folder, tmp_path, image_size=32)


def test_bad_options_are_rejected(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, options, message in (
        (None, {}, "--source: required"),
        (tmp_path / "absent", {}, "absent: not a folder"),
        (tmp_path / "empty", {}, r"empty: contains no images \(no files"),
        (folder, {"image_size": 8}, "--image_size=8: out of range; choose 16 to"),
        (folder, {"splits": {"train": 1}}, "--splits: not used"),
        (folder, {"background": "whitish"}, "--background=whitish: not a color"),
    ):
        with pytest.raises(UserError, match=message):
            _prepare(source, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_command_errors_are_one_line_with_exit_code_2(folder, tmp_path):
    (folder / "c.png").write_bytes(b"no image")
    flags = ("--dataset=images", f"--source={folder}", f"--data_dir={tmp_path}")
    done = commands.run("data.prepare", *flags)
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error:")]
    assert str(folder / "c.png") in line
    assert "Traceback" not in done.stderr
