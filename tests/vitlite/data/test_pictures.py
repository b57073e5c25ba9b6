"""A picture means after reading what it meant before, or is refused by its file and the reason."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from vitlite.data import pictures

DEEP = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4)
EIGHT = np.rint(DEEP / 257).astype(np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    return pictures.read(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, suffix: str) -> None:
    read = saved(tmp_path / f"x.{suffix}", Image.fromarray(DEEP))
    assert read.shape == (3, 4, 3)
    assert all((read[..., channel] == EIGHT).all() for channel in range(3))


def test_a_scan_whose_zero_is_white_is_turned_over(tmp_path: Path) -> None:
    assert (saved(tmp_path / "x.tif", Image.fromarray(DEEP), tiffinfo={262: 0})[..., 0] == 255 - EIGHT).all()


def test_twelve_bits_are_scaled_too(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 4095\n" + struct.pack(">HH", 4095, 2048))
    assert pictures.read(tmp_path / "x.pgm")[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_the_orientation_of_a_phone_is_applied(tmp_path: Path, suffix: str, deep: bool) -> None:
    if deep and suffix in ("webp", "jpg"):
        return
    upright = np.zeros((16, 32), np.uint16)
    upright[:, :16] = 65535
    image = Image.fromarray(upright) if deep else Image.fromarray((upright // 257).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x112] = 6  # "turn by a quarter, clockwise, to see it upright"
    read = saved(tmp_path / f"x.{suffix}", image, exif=exif)
    assert read.shape == (32, 16, 3)
    assert read[:14].min() > 245
    assert read[18:].max() < 10


def see_through() -> list[tuple[str, Image.Image, dict]]:
    hidden = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    return [("png", hidden, {}), ("tif", hidden, {}), ("webp", hidden, {"lossless": True, "exact": True}),
            ("png", Image.new("LA", (2, 1), (10, 0)), {}), ("gif", palette, {"transparency": 0}),
            ("png", palette, {"transparency": 0}), ("png", palette, {"transparency": bytes([0])}),
            ("png", Image.new("RGB", (2, 1), (9, 8, 7)), {"transparency": (9, 8, 7)}),
            ("png", Image.new("L", (2, 1), 9), {"transparency": 9}),
            ("png", Image.fromarray(DEEP[:1, 1:3].repeat(1, 0) * 0 + 500), {"transparency": 500})]


@pytest.mark.parametrize(("suffix", "image", "options"), see_through())
def test_what_cannot_be_seen_is_white(tmp_path: Path, suffix: str, image: Image.Image, options: dict) -> None:
    assert saved(tmp_path / f"x.{suffix}", image, **options).tolist() == [[[255] * 3] * 2]


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    assert saved(tmp_path / "x.png", Image.new("RGBA", (1, 1), (0, 0, 0, 128))).tolist() == [[[127] * 3]]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_printers_red_is_red(tmp_path: Path, suffix: str) -> None:
    read = saved(tmp_path / f"x.{suffix}", Image.new("CMYK", (8, 8), (0, 255, 255, 0)))
    assert np.abs(read.astype(int) - [255, 0, 0]).max() < 4


def test_of_an_animation_the_first_picture_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 2), value) for value in (50, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert pictures.read(tmp_path / "x.gif").max() == 50


@pytest.mark.parametrize(("values", "mode"), [(DEEP.astype(np.float32), "F"), (DEEP.astype(np.int32), "I")])
def test_values_without_a_known_range_are_refused_and_the_advice_works(
    tmp_path: Path, values: np.ndarray, mode: str
) -> None:
    with pytest.raises(ValueError, match=rf"x\.tif .*its mode is {mode}, .*save it again as an 8-bit PNG"):
        saved(tmp_path / "x.tif", Image.fromarray(values))
    assert (saved(tmp_path / "x.png", Image.fromarray(np.rint(values / 257).astype(np.uint8)))[..., 0] == EIGHT).all()


def test_no_other_program_is_started_for_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n", encoding="utf-8")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    shutil.copy(tmp_path / "x.eps", tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png .*what it holds is none of BMP, GIF, JPEG"):
        pictures.read(tmp_path / "x.png")
    assert not (tmp_path / "started").exists()


def png(side: int, bits: int, colour: int, rows: bytes, key: bytes = b"") -> bytes:
    """A PNG of so many bits and so many pixels a side, with the key that is see-through."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + (chunk(b"tRNS", key) if key else b"")
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(("bits", "colour", "key"), [(2, 0, (1,)), (4, 0, (3,)), (16, 2, (7, 8, 9)), (8, 0, (300,))])
def test_a_see_through_colour_that_pillow_does_not_scale_is_refused(
    tmp_path: Path, bits: int, colour: int, key: tuple[int, ...]
) -> None:
    (tmp_path / "x.png").write_bytes(png(1, bits, colour, bytes(7), struct.pack(f">{len(key)}H", *key)))
    with pytest.raises(ValueError, match=r"x\.png .*its mode is (L|RGB) with a see-through colour of another depth"):
        pictures.read(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes(png(1, bits, colour, bytes(7)))
    assert pictures.read(tmp_path / "x.png").tolist() == [[[0] * 3]]


def test_values_with_a_sign_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.tif .*its mode is L, whose range is not known"):
        saved(tmp_path / "x.tif", Image.new("L", (2, 2), 251), tiffinfo={339: 2})


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(30_000, 8, 2, b""))
    with pytest.raises(ValueError, match=r"x\.png .*exceeds limit of 178956970 pixels.*a smaller one"):
        pictures.read(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["pipe", "folder", "link", "nothing"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda p: p.symlink_to("/dev/zero"), "nothing": str}[name](path)
    with pytest.raises(ValueError, match=rf"{name}\.png is no image that can be read \(it is no regular file\)"):
        pictures.read(path)


@pytest.mark.parametrize("form", pictures.FORMATS)
def test_damage_gives_one_kind_of_error_that_names_the_file(tmp_path: Path, form: str) -> None:
    chance, buffer = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(chance.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, form)
    data, path, refused = buffer.getvalue(), tmp_path / "x.png", 0
    for number in range(60):
        broken = bytearray(data[: chance.integers(len(data))] if number % 2 else data)
        for place in chance.integers(max(1, len(broken)), size=5 if broken else 0):
            broken[place] = chance.integers(256)
        path.write_bytes(broken)
        try:
            read = pictures.read(path)
            assert read.dtype == np.uint8
            assert form != "PNG" or (read == pictures.read(_whole(tmp_path, data))).all(), "a PNG shows its damage"
        except ValueError as error:
            assert str(error).startswith(f"{path} is no image that can be read (")  # noqa: PT017
            refused += 1
    assert refused > 10


def _whole(folder: Path, data: bytes) -> Path:
    (folder / "whole").write_bytes(data)
    return folder / "whole"


def exchanged() -> bytes:
    """The profile of a device whose first channel is green, and whose second is red."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_colours_of_another_profile_become_those_of_srgb(tmp_path: Path, suffix: str) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    assert np.abs(saved(tmp_path / f"x.{suffix}", red, icc_profile=exchanged()) - [0.0, 255, 0]).max() < 3
    alpha = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    if suffix != "jpg":
        assert saved(tmp_path / f"y.{suffix}", alpha, icc_profile=exchanged()).min() > 252
    grey = saved(tmp_path / f"z.{suffix}", Image.new("L", (16, 16), 100), icc_profile=exchanged())
    assert np.abs(grey - 100.0).max() < 3


def test_colours_of_srgb_are_left_as_they_are(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (saved(tmp_path / "x.png", image, icc_profile=profile) == np.array(image)).all()


def test_a_profile_is_not_srgb_for_beginning_so(tmp_path: Path) -> None:
    linear = exchanged().replace("test".encode("utf-16-be"), "sRGB".encode("utf-16-be")).replace(
        "built-in".encode("utf-16-be"), "elle g10".encode("utf-16-be"))
    red = saved(tmp_path / "x.png", Image.new("RGB", (2, 2), (255, 0, 0)), icc_profile=linear)
    assert np.abs(red - [0.0, 255, 0]).max() < 3


@pytest.mark.parametrize(("mode", "profile"),
                         [("CMYK", exchanged()), ("RGB", b"no profile"), ("RGB", exchanged()[:200])])
def test_a_profile_that_cannot_be_applied_is_said(tmp_path: Path, mode: str, profile: bytes) -> None:
    with pytest.raises(ValueError, match=r"x\.tif is no image that can be read \(.*profile.*save it again"):
        saved(tmp_path / "x.tif", Image.new(mode, (4, 4)), icc_profile=profile)
