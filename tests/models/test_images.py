"""The image zoo: every way a file of the wild can look."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from smp_ray.models.images import BadImage, decode
from smp_ray.store.manifest import content_of
from tests.models.tiny import encoded, photographs, pictures

LIMIT = 100_000_000


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def difference(left: Image.Image, right: Image.Image) -> int:
    return int(np.abs(np.asarray(left, np.int16) - np.asarray(right, np.int16)).max())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "GIF", "AVIF"])
def test_ordinary_formats_give_their_pixels(kind):
    image = gradient()
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(kind, {})
    decoded = decode(encoded(image, kind, **options), LIMIT)
    assert decoded.mode == "RGB"
    assert difference(decoded, image) <= {"GIF": 60, "AVIF": 8}.get(kind, 0)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"\0" * 100, b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP"])
def test_empty_and_header_only_files_are_bad(data):
    with pytest.raises(BadImage):
        decode(data, LIMIT)


def test_reasons_say_what_was_found():
    cases = {
        b"": "empty",
        b"  <!DOCTYPE html><html><body>404</body></html>": "text: <!DOCTYPE html>",
        b"\xef\xbb\xbf<html>": "text: <html>",
        b"<?xml version='1.0'?><svg/>": "text: .*<svg/>",
        b'{"error": "not found"}': "text: .",
        bytes(range(256)): "unknown image format",
    }
    for data, words in cases.items():
        with pytest.raises(BadImage, match=words) as caught:
            decode(data, LIMIT)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_truncated_files_are_bad(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(BadImage):
            decode(data[: int(len(data) * share)], LIMIT)


def test_any_damage_is_bad_image_or_a_picture():
    generator = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"):
        data = encoded(gradient(), kind)
        for _ in range(60):
            damaged = bytearray(data)
            for place in generator.integers(0, len(data), 4):
                damaged[place] = generator.integers(0, 256)
            with contextlib.suppress(BadImage):  # and nothing else
                assert decode(bytes(damaged), LIMIT).mode == "RGB"


@pytest.mark.parametrize(("side", "size"), [(None, (400, 300)), (200, (400, 300)), (150, (200, 150)), (64, (100, 75))])
def test_a_jpeg_is_decoded_at_the_smallest_part_that_is_large_enough(side, size):
    image = gradient(400, 300)
    decoded = decode(encoded(image, "JPEG", quality=95), LIMIT, side)
    assert decoded.size == size
    assert difference(decoded, image.resize(size, Image.Resampling.BOX)) <= 8
    assert decode(encoded(image, "PNG"), LIMIT, side).size == (400, 300)


def test_cmyk_is_not_inverted():
    image = gradient()
    expected = image.convert("CMYK").convert("RGB")
    jpeg = encoded(image.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in jpeg[:200]
    assert difference(decode(jpeg, LIMIT), expected) <= 12
    assert difference(decode(encoded(image.convert("CMYK"), "TIFF"), LIMIT), expected) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    decoded = np.asarray(decode(encoded(Image.fromarray(ramp), kind), LIMIT))
    assert np.abs(decoded[..., 0] - ramp / 257).max() <= 0.5
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_16_bit_colour_png_is_scaled():
    values = np.linspace(0, 65535, 16 * 16 * 3).astype(">u2").reshape(16, 16, 3)
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    data = png(struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0), raw)
    assert np.abs(np.asarray(decode(data, LIMIT)) - values / 257).max() <= 1


@pytest.mark.parametrize(("values", "expected"), [
    (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
    (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
    (np.array([[np.nan, -5.0, 1000.0]], np.float32), [0, 0, 255]),
    (np.array([[0, 65535, 131070]], np.int32), [0, 128, 255]),
])  # fmt: skip
def test_float_and_32_bit_tiff(values, expected):
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), LIMIT))[0, :, 0].tolist() == expected


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    assert decode(encoded(clear, "PNG"), LIMIT).getpixel((3, 3)) == (255, 255, 255)
    assert decode(encoded(clear, "WEBP", lossless=True), LIMIT).getpixel((3, 3)) == (255, 255, 255)
    assert decode(encoded(half, "PNG"), LIMIT).getpixel((3, 3)) == (127, 127, 127)
    assert decode(encoded(half.convert("LA"), "PNG"), LIMIT).getpixel((3, 3)) == (127, 127, 127)
    see_through = decode(encoded(palette, "PNG", transparency=0), LIMIT)
    assert see_through.getpixel((3, 3)) == (255, 255, 255)
    assert see_through.getpixel((0, 0)) == (200, 0, 0)
    assert decode(encoded(palette, "PNG", transparency=b"\x80\xff"), LIMIT).getpixel((3, 3)) == (132, 137, 142)
    assert decode(encoded(palette, "PNG"), LIMIT).getpixel((3, 3)) == (10, 20, 30)
    keyed = encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert decode(keyed, LIMIT).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("#c80000", "#00c800", "#0000c8")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    decoded = decode(data, LIMIT)
    assert decoded.size == (20, 10)
    assert decoded.getpixel((5, 5)) == (200, 0, 0)


def test_one_pixel_and_thin_pictures():
    assert decode(encoded(Image.new("L", (1, 1), 7), "PNG"), LIMIT).getpixel((0, 0)) == (7, 7, 7)
    assert decode(encoded(Image.new("1", (1, 1), 1), "PNG"), LIMIT).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encoded(Image.new("RGB", (1, 5000)), "JPEG"), LIMIT).size == (1, 5000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind, orientation):
    upright = gradient()
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = Image.fromarray(turned(np.asarray(upright), undo.get(orientation, 1)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode(encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options), LIMIT)
    assert decoded.size == upright.size
    assert difference(decoded, upright) <= (12 if kind == "JPEG" else 0)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of `pixels` stored with an orientation (EXIF 2.32, table 6)."""
    return {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: np.rot90(p, 1),
    }[orientation](pixels).copy()


