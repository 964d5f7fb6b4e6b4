"""Laws of anomalib_gan.runtime.image: what is read is what was written, or an ImageError says why not."""

from __future__ import annotations

import io
import itertools
import math
import os
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_gan.runtime import decoding
from anomalib_gan.runtime import image as image_module
from anomalib_gan.runtime.image import ImageError, Picture, find_images, open_image, white_of

KINDS = [np.uint8, np.uint16]
ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data"


def picture_of(shape: tuple[int, ...], kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Smooth random texture over the whole range of the type."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(shape[0] // 4 + 2, shape[1] // 4 + 2, *shape[2:])).astype(np.float32)
    field = cv2.resize(field, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC).reshape(shape)
    field += rng.normal(scale=0.1, size=shape)
    top = np.iinfo(kind).max
    return np.clip((field + 2.5) / 5 * top, 0, top).astype(kind)


def whole(source: object, **options: object) -> np.ndarray:
    with open_image(source, **options) as picture:  # type: ignore[arg-type]
        return picture.rows(0, picture.height)


def as_channels(array: np.ndarray) -> np.ndarray:
    return array if array.ndim == 3 else array[..., None]


def tiff_bytes(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"metadata": None, **options})
    return file.getvalue()


def png_bytes(width: int, height: int, bits: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    def chunk(data: bytes) -> bytes:
        return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))

    header = chunk(b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = b"".join(map(chunk, extra)) + chunk(b"IDAT" + zlib.compress(raw)) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + header + body


# ---- range


def test_white_follows_from_the_type_alone() -> None:
    assert [white_of(np.uint8), white_of(np.uint16), white_of("uint16", bits=12)] == [255, 65535, 4095]
    assert white_of(np.dtype(">u2")) == 65535
    for kind in (np.int16, np.uint32, np.float32, np.int8, np.float64):
        with pytest.raises(ImageError, match=r"convert|give white="):
            white_of(kind)
    for bits in (0, 9, -1):
        with pytest.raises(ImageError, match="give 1 to 8"):
            white_of(np.uint8, bits=bits)


def test_range_never_depends_on_the_content() -> None:
    for level in (0, 1, 100):
        with open_image(np.full((8, 8), level, np.uint16)) as picture:
            assert picture.white == 65535


def test_pixels_above_a_given_white_are_refused() -> None:
    array = np.full((4, 4), 4096, np.uint16)
    with open_image(array, bits=12) as picture, pytest.raises(ImageError, match="4096 lies above white = 4095"):
        picture.rows(0, 4)


# ---- round trips


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [0, 2, 3, 4])
@pytest.mark.parametrize("layout", ["strips", "tiles", "one strip", "separate", "big", "big-endian"])
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits"])
def test_tiff_round_trip(kind: type, samples: int, layout: str, compression: str | None) -> None:
    array = picture_of((53, 70, samples) if samples else (53, 70), kind)
    colour = samples >= 3
    options: dict[str, object] = {"compression": compression, "photometric": "rgb" if colour else "minisblack"}
    if samples in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    options["planarconfig"] = "contig" if samples else None
    if layout == "strips":
        options["rowsperstrip"] = 7
    elif layout == "tiles":
        options["tile"] = (16, 32)
    elif layout == "one strip":
        options["rowsperstrip"] = 53
    elif layout == "separate":
        options |= {"planarconfig": "separate" if samples else None, "rowsperstrip": 11}
    elif layout == "big":
        options |= {"bigtiff": True, "tile": (32, 16)}
    else:
        options |= {"byteorder": ">", "rowsperstrip": 9}
    predictable = compression in ("lzw", "deflate", "zstd")
    stored = np.moveaxis(array, -1, 0) if samples and layout == "separate" else array
    wanted = as_channels(array)[..., : 3 if colour else 1]
    for predictor in (False, True) if predictable else (False,):
        with open_image(tiff_bytes(stored, predictor=predictor, **options)) as picture:
            assert (picture.height, picture.width, picture.channels) == wanted.shape
            assert picture.dtype == np.dtype(kind) and picture.white == np.iinfo(kind).max
            assert any("alpha" in note for note in picture.notes) == (samples in (2, 4))
            rng = np.random.default_rng(1)
            spans = [(0, 53), (0, 1), (52, 53), (6, 8), (15, 33), (20, 50)]
            spans += [tuple(sorted(rng.choice(54, 2, replace=False))) for _ in range(12)]
            for top, bottom in spans:
                got = picture.rows(int(top), int(bottom))
                assert got.dtype == kind and got.dtype.isnative
                np.testing.assert_array_equal(got, wanted[top:bottom])


