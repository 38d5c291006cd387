"""One picture file decoded to upright RGB in sRGB's colours."""

import base64
import functools
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from mpoxcv.errors import UserError

# those of a telephone's 200 megapixels (2 GB while they are decoded), and a third more
MAX_PIXELS = 2**28
# pictures of more pixels are decoded one at a time
LARGE = 2**25
ONE_AT_A_TIME = threading.RLock()
# no more: Pillow's EPS, for one, would start Ghostscript
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
HEIC = re.compile(rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL)
# what Pillow's decoders raise
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error, MemoryError,
)  # fmt: skip
# a JPEG with one of these may be turned, or have colours that are not sRGB's
TOLD_OF_JPEGS = (b"Exif\0", b"tiff:Orientation", b"ICC_PROFILE\0")
# by orientation, from 2
TURN = Image.Transpose
TURNS = dict(enumerate((
    TURN.FLIP_LEFT_RIGHT, TURN.ROTATE_180, TURN.FLIP_TOP_BOTTOM, TURN.TRANSPOSE, TURN.ROTATE_270,
    TURN.TRANSVERSE, TURN.ROTATE_90,
), 2))  # fmt: skip
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# grey levels between a profile's colours and sRGB's that are only another rounding
ROUNDING = 3


def decode(data: bytes) -> np.ndarray:
    """Decode a file's bytes to RGB, uint8 (height, width, 3), upright and in sRGB's colours.

    Grey, palette, CMYK and RGBA pictures become RGB by Pillow's ``convert("RGB")`` (transparency is
    dropped, as torchvision's ``ImageFolder`` does); 16-bit grey keeps its upper eight bits. Of an
    animation the first frame is taken. The orientation is that of EXIF or, without one, of XMP.
    Colours of another profile than sRGB (Adobe RGB, Display P3) are converted; a profile that
    cannot be read changes nothing.

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
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.asarray(_upright(data, large))
    except UnidentifiedImageError:
        raise UserError("is not a picture in a format that Pillow knows") from None
    except DAMAGED as error:
        raise UserError(f"cannot be decoded: {error}") from None


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
    """Open a picture, whose pixels are not read yet, without Pillow's limit on their number.

    Raises:
        UserError: it needs a decoder that is not installed.
        UnidentifiedImageError, or one of ``DAMAGED``: it is no picture in one of ``FORMATS``.
    """
    stream = io.BytesIO(data)
    if HEIC.match(data):
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            install = "pip install pillow-heif"
            raise UserError(f"is HEIC, which Pillow reads after: {install}") from None
        return HeifImageFile(stream)

    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = accept and accept(data[:16])
        # of a build of Pillow without its decoder
        if isinstance(accepted, str):
            raise UserError(f"cannot be read by this Pillow: {accepted}")
        if factory and accepted:
            return factory(stream, "")
    raise UnidentifiedImageError


def _orientation(image: Image.Image) -> Any:
    """Return EXIF's orientation, else XMP's, else None; no other tag is read."""
    try:
        number = image.getexif().get(ExifTags.Base.Orientation)
    # of EXIF that is none
    except DAMAGED:
        number = None
    xmp = re.search(rb'tiff:Orientation(?:="|>)(\d)', image.info.get("xmp", b""))
    return int(xmp[1]) if xmp and number is None else number


def profile_of(image: Image.Image) -> str:
    """Return what a picture's colours are said to be: ``none``, ``sRGB``, ``broken``, ``other``."""
    profile = image.info.get("icc_profile")
    return _read_profile(profile)[0] if profile else "none"


@functools.lru_cache(64)
def _read_profile(profile: bytes) -> tuple[str, str, Any]:
    """Return as in :func:`profile_of` what it is, and where ``other`` its mode and transform."""
    srgb = ImageCms.createProfile("sRGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = MODES[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(source, srgb, mode, "RGB")
    except (ImageCms.PyCMSError, *DAMAGED):
        return "broken", "", None

    # every 32nd level of each colour
    levels = np.minimum(np.indices((9, 9, 9)).T.reshape(1, -1, 3) * 32, 255).astype(np.uint8)
    probe = Image.fromarray(levels).convert(mode)
    shown = np.asarray(transform.apply(probe), int)
    if np.abs(shown - np.asarray(probe.convert("RGB"))).max() <= ROUNDING:
        return "sRGB", "", None
    return "other", mode, transform


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    _, mode, transform = _read_profile(profile) if profile else ("none", "", None)
    if transform is None:
        return _to_rgb(image)
    image = image if image.mode == mode else _to_rgb(image)
    # a profile of grey tells nothing of a picture in colour
    return transform.apply(image) if image.mode == mode else image


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
