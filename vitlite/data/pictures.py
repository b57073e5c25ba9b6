"""One image file as 8-bit RGB, or one clear word on why not."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from vitlite.files import decoding

__all__ = ["SUFFIXES", "read"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow opens others too, some by other programs
SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
            ".webp"}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
ADVICE = "replace it, save it again as an 8-bit PNG or JPEG (a smaller one, if it was too large), or take it out"
PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the mode that a profile's colours have
BITS, PHOTOMETRIC, SIGN = 258, 262, 339  # tags of a TIFF: bits of a sample; 0 where the largest is black; 2 if signed
SCALED = ("L;2", "L;4", "RGB;16B")  # whose values Pillow brings to 8 bits, but not the see-through one
SRGB = ("sRGB", "sRGB IEC61966-2.1", "sRGB built-in")  # and not every name that begins so: some are linear


def read(file: str | Path) -> np.ndarray:
    """Decode an image file: uint8 ``[H, W, 3]``.

    The picture stands as its EXIF orientation says. Values of 16 bits are scaled to 8, alpha is laid on white, and
    colours by another profile become those of sRGB. Of an animation, or of a file with several pages, the first one is
    read.

    Raises:
        ValueError: If it is none of BMP, GIF, JPEG, PNG, PPM, TIFF and WebP, damaged, too large, no regular file, its
            values have no known range (32 bits, floating point), or its colour profile does not fit them.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / "deep.png"
        >>> Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(path)
        >>> read(path)[0, :, 0].tolist()
        [0, 128, 255]
    """
    data = content(file)
    with decoding(file, "no image that can be read", ADVICE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is merely odd about a file
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.verify()  # a PNG holds check sums, which reading its pixels passes over
        except UnidentifiedImageError as error:  # its words name a buffer of ours
            raise ValueError(f"what it holds is none of {', '.join(FORMATS)}, or damaged") from error
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _to_rgb(image)


def content(file: str | Path) -> bytes:
    """The bytes of a regular file; a pipe, say, would keep its reader waiting."""
    if not Path(file).is_file():
        raise ValueError(f"{file} is no image that can be read (it is no regular file); {ADVICE}")
    return Path(file).read_bytes()


def _to_rgb(image: Image.Image) -> np.ndarray:
    tags, deep = getattr(image, "tag_v2", {}), image.mode.startswith("I;16")
    deep = deep or (image.mode == "I" and image.format in ("PNG", "PPM"))  # which have no 32 bits
    form = image.tile and image.tile[0][3]
    image, info = ImageOps.exif_transpose(image), image.info
    key = image.info.get("transparency")  # the value, or colour, that is see-through
    if deep:
        values, largest = np.array(image), 2 ** tags.get(BITS, (16,))[0] - 1
        pixels = np.rint(255 / largest * values).astype(np.uint8)
        pixels = 255 - pixels if tags.get(PHOTOMETRIC) == 0 else pixels
        pixels[values == (-1 if key is None else key)] = 255
        return np.array(_in_srgb(Image.fromarray(pixels), info))
    if image.mode not in MODES or 2 in tags.get(SIGN, ()):
        raise ValueError(f"its mode is {image.mode}, whose range is not known")
    if not isinstance(key, bytes | None) and (form in SCALED or np.max(key) > 255):
        raise ValueError(f"its mode is {image.mode} with a see-through colour of another depth")
    if key is not None or "A" in image.mode:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(_in_srgb(image, info))


def _in_srgb(image: Image.Image, info: dict) -> Image.Image:
    """RGB in the colours that the profile in a file's information means; without one they are sRGB's."""
    if not info.get("icc_profile"):
        return image.convert("RGB")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(info["icc_profile"]))
    if ImageCms.getProfileDescription(profile).strip() in SRGB:
        return image.convert("RGB")
    space = profile.profile.xcolor_space.strip()
    if space not in PROFILED or (space == "CMYK") != (image.mode == "CMYK"):
        raise ValueError(f"its colour profile is for {space}, its mode is {image.mode}")
    return ImageCms.profileToProfile(image.convert(PROFILED[space]), profile, ImageCms.createProfile("sRGB"),
                                     outputMode="RGB")