@given(height=st.integers(1, 40), width=st.integers(1, 40), strip=st.integers(1, 45), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_rows_are_the_rows_of_the_whole(height: int, width: int, strip: int, data: st.DataObject) -> None:
    array = np.random.default_rng(height * width).integers(0, 65536, (height, width), np.uint16)
    compression = data.draw(st.sampled_from([None, "lzw", "deflate"]))
    layout: dict[str, object] = {"tile": (16, 16)} if data.draw(st.booleans()) else {"rowsperstrip": strip}
    with open_image(tiff_bytes(array, compression=compression, **layout), info_bar=0) as picture:
        for _ in range(5):
            top = data.draw(st.integers(0, height - 1))
            bottom = data.draw(st.integers(top + 1, height))
            np.testing.assert_array_equal(picture.rows(top, bottom)[..., 0], array[top:bottom])
        for top, bottom in ((-1, 1), (0, height + 1), (1, 1)):
            with pytest.raises(ValueError, match="not within"):
                picture.rows(top, bottom)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [0, 2, 3, 4])
def test_png_round_trip(kind: type, samples: int) -> None:
    array = picture_of((31, 45, samples) if samples else (31, 45), kind)
    with open_image(imagecodecs.png_encode(array)) as picture:
        assert picture.notes == (("alpha channel dropped",) if samples in (2, 4) else ())
        wanted = as_channels(array)[..., : 3 if samples > 2 else 1]
        np.testing.assert_array_equal(picture.rows(3, 31), wanted[3:])


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_bmp_round_trip(samples: int) -> None:
    array = picture_of((31, 45, samples))
    data = cv2.imencode(".bmp", array)[1].tobytes()  # cv2 takes BGR(A)
    wanted = array if samples == 1 else array[..., 2::-1]
    np.testing.assert_array_equal(whole(data), wanted)


@pytest.mark.parametrize("samples", [1, 3])
def test_jpeg_is_what_the_codec_says_and_near_what_was_written(samples: int) -> None:
    array = cv2.GaussianBlur(picture_of((61, 83, samples)), (0, 0), 3).reshape(61, 83, samples)
    for options in ({}, {"optimize": True}, {"subsampling": "420"}):
        data = imagecodecs.jpeg8_encode(array, level=95, **options)
        got = whole(data)
        np.testing.assert_array_equal(got, as_channels(imagecodecs.jpeg8_decode(data)))
        assert np.abs(got.astype(int) - array).mean() < 3
    progressive = cv2.imencode(".jpg", array, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1]
    assert np.abs(whole(progressive.tobytes()).astype(int) - array[..., ::-1]).mean() < 4


def test_a_12_bit_jpeg_has_a_12_bit_white() -> None:
    array = picture_of((16, 16), np.uint16) >> 4
    with open_image(imagecodecs.jpeg8_encode(array, level=95, bitspersample=12)) as picture:
        assert (picture.white, picture.dtype) == (4095, np.uint16)


def test_exif_and_tiff_orientation_are_not_applied() -> None:
    array = picture_of((20, 30))
    plain = imagecodecs.jpeg8_encode(array, level=95)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    turned = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    np.testing.assert_array_equal(whole(turned), whole(plain))
    np.testing.assert_array_equal(whole(tiff_bytes(array, extratags=[(274, "H", 1, 6, True)]))[..., 0], array)


def test_a_thumbnail_inside_a_jpeg_does_not_pass_for_its_end() -> None:
    plain = imagecodecs.jpeg8_encode(picture_of((64, 64)), level=90)
    thumbnail = imagecodecs.jpeg8_encode(picture_of((8, 8)), level=50)
    nested = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + plain[2:]
    np.testing.assert_array_equal(whole(nested), whole(plain))
    with pytest.raises(ImageError, match="truncated"):
        open_image(nested[:-20])


def test_white_is_zero_is_inverted() -> None:
    for kind in KINDS:
        array = picture_of((20, 30), kind)
        data = tiff_bytes(array, photometric="miniswhite", compression="lzw")
        np.testing.assert_array_equal(whole(data)[..., 0], np.iinfo(kind).max - array)


