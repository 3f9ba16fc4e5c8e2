"""Pictures of every kind are the same picture."""

import io
from pathlib import Path

import numpy
import pytest
from PIL import Image

from owl2._pictures import native

IMAGES = Path("tests/golden-family/images")


@pytest.mark.parametrize("name", ["wide", "grey", "palette", "rgba", "square"])
@pytest.mark.parametrize("as_shown", [True, False])
def test_images_are_seen_as_their_files_are(model, name, as_shown):
    path = IMAGES / f"{name}.png"

    def seen(picture):
        return model.embed_image(picture, as_shown=as_shown).tobytes()

    wanted = seen(str(path))
    assert seen(path) == wanted
    data = path.read_bytes()
    assert seen(data) == seen(bytearray(data)) == seen(memoryview(data)) == wanted
    image = Image.open(path)
    assert seen(image) == wanted
    if image.mode in ("L", "RGB", "RGBA"):
        assert seen(numpy.asarray(image)) == wanted


@pytest.mark.parametrize("as_shown", [True, False])
def test_sixteen_bits(model, tmp_path, as_shown):
    samples = numpy.linspace(0, 65535, 60 * 40).astype(numpy.uint16).reshape(40, 60)
    path = tmp_path / "deep.png"
    Image.fromarray(samples).save(path)
    wanted = model.embed_image(path, as_shown=as_shown).tobytes()
    assert model.embed_image(Image.open(path), as_shown=as_shown).tobytes() == wanted


def test_images_are_turned_as_their_files_are(model):
    image = Image.open(IMAGES / "wide.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    image.save(data, "png", exif=exif)
    turned = Image.open(data)
    for as_shown in (True, False):
        from_bytes = model.embed_image(data.getvalue(), as_shown=as_shown)
        from_image = model.embed_image(turned, as_shown=as_shown)
        assert from_bytes.tobytes() == from_image.tobytes()
    assert native(turned, True)[:2] == (50, 90)
    assert native(turned, False)[:2] == (90, 50)


def test_transparent_palettes(model):
    image = Image.open(IMAGES / "rgba.png").quantize(16)
    data = io.BytesIO()
    image.save(data, "png")
    wanted = model.embed_image(data.getvalue())
    assert model.embed_image(Image.open(data)).tobytes() == wanted.tobytes()


def test_arrays():
    gray = numpy.arange(6, dtype=numpy.uint8).reshape(2, 3)
    width, height, rgb = native(gray, True)
    assert (width, height) == (3, 2)
    assert list(rgb[:6]) == [0, 0, 0, 1, 1, 1]
    assert native(gray[:, :, None], True)[2] == rgb
    # Views have the pixels that they show.
    turned = native(gray.T, True)
    assert turned[:2] == (2, 3) and list(turned[2][:6]) == [0, 0, 0, 3, 3, 3]
    assert native(gray.astype(numpy.uint16) << 8, True)[2] == rgb


@pytest.mark.parametrize(
    "array",
    [
        numpy.zeros((4, 4, 3), numpy.float32),
        numpy.zeros((4, 4, 2), numpy.uint8),
        numpy.zeros(4, numpy.uint8),
        numpy.zeros((1, 3, 4, 4), numpy.uint8),
    ],
)
def test_arrays_that_are_no_pictures(model, array):
    with pytest.raises(TypeError, match="is no picture"):
        model.embed_image(array)


def test_an_array_without_pixels(model):
    with pytest.raises(ValueError):
        model.embed_image(numpy.zeros((0, 4, 3), numpy.uint8))


def test_rows_can_be_written(model):
    rows = model.embed_image("assets/cat.png")
    assert rows.dtype == numpy.float32 and rows.shape == (17, 256)
    rows += 1
    assert numpy.isfinite(rows).all()
