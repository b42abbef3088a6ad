"""Encoded image bytes to RGB pixels: one decode an image, every way it can go wrong a one-line reason.

Choices made here, where formats leave room: transparency is laid over white (the page a photograph is shown on);
16-bit and float pictures are scaled to 8 bits, not clipped; of an animation the first frame counts; the EXIF
orientation is applied; colour profiles are ignored, as the published image processors ignore them.
"""

import contextlib
import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from smp_ray.errors import one_line

Image.init()  # registers every plugin now; PIL would otherwise do so in the first thread that needs one
#: What is decoded. EPS (it runs Ghostscript) and containers whose header does not bound the picture are left out.
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA")
    if name in Image.OPEN
)

#: EXIF orientations that turn a picture by a right angle.
_TURNED = (5, 6, 7, 8)
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")

# Both are process-wide and set once, since PIL offers no per-call setting that is safe with several threads:
# decode() bounds the pixels itself (images.max_pixels), and damaged metadata is no news to the user.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")
#: Above this aspect ratio only the middle of a picture is resized; see `limit_aspect`.
LONGEST_ASPECT = 32


class BadImage(ValueError):  # noqa: N818 - it names the status of a post (bad_image), not a failure of the run
    """The bytes are not an image that can be decoded; its text says why, on one line."""


#: Where a decoded image says its width and height before `jpeg_side` made it smaller.
WHOLE = "smp_ray.whole"


def decode(data: bytes, max_pixels: int, jpeg_side: int | None = None) -> Image.Image:
    """Decode a whole file into 8-bit RGB, upright.

    More than `max_pixels` (width x height) are refused by the header, before any pixel is decoded. With `jpeg_side` a
    JPEG becomes the smallest of its whole, half, quarter and eighth whose short side has at least so many pixels.

    Raises:
        BadImage: and no other exception, whatever the bytes are.
    """
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # PIL's plugins raise whatever the damage leads to
        raise BadImage(_unreadable(data, error)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(f"{width} x {height} pixels are more than images.max_pixels ({max_pixels})")
    try:
        if jpeg_side is not None:
            image.draft(None, (jpeg_side, jpeg_side))  # other formats know none
        image.load()
        image.info[WHOLE] = width, height
        with contextlib.suppress(Exception):  # damaged EXIF says nothing of the orientation; the pixels are still good
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            ImageOps.exif_transpose(image, in_place=True)
            image.info[WHOLE] = (height, width) if turned else (width, height)
        return _to_rgb(image)
    except Exception as error:
        detail = one_line(error, 200)
        kind = "truncated" if "truncated" in detail.lower() or isinstance(error, EOFError) else "damaged"
        raise BadImage(f"{kind} {image.format} image: {detail}") from None


def limit_aspect(image: Image.Image) -> Image.Image:
    """Cut an image longer than `LONGEST_ASPECT` times its short side down to its middle.

    For transforms that crop the long side away: resizing the short side of a 1 x 10,000 picture to 224 would take
    1.5 GB to keep 224 x 224 of it. It moves the sampling grid by less than one output pixel and touches no ordinary
    picture.
    """
    width, height = image.size
    longest = LONGEST_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    # The same on both sides keeps the middle where it was.
    cut_x, cut_y = (max(0, (side - longest) // 2) for side in image.size)
    return image.crop((cut_x, cut_y, width - cut_x, height - cut_y))


def _unreadable(data: bytes, error: Exception) -> str:
    text = data[:512].decode("utf-8-sig", errors="ignore")
    if text and all(character.isprintable() or character.isspace() for character in text):
        return f"not an image but text: {' '.join(text.split())[:60]}"
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format or damaged header"
    return f"damaged image header: {one_line(error, 200)}"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(image)).convert("RGB")
    palette_alpha = image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
    if image.mode in _ALPHA_MODES or "transparency" in image.info or palette_alpha:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _to_uint8(image: Image.Image) -> np.ndarray:
    """Scale a greyscale picture deeper than 8 bits to 0..255.

    Whole numbers are taken as 16 bits (32-bit ones as a share of their largest value), floats as 0..1, as 0..255, or
    as a share of their largest value, whichever is the first that holds them.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    largest = float(values.max())
    if image.mode == "F":
        scale = 1.0 if largest <= 1 else 255.0 if largest <= 255 else largest
    else:
        scale = max(65535.0, largest)
    return np.floor(values * (255.0 / scale) + 0.5).astype(np.uint8)