def test_palettes_become_colours() -> None:
    index = picture_of((20, 30)) // 64
    colours = np.array([[9, 8, 7], [250, 10, 20], [3, 200, 1], [90, 91, 92]], np.uint8)
    table = np.zeros((3, 256), np.uint16)
    table[:, :4] = colours.T.astype(np.uint16) * 257
    data = tiff_bytes(index, photometric="palette", colormap=table)
    np.testing.assert_array_equal(whole(data), colours[index])
    grey = np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1))
    data = tiff_bytes(index, photometric="palette", colormap=grey)
    np.testing.assert_array_equal(whole(data)[..., 0], 255 - index)
    raw = b"".join(b"\0" + row.tobytes() for row in index)
    np.testing.assert_array_equal(whole(png_bytes(30, 20, 8, 3, raw, b"PLTE" + colours.tobytes())), colours[index])


def test_one_bit_becomes_black_and_white_and_says_so() -> None:
    mask = picture_of((20, 32)) > 128
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in mask)
    stored = tiff_bytes(mask, photometric="minisblack")
    for source in (mask, stored, tiff_bytes(mask, photometric="miniswhite"), png_bytes(32, 20, 1, 0, raw)):
        with open_image(source, info_bar=0) as picture:
            wanted = ~mask if source is not mask and source != stored and source[:2] == b"II" else mask
            np.testing.assert_array_equal(picture.rows(0, 20)[..., 0], wanted * np.uint8(255))
            assert "1-bit pixels expanded to 8 bit" in picture.notes


def test_packed_12_bit_tiff_has_a_12_bit_white() -> None:
    array = picture_of((20, 32), np.uint16) >> 4
    with open_image(tiff_bytes(array, bitspersample=12)) as picture:
        assert picture.white == 4095
        np.testing.assert_array_equal(picture.rows(0, 20)[..., 0], array)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_needs_a_white(kind: type) -> None:
    array = (picture_of((20, 30)) / 255).astype(kind)
    for source in (array, tiff_bytes(array), tiff_bytes(array, tile=(16, 16), compression="deflate", predictor=True)):
        with pytest.raises(ImageError, match="give white="):
            open_image(source)
        with open_image(source, white=1.0) as picture:
            assert (picture.dtype, picture.white) == (np.float32, 1.0)
            np.testing.assert_array_equal(picture.rows(0, 20)[..., 0], array.astype(np.float32))
    array[3, 4] = np.nan
    with open_image(tiff_bytes(array), white=1.0, info_bar=0) as picture:
        picture.rows(10, 20)
        with pytest.raises(ImageError, match="not finite"):
            picture.rows(0, 20)
    with pytest.raises(ImageError, match="white=-1"):
        open_image(array, white=-1)


def test_other_types_and_shapes_are_refused_with_a_mend() -> None:
    for kind in (np.int8, np.int16, np.uint32, np.int32, np.complex64):
        for source in (np.zeros((8, 8), kind), tiff_bytes(np.zeros((8, 8), kind))):
            with pytest.raises(ImageError, match="convert to unsigned 8 or 16 bit"):
                open_image(source, white=100.0)
    for shape in ((8,), (8, 8, 5), (2, 8, 8, 3), (0, 8), (8, 0, 3)):
        with pytest.raises(ImageError, match="is no image: give"):
            open_image(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="CMYK"):
        open_image(imagecodecs.jpeg8_encode(np.zeros((16, 16, 4), np.uint8)))
    with pytest.raises(ImageError, match="save it as grey or RGB"):
        open_image(tiff_bytes(np.zeros((8, 8, 4), np.uint8), photometric="separated"))
    with pytest.raises(ImageError, match="convert it"):
        open_image(imagecodecs.gif_encode(np.zeros((8, 8), np.uint8)))


def test_pages() -> None:
    arrays = [picture_of((20, 30), seed=seed) for seed in range(3)]
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array in arrays:
            writer.write(array, metadata=None)
    for page, array in enumerate(arrays):
        with open_image(file.getvalue(), page=page) as picture:
            assert (picture.page, picture.pages) == (page, 3) and f"page {page + 1} of 3" in picture.notes
            np.testing.assert_array_equal(picture.rows(0, 20)[..., 0], array)
    for source, page in ((file.getvalue(), 3), (file.getvalue(), -1), (imagecodecs.png_encode(arrays[0]), 1)):
        with pytest.raises(ImageError, match=f"page {page} was asked for"):
            open_image(source, page=page)


# ---- names, hashes, change


