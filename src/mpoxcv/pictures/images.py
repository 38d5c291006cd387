"""One picture file decoded to RGB, as Pillow's users expect it."""

import base64
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from mpoxcv.errors import UserError

# Pillow's own limit: twice this many pixels is taken for a decompression bomb; we stop at once it.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
# no more: Pillow's EPS, for one, would start Ghostscript
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
# what Pillow's decoders raise
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, MemoryError,
)  # fmt: skip


def decode(data: bytes) -> np.ndarray:
    """Decode a file's bytes to RGB, uint8 (height, width, 3), turned upright by their EXIF tag.

    Grey, palette, CMYK and RGBA pictures become RGB by Pillow's ``convert("RGB")`` (transparency is
    dropped, as torchvision's ``ImageFolder`` does); 16-bit grey keeps its upper eight bits. Of an
    animation the first frame is taken.

    Raises:
        UserError: the bytes are no picture, a truncated one, or one of more than ``MAX_PIXELS``
            pixels. The message is a phrase that goes on from the picture's path.
    """
    if not data:
        raise UserError("is empty (0 bytes)")
    pixels = _sound_jpeg(data)
    return _by_pillow(data) if pixels is None else pixels


def thumbnail(file: Path | None, size: int) -> str:
    """Return a JPEG of at most ``size`` pixels a side in base64; empty if it is none."""
    try:
        picture = Image.fromarray(decode(file.read_bytes() if file else b""))
    except (OSError, ValueError, UserError):
        return ""
    picture.thumbnail((size, size))
    return base64.b64encode(encode_jpeg(picture, 80)).decode()


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """Return the bytes of a JPEG file; ``quality`` is Pillow's, from 0 to 95."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _sound_jpeg(data: bytes) -> np.ndarray | None:
    """Return what Pillow would, in half the time; None for all but sound upright colour JPEGs."""
    if not data.startswith(b"\xff\xd8") or b"Exif\0" in data:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space != "YCbCr" or width * height > MAX_PIXELS:
            return None
        # as Pillow does
        return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    # Pillow says why
    except DAMAGED:
        return None


def _by_pillow(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                limit = f"the limit of {MAX_PIXELS}: a decompression bomb?"
                raise UserError(f"has {width} x {height} pixels, over {limit}")
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise UserError("is not a picture in a format that Pillow knows") from None
    except Image.DecompressionBombError:
        raise UserError(f"is larger than {MAX_PIXELS} pixels: a decompression bomb?") from None
    except DAMAGED as error:
        raise UserError(f"cannot be decoded: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    # 16-bit grey; convert("RGB") would clip it at 255
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        unknown = "floating-point values, whose black and white are unknown"
        raise UserError(f"holds {unknown}; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
