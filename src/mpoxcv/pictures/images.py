"""One picture file decoded to upright RGB in sRGB's colours."""

import base64
import functools
import importlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from mpoxcv.errors import UserError
from mpoxcv.storage.files import read_bytes

# those of a telephone's 200 megapixels (2 GB while they are decoded), and a third more
MAX_PIXELS = 2**28
# pictures of more pixels are decoded one at a time
LARGE = 2**25
ONE_AT_A_TIME = threading.RLock()
# no more: Pillow's EPS, for one, would start Ghostscript
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "HEIF", "AVIF")
# what Pillow's decoders raise
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, MemoryError,
)  # fmt: skip
# a JPEG with one of these may be turned, or have colours that are not sRGB's
TOLD_OF_JPEGS = (b"Exif\0", b"tiff:Orientation", b"ICC_PROFILE\0")
# orientations 2 to 8: mirrored, upside down, both, and then the same of pictures on their side
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# grey levels between a profile's colours and sRGB's that are only another rounding
ROUNDING = 3
# the extra "heic" of pyproject.toml
with suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()


def decode(data: bytes) -> np.ndarray:
    """Decode a file's bytes to RGB, uint8 (height, width, 3), upright and in sRGB's colours.

    Other modes become RGB by Pillow's ``convert("RGB")`` (transparency is dropped, as torchvision's
    ``ImageFolder`` does); 16-bit grey keeps its upper eight bits. Of an animation the first frame
    is taken. The orientation is that of EXIF or, without one, of XMP. A colour profile that cannot
    be read changes nothing.

    Raises:
        UserError: the bytes are no picture, a truncated one, or one of more than ``MAX_PIXELS``
            pixels. The message is a phrase that goes on from the picture's path.
    """
    with decoded(data) as pixels:
        return pixels


@contextmanager
def decoded(data: bytes) -> Iterator[np.ndarray]:
    """Give what :func:`decode` returns; until it is left, no other thread has a large picture."""
    if not data:
        raise UserError("is empty (0 bytes)")
    with ExitStack() as large:
        pixels = _sound_jpeg(data)
        yield _by_pillow(data, large) if pixels is None else pixels


def thumbnail(file: Path | None, size: int) -> str:
    """Return a JPEG of at most ``size`` pixels a side in base64; empty if it is none."""
    try:
        picture = Image.fromarray(decode(read_bytes(file) if file else b""))
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
    """Return what Pillow would, in half the time; None for all but sound upright sRGB JPEGs."""
    if not data.startswith(b"\xff\xd8") or any(mark in data for mark in TOLD_OF_JPEGS):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space != "YCbCr" or width * height > LARGE:
            return None
        # as Pillow does
        return simplejpeg.decode_jpeg(data, fastdct=False, fastupsample=False)
    # Pillow says why
    except DAMAGED:
        return None


def _by_pillow(data: bytes, large: ExitStack) -> np.ndarray:
    missing = data[4:8] == b"ftyp" and "HEIF" not in Image.OPEN
    hint = " (HEIC needs: pip install pillow-heif)" if missing else ""
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.asarray(_upright(data, large))
    except UnidentifiedImageError:
        raise UserError(f"is not a picture in a format that Pillow knows{hint}") from None
    except DAMAGED as error:
        raise UserError(f"cannot be decoded: {error}{hint}") from None


def _upright(data: bytes, large: ExitStack) -> Image.Image:
    with opened(data) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            limit = f"the limit of {MAX_PIXELS} pixels: a decompression bomb?"
            raise UserError(f"has {width} x {height} pixels, over {limit} Save it smaller")
        if width * height > LARGE:
            large.enter_context(ONE_AT_A_TIME)
        # what some formats tell of it stands behind the pixels
        image.load()
        picture, turn = _to_srgb(image), TURNS.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def opened(data: bytes) -> Image.Image:
    """Open a picture as Pillow does, but of any size; ``DAMAGED`` or UserError where it is none."""
    Image.init()
    for factory, accept in (Image.OPEN[name] for name in FORMATS if name in Image.OPEN):
        accepted = accept and accept(data[:16])
        if accepted is True:
            return factory(io.BytesIO(data), "")
        if accepted:
            raise UserError(f"cannot be read by this Pillow: {accepted}")
    raise UnidentifiedImageError


def _orientation(image: Image.Image) -> Any:
    """Return EXIF's orientation, else XMP's, else None; no other tag is read."""
    number = None
    # EXIF may be none
    with suppress(*DAMAGED):
        number = image.getexif().get(ExifTags.Base.Orientation)
    text = image.info.get("xmp") if number is None else None
    xmp = re.search(rb"tiff:Orientation(?:=[\"']|>)(\d)", text) if isinstance(text, bytes) else None
    return int(xmp[1]) if xmp else number


@functools.lru_cache(64)
def read_profile(profile: bytes | None) -> tuple[str, str, Any]:
    """Return what it is (``none``, ``sRGB``, ``broken`` or ``other``), its mode and transform."""
    if not profile:
        return "none", "", None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, *DAMAGED):
        return "broken", "", None
    # every 32nd level of each colour
    levels = np.minimum(np.indices((9, 9, 9)).T.reshape(1, -1, 3) * 32, 255).astype(np.uint8)
    probe = Image.fromarray(levels).convert(mode)
    apart = np.asarray(transform.apply(probe), int) - np.asarray(probe.convert("RGB"))
    return "sRGB" if np.abs(apart).max() <= ROUNDING else "other", mode, transform


def _to_srgb(image: Image.Image) -> Image.Image:
    kind, mode, transform = read_profile(image.info.get("icc_profile"))
    image = image if image.mode == mode and kind == "other" else _to_rgb(image)
    # a profile of grey tells nothing of a picture in colour
    return transform.apply(image) if image.mode == mode and kind == "other" else image


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
    # a copy of a large picture would take as much again
    return image if image.mode == "RGB" else image.convert("RGB")