@pytest.mark.parametrize("name", ["größe 光 – ナノ.png", "ünï.tif", "с пробелом.JPG", "emoji 🔬.bmp"])
def test_names_of_any_characters(tmp_path: Path, name: str) -> None:
    array = picture_of((20, 30))
    suffix = name[-4:].lower()
    if suffix == ".tif":
        data = tiff_bytes(array)
    else:
        data = {".png": imagecodecs.png_encode, ".jpg": imagecodecs.jpeg8_encode}.get(suffix, imagecodecs.bmp_encode)(
            array
        )
    path = tmp_path / name
    path.write_bytes(data)
    with open_image(path) as picture, open_image(data, name="same") as same:
        assert picture.name == str(path) and same.name == "same"
        np.testing.assert_array_equal(picture.rows(0, 20), same.rows(0, 20))
        assert picture.sha256 == same.sha256 and len(picture.sha256 or "") == 64
    assert find_images(tmp_path) == [path]
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="empty") as error:
        open_image(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for change in ("append", "touch", "delete"):
        path.write_bytes(tiff_bytes(picture_of((20, 30))))
        with open_image(path) as picture:
            assert not picture.changed()
            if change == "append":
                path.write_bytes(path.read_bytes() + b"\0")
            elif change == "touch":
                os.utime(path, ns=(1, 1))
            elif sys.platform != "win32":
                path.unlink()
            else:
                continue
            assert picture.changed()
    with open_image(np.zeros((4, 4), np.uint8)) as picture:
        assert not picture.changed() and picture.sha256 is None


def test_a_closed_picture_gives_no_rows_and_frees_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(picture_of((20, 30))))
    picture = open_image(path)
    picture.close()
    picture.close()
    with pytest.raises(ValueError, match="closed"):
        picture.rows(0, 1)
    path.unlink()


# ---- what cannot be read


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.tif").mkdir()
    for path, reason in (
        (tmp_path / "text.png", "is no TIFF, PNG, JPEG or BMP: convert"),
        (tmp_path / "folder.tif", "not a regular file: give"),
        (tmp_path / "missing.png", "cannot be read .*: check"),
        ("nul\0byte.png", "cannot be"),
    ):
        with pytest.raises(ImageError, match=reason) as error:
            open_image(path)
        assert str(error.value).count(str(path)) == 1 or "missing" in str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(tmp_path / "pipe.png")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(picture_of((8, 8))))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read \(Permission denied\): check"):
        open_image(path)


VALID = {
    "png": lambda array: imagecodecs.png_encode(array),
    "png16": lambda array: imagecodecs.png_encode(array.astype(np.uint16) * 257),
    "jpeg": lambda array: imagecodecs.jpeg8_encode(array, level=90),
    "bmp": lambda array: cv2.imencode(".bmp", array)[1].tobytes(),
    "tiff": lambda array: tiff_bytes(array, rowsperstrip=5),
    "tiff lzw": lambda array: tiff_bytes(array, compression="lzw", tile=(16, 16)),
    "tiff deflate": lambda array: tiff_bytes(array, compression="deflate", rowsperstrip=8),
    "tiff jpeg": lambda array: tiff_bytes(array, compression="jpeg", rowsperstrip=16),
    "tiff, table last": lambda array: _table_last(tiff_bytes(array)),
    "tiff big": lambda array: tiff_bytes(array, bigtiff=True, compression="zstd"),
}


def _table_last(data: bytes) -> bytes:
    """The same TIFF with its tag table behind the pixels, as many programs write it."""
    start = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[start : start + 2])[0]
    table = data[start : start + 2 + 12 * count + 4]
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + table