def test_damaged_exif_does_not_lose_the_picture():
    data = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff garbage")
    assert decode(data, LIMIT).size == (40, 30)


def png(header: bytes, raw: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header():
    bomb = png(struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0), b"\0" * 1000)
    with pytest.raises(BadImage, match=r"50000 x 50000.*max_pixels \(100000000\)"):
        decode(bomb, LIMIT)
    with pytest.raises(BadImage, match="max_pixels"):
        decode(encoded(gradient(), "PNG"), 40 * 30 - 1)
    assert decode(encoded(gradient(), "PNG"), 40 * 30).size == (40, 30)


def test_the_limit_of_the_configuration_counts_not_that_of_pil():
    # PIL alone refuses above 179 million pixels.
    data = png(struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0), (b"\0" + b"\xff" * 2500) * 10_000)
    with pytest.raises(BadImage, match="max_pixels"):
        decode(data, 199_999_999)
    assert decode(data, 200_000_000).size == (20_000, 10_000)


def test_damaged_metadata_prints_no_warnings(tmp_path):
    damaged = encoded(gradient(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x09")
    (tmp_path / "image.jpg").write_bytes(damaged)
    read = f"open({str(tmp_path / 'image.jpg')!r}, 'rb').read()"
    plain = f"import io; from PIL import Image; Image.open(io.BytesIO({read})).getexif()"
    ours = f"from smp_ray.models.images import decode; decode({read}, 10**8)"
    assert "Warning" in subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True).stderr
    assert subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, check=True).stderr == ""


def test_a_camera_file_with_two_pictures_gives_the_first():
    data = encoded(gradient(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 30))], quality=100)
    assert difference(decode(data, LIMIT), gradient()) <= 12


def test_formats_that_run_programs_are_refused():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(BadImage):
        decode(eps, LIMIT)


def test_threads_do_not_disturb_each_other():
    files = [encoded(picture, "PNG") for picture in pictures(8)]
    expected = [np.asarray(decode(data, LIMIT)) for data in files]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda data: np.asarray(decode(data, LIMIT)), files * 40))
    assert all(np.array_equal(pixels, wanted) for pixels, wanted in zip(found, expected * 40, strict=True))


def test_content_is_of_the_bytes():
    data = encoded(gradient(), "PNG")
    assert content_of(data) == content_of(bytes(bytearray(data)))
    assert content_of(data) != content_of(data + b"\0")
    assert len(content_of(b"")) == 32


def test_real_photographs_are_what_pil_makes_of_them():
    for data in photographs(40):
        plain = Image.open(io.BytesIO(data))
        assert plain.getexif().get(0x0112, 1) == 1
        assert difference(decode(data, LIMIT), plain.convert("RGB")) == 0
