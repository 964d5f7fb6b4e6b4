"""PNG, JPEG and BMP bytes -> pixels: formats that can only be decoded whole.

The header is read here, before anything is allocated, and compared with the number of bytes that are there: a header
that promises more than its bytes can hold is refused. A file whose end is missing is refused, never filled with grey.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np

WHOLE_LIMIT = 2 * 1024**3
"""Bytes that may be decoded in one piece. Above it, only strips and tiles are read."""

# Deflate shrinks at most 1032 times; Huffman-coded JPEG spends at least one bit on each block of 64 pixels.
_PNG_RATIO = 1100
_JPEG_RATIO = 600
_UNPACKED = 64 * 1024**2  # bytes of pixels that may lie in memory twice while they are decoded
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_PNG_SAMPLES = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}
AGAIN = "copy or export the file again"


class ImageError(ValueError):
    """An image that cannot be read; the message names the file, the value that is wrong and the mend."""


def white_of(dtype: Any, bits: int | None = None) -> float:
    """The grey level that counts as white: the one definition of range in the project.

    It follows from the type, never from the picture: uint8 -> 255, uint16 -> 65535, with `bits` 2^bits - 1 (a 12-bit
    camera in a 16-bit file: 4095). A float has no range of its own: ImageError, as for any other type.

    >>> white_of("uint8"), white_of("uint16"), white_of("uint16", bits=12)
    (255.0, 65535.0, 4095.0)
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        raise ImageError(f"{kind} pixels have no white of their own: give white= (--white), for example 1.0")
    if kind.kind != "u" or kind.itemsize > 2:
        raise ImageError(f"{kind} pixels are not supported: convert to unsigned 8 or 16 bit")
    size = 8 * kind.itemsize
    if bits is None:
        bits = size
    if not 1 <= bits <= size:
        raise ImageError(f"bits={bits} does not fit {kind} pixels: give 1 to {size}")
    return float(2**bits - 1)


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Refuses an empty picture and one of more than `max_pixels`."""
    if height < 1 or width < 1:
        raise ImageError(f"the header says {width} x {height} px, which holds no pixel: {AGAIN}")
    if height * width > max_pixels:
        raise ImageError(
            f"the header says {width} x {height} px, more than the {max_pixels} px allowed: "
            "the file is damaged, or cut the image or raise max_pixels"
        )


def decode(data: bytes, max_pixels: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """The pixels of a PNG, JPEG or BMP, bits per sample (8, 12, 16) and notes.

    The array is (height, width) or (height, width, samples), uint8 or uint16. Palettes and fewer than 8 bits are
    expanded. EXIF orientation is not applied: rows stay in the order in which the sensor was read.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data, max_pixels)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data, max_pixels)
    return _bmp(data, max_pixels)


def _check_whole(height: int, width: int, depth: int, stored: int, max_pixels: int) -> None:
    """Refuses what needs too much memory, and more px than the file can hold (`stored`); `depth` in bytes per px."""
    check_size(height, width, max_pixels)
    if height * width * depth > WHOLE_LIMIT:
        raise ImageError(
            f"{width} x {height} px need {height * width * depth / 1024**3:.1f} GiB in one piece (limit "
            f"{WHOLE_LIMIT // 1024**3} GiB): save as a tiled TIFF, which is read piece by piece"
        )
    if height * width > stored:
        raise ImageError(f"the header says {width} x {height} px, but the file holds too few bytes for them: {AGAIN}")