@pytest.mark.parametrize("kind", VALID)
def test_every_truncation_is_told_or_harmless(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = VALID[kind](picture_of((37, 41)))
    wanted = whole(data)
    told = 0
    for length in range(len(data)):
        try:
            got = whole(data[:length], name="cut")
        except ImageError as error:
            assert str(error).startswith("cut: ") and len(str(error)) > 20
            told += 1
        else:
            np.testing.assert_array_equal(got, wanted)
    assert told > 0.9 * len(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", VALID)
def test_damage_is_told_or_keeps_the_promised_shape(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = VALID[kind](picture_of((37, 41)))
    wanted = whole(data)
    rng = np.random.default_rng(0)
    for trial in range(300):
        broken = bytearray(data)
        limit = len(data) if trial % 2 else min(200, len(data))  # headers as often as pixels
        for position in rng.integers(0, limit, rng.integers(1, 4)):
            broken[position] = rng.integers(0, 256)
        try:
            with open_image(bytes(broken), max_pixels=10**6) as picture:
                got = picture.rows(0, picture.height)
        except ImageError:
            continue
        assert got.shape == (picture.height, picture.width, picture.channels) and got.dtype == picture.dtype
        if kind.startswith("png") and got.shape == wanted.shape and got.dtype == wanted.dtype:
            np.testing.assert_array_equal(got, wanted)  # checksums find what is not in a harmless place
    assert capfd.readouterr() == ("", "")


@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0+\0\x08\0\0"]),
    st.binary(max_size=300),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_never_an_image(head: bytes, tail: bytes) -> None:
    with pytest.raises(ImageError):
        whole(head + tail)


def test_png_of_any_baggage_is_read_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    array = picture_of((20, 30))
    raw = b"".join(b"\0" + row.tobytes() for row in array)
    extra = (b"iCCPbad profile\0\0" + zlib.compress(b"x" * 200), b"tEXtno null", b"gAMA\0\0\0\0", b"sBIT\x05", b"pHYs1")
    for text in (*extra, b"zTXtbomb\0\0" + zlib.compress(bytes(10**7))):
        np.testing.assert_array_equal(whole(png_bytes(30, 20, 8, 0, raw, text))[..., 0], array)
        damaged = png_bytes(30, 20, 8, 0, raw, text).replace(text, text[:-1] + b"?")
        with pytest.raises(ImageError, match="checksum of its chunk"):
            open_image(damaged)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("bits", "colour"), [(1, 0), (4, 3), (8, 0), (8, 6), (16, 2)])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_pixels_are_inflated_as_libpng_would(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], bits: int, colour: int, more: int
) -> None:
    """Also where the stream holds a byte too few or too many."""
    rng, row = np.random.default_rng(0), -(-31 * bits * {0: 1, 2: 3, 3: 1, 6: 4}[colour] // 8)
    raw = b"".join(bytes([filter]) + rng.bytes(row) for filter in (0, 1, 2, 3, 4, 4))
    data = png_bytes(31, 6, bits, colour, (raw + b"x")[: len(raw) + more], *[b"PLTE" + rng.bytes(48)] * (colour == 3))

    def read() -> str:
        try:
            return str(whole(data).tolist())
        except ImageError as error:
            return str(error)

    found = read()
    monkeypatch.setattr(decoding, "_UNPACKED", 0)
    assert found == read()


def bombs() -> dict[str, bytes]:
    png = png_bytes(10**6, 10**6, 16, 6, b"")
    jpeg = bytearray(imagecodecs.jpeg8_encode(picture_of((16, 16))))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    bmp = bytearray(cv2.imencode(".bmp", picture_of((16, 16, 3)))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 10**6, -(10**6))
    found = {
        "png": png,
        "png within the limit of pixels": png_bytes(60000, 60000, 8, 0, b""),
        "png that its bytes cannot hold": png_bytes(40000, 40000, 8, 0, b"\0" * 1000),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
    }
    for name, options in {"strips": {}, "tiles": {"tile": (16, 16)}, "lzw": {"compression": "lzw"}}.items():
        data = bytearray(tiff_bytes(picture_of((16, 16)), **options))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
            for code, value in ((256, 10**6), (257, 10**6)):
                tag = tif.pages[0].tags[code]
                data[tag.offset : tag.offset + 12] = struct.pack("<HHII", code, 4, 1, value)
            found[f"tiff {name}"] = bytes(data)
            for code in (256, 257):
                tag = tif.pages[0].tags[code]
                data[tag.offset : tag.offset + 12] = struct.pack("<HHII", code, 4, 1, 60000)
            if 278 in tif.pages[0].tags:
                tag = tif.pages[0].tags[278]
                data[tag.offset : tag.offset + 12] = struct.pack("<HHII", 278, 4, 1, 60000)
            found[f"tiff {name} within the limit of pixels"] = bytes(data)
    return found


@pytest.mark.parametrize("kind", list(bombs()))
def test_a_header_that_promises_too_much_allocates_nothing(kind: str) -> None:
    data = bombs()[kind]
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=r"px|listed|bytes"):
            open_image(data)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_max_pixels() -> None:
    for kind, make in VALID.items():
        data = make(picture_of((37, 41)))
        assert whole(data, max_pixels=37 * 41).shape[:2] == (37, 41), kind
        with pytest.raises(ImageError, match="more than the 1516 px allowed"):
            open_image(data, max_pixels=37 * 41 - 1)


# ---- size


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (256, 256), "compression": "deflate"},
        {"rowsperstrip": 64, "compression": "lzw"},
        {"rowsperstrip": 8000},
        {"tile": (256, 256)},
    ],
    ids=str,
)
def test_a_band_of_a_large_tiff_takes_the_memory_of_a_band(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "large.tif"
    array = np.repeat(picture_of((1, 8000)), 8000, axis=0)  # 64 MB
    tifffile.imwrite(path, array, metadata=None, **options)
    tracemalloc.start()
    try:
        with open_image(path, info_bar=0) as picture:
            for top in (0, 500, 1000, 4000, 7488):
                assert picture.rows(top, top + 512).tobytes() == array[top : top + 512].tobytes()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.size / 3, f"{peak / 1e6:.0f} MB for bands of 4 MB"


def test_overlapping_bands_decode_each_strip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = picture_of((200, 30))
    with open_image(tiff_bytes(array, compression="lzw", rowsperstrip=10), info_bar=0) as picture:
        read: list[int] = []
        reader = picture._fetch.__self__  # type: ignore[union-attr]
        original = reader._read
        monkeypatch.setattr(reader, "_read", lambda offset, size: read.append(offset) or original(offset, size))
        for top in range(0, 160, 40):
            picture.rows(top, top + 60)
        assert len(read) == len(set(read)) == 18


# ---- microscopes


def fei(width: int, rows: int, bar: int = 0, size: float = 2.5e-9, other: float | None = None) -> bytes:
    other = size if other is None else other
    text = (
        f"[User]\r\nUser=x\r\n[Scan]\r\nPixelWidth={size}\r\nPixelHeight={other}\r\n[Image]\r\nResolutionX={width}\r\n"
        f"ResolutionY={rows}\r\n[PrivateFei]\r\nDatabarHeight={bar}\r\n"
    )
    return text.encode()


def zeiss(size: str, store: str = "") -> bytes:
    return f"\r\n0\r\nAP_PIXEL_SIZE\r\nPixel Size = {size}\r\nDP_IMAGE_STORE\r\nStore resolution = {store}\r\n".encode()


def with_tag(array: np.ndarray, code: int, text: bytes, **options: object) -> bytes:
    return tiff_bytes(array, extratags=[(code, "s", 0, text, True)], **options)


@pytest.mark.parametrize("code", [34682, 34680])
@pytest.mark.parametrize("kind", KINDS)
def test_fei_metadata(code: int, kind: type) -> None:
    array = picture_of((100, 120), kind)
    with open_image(with_tag(array, code, fei(120, 90, 10))) as picture:
        assert math.isclose(picture.pixel_size or 0, 2.5e-3) and picture.content == 90 and picture.notes == ()
    with open_image(with_tag(array, code, fei(120, 90, 10)), info_bar=0) as picture:
        assert picture.content == 100
    with open_image(with_tag(array, code, fei(120, 90, 10)), info_bar=25) as picture:
        assert picture.content == 75
    # A frame of another width was cut or resized: its rows say nothing of this image.
    with open_image(with_tag(array, code, fei(240, 90, 10))) as picture:
        assert picture.content == 100
    with open_image(with_tag(array, code, fei(120, 100, other=5e-9))) as picture:
        assert picture.content == 100 and "not square" in picture.notes[0]
    with open_image(with_tag(array, code, b"[Scan]\r\nPixelWidth=nonsense\r\n[Image\r\n=\r\n\xff\xfe")) as picture:
        assert picture.pixel_size is None and picture.content == 100


@pytest.mark.parametrize(("size", "um"), [("12.5 nm", 0.0125), ("1.25 µm", 1.25), ("800 pm", 8e-4), ("3 apples", None)])
def test_zeiss_metadata(size: str, um: float | None) -> None:
    array = picture_of((100, 120))
    text = zeiss(size, "120 * 90").decode().encode("latin-1")
    with open_image(with_tag(array, 34118, text)) as picture:
        assert picture.content == 90
        assert picture.pixel_size == (None if um is None else pytest.approx(um))


@pytest.mark.parametrize(
    ("resolution", "unit", "um"),
    [
        ((1e7, 1e7), 3, 1e-3),
        ((254000, 254000), 2, 0.1),
        ((72, 72), 2, None),
        ((300, 300), 2, None),
        ((1200, 1200), 2, None),
        ((118, 118), 3, None),
        ((5, 5), 1, None),
        ((0, 0), 3, None),
    ],
)
def test_plain_resolution_counts_only_where_a_microscope_could_have_written_it(
    resolution: tuple[float, float], unit: int, um: float | None
) -> None:
    data = tiff_bytes(picture_of((20, 30)), resolution=resolution, resolutionunit=unit)
    with open_image(data) as picture:
        assert picture.pixel_size == (None if um is None else pytest.approx(um))


@pytest.mark.parametrize(
    ("unit", "um"), [("um", 0.5), ("micron", 0.5), ("\\u00B5m", 0.5), ("nm", 5e-4), ("pixel", None)]
)
def test_imagej_resolution_has_the_unit_of_imagej(unit: str, um: float | None) -> None:
    array = picture_of((20, 30))
    data = tiff_bytes(array, imagej=True, metadata={"unit": unit}, resolution=(2, 2))
    with open_image(data) as picture:
        assert picture.pixel_size == (None if um is None else pytest.approx(um))
        np.testing.assert_array_equal(picture.rows(0, 20)[..., 0], array)


# ---- info bar


def draw_bar(array: np.ndarray, rows: int, paper: float = 0.0, ink: float = 1.0, frame: bool = False) -> np.ndarray:
    """`array` with an info bar of `rows` rows below it; `paper` and `ink` are shares of white."""
    top = 255 if array.dtype == np.uint8 else 65535
    bar = np.full((rows, array.shape[1]), int(paper * 255), np.uint8)
    scale = rows / 45
    text = "HV 10.00 kV   mag 5 000 x   WD 9.8 mm   det ETD"
    cv2.putText(bar, text, (8, int(rows * 0.68)), cv2.FONT_HERSHEY_SIMPLEX, scale, int(ink * 255), 1, cv2.LINE_AA)
    cv2.rectangle(bar, (array.shape[1] - 140, rows - 8), (array.shape[1] - 20, rows - 5), int(ink * 255), -1)
    if frame:
        cv2.rectangle(bar, (0, 0), (array.shape[1] - 1, rows - 1), int(ink * 255), 1)
        cv2.line(bar, (300, 0), (300, rows), int(ink * 255), 1)
    stored = (bar.astype(np.float64) / 255 * top).astype(array.dtype)
    if array.ndim == 3:
        stored = np.repeat(stored[..., None], array.shape[2], 2)
    return np.concatenate([array, stored])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [20, 45, 70])
@pytest.mark.parametrize(("paper", "ink"), [(0, 1), (1, 0), (0.1, 0.9), (0.8, 0)])
@pytest.mark.parametrize("frame", [False, True])
def test_an_info_bar_is_found_to_the_row(kind: type, rows: int, paper: float, ink: float, frame: bool) -> None:
    for shape in ((600, 800), (600, 800, 3)):
        array = draw_bar(picture_of(shape, kind, seed=rows), rows, paper, ink, frame)
        with open_image(array) as picture:
            assert (picture.height, picture.content) == (600 + rows, 600)
        for data in (imagecodecs.png_encode(array), tiff_bytes(array, compression="lzw", tile=(128, 128))):
            with open_image(data) as picture:
                assert picture.content == 600


@pytest.mark.parametrize("quality", [80, 90, 98])
def test_an_info_bar_survives_jpeg(quality: int) -> None:
    for rows, height in itertools.product((30, 48), range(600, 608)):  # JPEG's blocks of 8 rows lie anywhere on it
        for frame in (False, True):
            array = draw_bar(picture_of((height, 800)), rows, frame=frame)
            with open_image(imagecodecs.jpeg8_encode(array, level=quality)) as picture:
                assert abs(picture.content - height) <= 1
                assert "look like an info bar" in picture.notes[0]