def _png(data: bytes, max_pixels: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise ImageError(f"the PNG ends inside its header ({len(data)} bytes): {AGAIN}")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    samples = _PNG_SAMPLES.get(colour)
    if samples is None or bits not in (1, 2, 4, 8, 16):
        raise ImageError(f"the PNG says colour type {colour} with {bits} bits, which do not exist: {AGAIN}")
    bits_stored = bits * (1 if colour == 3 else samples)
    _check_whole(height, width, samples * max(bits, 8) // 8, len(data) * _PNG_RATIO * 8 // bits_stored, max_pixels)
    filtered = height * (1 + -(-width * bits_stored // 8))  # a byte at the head of each row says how it was filtered
    interlaced = data[28] != 0
    array = imagecodecs.png_decode(_png_pixels(data, None if interlaced else filtered))
    notes = (f"{bits}-bit pixels expanded to 8 bit",) if bits < 8 and colour != 3 else ()
    return array, max(bits, 8), notes


def _png_pixels(data: bytes, size: int | None) -> bytes:
    """The same PNG with nothing but what makes its pixels; every chunk is there and its checksum is right.

    libpng writes warnings about profiles, texts and gamma to stderr, and fills in what follows a bad checksum.
    """
    kept, packed = [data[:8]], list[memoryview]()
    view = memoryview(data)
    at, kind = 8, b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            raise ImageError(f"the PNG is truncated: {len(data)} bytes and no end chunk: {AGAIN}")
        kind = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise ImageError(f"the PNG is damaged: the checksum of its chunk {kind!r} at byte {at} is wrong: {AGAIN}")
        if kind == b"IDAT":
            packed.append(view[at + 8 : end - 4])
        elif kind == b"IEND":
            kept += _png_chunk(b"IDAT", _unpacked(b"".join(packed), size))
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IEND"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _png_chunk(kind: bytes, data: bytes) -> tuple[bytes, ...]:
    return struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _unpacked(packed: bytes, size: int | None) -> bytes:
    """A zlib stream of `size` bytes as one that only stores them: libdeflate inflates in a third of libpng's time.

    One of another size (None: it is not known), a damaged one and a very large one stay as they are: libpng knows what
    to do with them, or what to say.
    """
    if size is None or size > _UNPACKED:
        return packed
    try:
        plain = imagecodecs.deflate_decode(packed, out=size)
    except imagecodecs.DeflateError:
        return packed
    return bytes(imagecodecs.deflate_encode(plain, level=0)) if len(plain) == size else packed


def _jpeg(data: bytes, max_pixels: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
    height, width, samples, bits = _jpeg_header(data)
    _check_whole(height, width, samples * (2 if bits > 8 else 1), len(data) * _JPEG_RATIO, max_pixels)
    if samples not in (1, 3):
        raise ImageError(f"the JPEG has {samples} colour components (CMYK?): save it as grey or RGB")
    return imagecodecs.jpeg8_decode(data), bits, ()


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Height, width, components, bits; walks all segments to find a missing end, which libjpeg fills with grey."""
    frame = None
    at = 2
    while True:
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            raise ImageError(f"the JPEG is truncated: {len(data)} bytes and no end marker: {AGAIN}")
        code = data[marker.start() + 1]
        at = marker.end()
        if code == 0xD9:
            break
        if code in (0x01, 0xD8):
            continue
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            if len(data) < at + 8:
                raise ImageError(f"the JPEG is truncated: {len(data)} bytes end inside its header: {AGAIN}")
            frame = struct.unpack(">BHHB", data[at + 2 : at + 8])
        at += int.from_bytes(data[at : at + 2], "big")
    if frame is None:
        raise ImageError(f"the JPEG has no frame header: {AGAIN}")
    bits, height, width, samples = frame
    return height, width, samples, bits


def _bmp(data: bytes, max_pixels: int) -> tuple[np.ndarray, int, tuple[str, ...]]:
    if len(data) < 54:
        raise ImageError(f"the BMP ends inside its header ({len(data)} bytes): {AGAIN}")
    start, size, width, height, _, depth, compression = struct.unpack("<IIiiHHI", data[10:34])
    if size < 40 or compression not in (0, 3):
        raise ImageError(f"BMP of kind {size}/{compression} is not supported: save it as PNG")
    height = abs(height)  # a negative height says "first row on top"
    check_size(height, width, max_pixels)
    stride = (width * depth + 31) // 32 * 4
    if start + stride * height > len(data):
        raise ImageError(
            f"the BMP says {width} x {height} px of {depth} bits, but only {len(data)} bytes are there: {AGAIN}"
        )
    _check_whole(height, width, 4, len(data) * 8, max_pixels)
    return imagecodecs.bmp_decode(data), 8, ()