def texture(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    array = picture_of((400, 500)).astype(np.float64)
    rows = np.arange(400)[:, None]
    if kind == "dark at the bottom":
        array *= np.clip((330 - rows) / 200, 0, 1)
    elif kind == "dark below an edge":
        array[340:] = rng.normal(4, 3, (60, 500))
    elif kind == "black below an edge":
        array[340:] = 0
    elif kind == "saturated below an edge, with particles":
        array[340:] = 255
        for x in range(20, 500, 60):
            cv2.circle(array, (x, 370), 9, 60.0, -1)
        array[330:350] = cv2.GaussianBlur(array, (0, 0), 2)[330:350]
    elif kind == "a lost scan line":
        array[350] = 0
    elif kind == "flat":
        array[:] = 90
    elif kind == "slanted dark foot with specks":
        foot = rows > 330 + np.arange(500)[None] / 12
        array[foot] = 0
        array[foot & (rng.random((400, 500)) < 0.02)] = 255
    elif kind == "stripes":
        array[:] = 255 * (rows // 20 % 2)
    elif kind == "gradient":
        array[:] = 255 - rows * 255 / 400
    return np.clip(array, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "dark at the bottom",
        "dark below an edge",
        "black below an edge",
        "saturated below an edge, with particles",
        "a lost scan line",
        "flat",
        "slanted dark foot with specks",
        "stripes",
        "gradient",
    ],
)
def test_no_info_bar_is_seen_where_there_is_none(kind: str) -> None:
    with open_image(texture(kind)) as picture:
        assert picture.content == picture.height


def test_no_info_bar_is_seen_in_normal_images_and_one_drawn_is() -> None:
    paths = find_images(ROOT / "data_samples" / "train")
    if REAL.is_dir():  # real images, where somebody has put them beside the checkout
        paths += find_images(REAL / "nanotwice") + find_images(REAL / "magnetic_tile" / "train")[::5]
    paths = [path for path in paths if "ground_truth" not in path.parts]
    assert len(paths) >= 6
    for path in paths:
        with open_image(path) as picture:
            assert picture.content == picture.height, path
            if picture.width >= 500:
                array = picture.rows(0, picture.height)[..., 0]
                with open_image(draw_bar(array, 50)) as barred:
                    assert barred.content == picture.height, path


def test_the_bars_of_the_sample_images() -> None:
    extra = ROOT / "data_samples" / "extra"
    with open_image(extra / "info_bar.png") as picture:
        assert (picture.height, picture.content, picture.pixel_size) == (424, 384, None)
    with open_image(extra / "fei_16_bit.tif") as picture:
        assert (picture.height, picture.content, picture.white) == (424, 384, 65535)
        assert picture.pixel_size == pytest.approx(0.025)


def test_info_bar_by_number() -> None:
    array = picture_of((100, 120))
    for rows in (0, 1, 99):
        with open_image(array, info_bar=rows) as picture:
            assert picture.content == 100 - rows
            assert picture.rows(0, 100).shape == (100, 120, 1)
    for rows in (-1, 100, 1000):
        with pytest.raises(ImageError, match=f"info_bar={rows} leaves no row"):
            open_image(array, info_bar=rows)


def test_a_huge_tiff_is_looked_at_only_at_its_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    array = draw_bar(picture_of((1000, 500)), 40)
    asked: list[int] = []
    original = Picture.rows

    def rows(self: Picture, top: int, bottom: int) -> np.ndarray:
        asked.append(top)
        return original(self, top, bottom)

    monkeypatch.setattr(Picture, "rows", rows)
    monkeypatch.setattr(image_module, "_BAR_ROWS", 100)
    with open_image(tiff_bytes(array, rowsperstrip=16, compression="deflate")) as picture:
        assert picture.content == 1000
    assert asked == [940]


# ---- folders


def test_find_images(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "b" / "c").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / "folder.png").mkdir()
    for name in (
        "z.PNG",
        "a.tiff",
        "b/a.JPeG",
        "b/c/x.bmp",
        ".tmp-1.png",
        ".hidden/q.png",
        "notes.txt",
        "folder.png/y.tif",
    ):
        (root / name).write_bytes(b"x")
    wanted = ["a.tiff", "b/a.JPeG", "b/c/x.bmp", "folder.png/y.tif", "z.PNG"]
    assert [path.relative_to(root).as_posix() for path in find_images(root)] == wanted
    assert [path.name for path in find_images(root, recursive=False)] == ["a.tiff", "z.PNG"]
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"x")
    try:
        (root / "0.png").symlink_to(root / "z.PNG")  # listed already
        (root / "loop").symlink_to(root, target_is_directory=True)
        (root / "out.png").symlink_to(outside)
        (root / "out2.png").symlink_to(outside)
        (root / "broken.png").symlink_to(tmp_path / "nowhere.png")
    except OSError:
        pytest.skip("links are not allowed here")
    found = [path.relative_to(root).as_posix() for path in find_images(root)]
    assert found == sorted([*wanted, "out.png", "broken.png"])
    for wrong in (tmp_path / "nowhere", outside):
        with pytest.raises(ImageError, match="is not a folder: give"):
            find_images(wrong)
