"""Decode: TIFF, PNG, JPEG, BMP and arrays -> rows of pixels, with pixel size and info bar; the one definition of range.

Files are opened through Python and decoded from bytes, so names may hold any character. Pixels keep their type: uint8,
uint16 or float32. Nothing is rotated: rows stay in the order in which the sensor was read, whatever EXIF or the TIFF
orientation tag says, so that boxes and masks fit the stored pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

import numpy as np

from anomalib_gan.runtime import decoding, sem, tiff
from anomalib_gan.runtime.decoding import ImageError, white_of

__all__ = ["IMAGE_SUFFIXES", "ImageError", "Picture", "find_images", "open_image", "white_of"]

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
_BAR_ROWS = 2048  # rows of a huge picture in which an info bar is looked for


@dataclass
class Picture:
    """One opened image; pixels are fetched by rows, so that a huge TIFF never lies in memory whole. A context manager.

    name: path, or "<array>", "<bytes>" · height, width in px · channels: 1 or 3 (RGB) · dtype: uint8, uint16, float32 ·
    white: grey level of white · pixel_size: micrometres per px or None · content: rows that are image; what lies below
    is the info bar · page, pages · sha256 of the file's bytes (None for an array) · notes: what the user should know.
    Use one picture in one thread at a time.
    """

    name: str
    height: int
    width: int
    channels: int
    dtype: np.dtype
    white: float
    pixel_size: float | None
    content: int
    page: int
    pages: int
    sha256: str | None
    notes: tuple[str, ...]
    _fetch: Callable[[int, int], np.ndarray] | None = field(repr=False)
    _file: IO[bytes] | None = field(default=None, repr=False)
    _path: Path | None = field(default=None, repr=False)
    _stamp: tuple[int, int] | None = field(default=None, repr=False)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Rows top..bottom (0 <= top < bottom <= height) as (bottom - top, width, channels), not to be written to.

        ImageError where the file's data are damaged, hold a level above white, or (float) are not finite.
        """
        if not 0 <= top < bottom <= self.height:
            raise ValueError(f"{self.name}: rows {top} to {bottom} are not within 0 to {self.height}")
        if self._fetch is None:
            raise ValueError(f"{self.name}: the picture is closed")
        with named(self.name):
            part = self._fetch(top, bottom)
            if self.dtype.kind == "f":
                if not np.isfinite(part).all():
                    raise ImageError(f"rows {top} to {bottom} hold pixels that are not finite: replace them")
            elif self.white < np.iinfo(self.dtype).max and part.max() > self.white:
                raise ImageError(
                    f"a pixel of {part.max()} lies above white = {self.white:g}: give other bits= or white="
                )
        return part

    @property
    def pixels(self) -> int:
        """How many pixels are image."""
        return self.content * self.width

    @property
    def in_memory(self) -> bool:
        """Do all pixels lie in memory, so that `rows` costs nothing?"""
        return self._fetch is not None and self._file is None

    def changed(self) -> bool:
        """Is the file on the disk another one (size, time, or gone) than the one that was opened?"""
        if self._path is None:
            return False
        try:
            return _stamp(os.stat(self._path)) != self._stamp
        except OSError:
            return True

    def close(self) -> None:
        self._fetch = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Picture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_image(
    source: str | os.PathLike[str] | bytes | np.ndarray,
    *,
    page: int = 0,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    max_pixels: int = 2**32,
    name: str | None = None,
) -> Picture:
    """Opens a file, the bytes of one, or an array (height, width[, 1 | 3, and alpha]) of uint8, uint16 or float.

    page: of a TIFF, from 0. info_bar: rows at the bottom that are no image; "auto" takes them from FEI or Zeiss
    metadata, else looks for them. bits: significant bits (12 in a 16-bit file: white is 4095). white: the level of
    white, needed for float. max_pixels: refuse more. name: what errors call the image. Raises only ImageError for
    whatever is wrong with it; PNG, JPEG and BMP are decoded here (at most 2 GiB), a TIFF as its rows are asked for.
    """
    if isinstance(source, np.ndarray):
        label = name or "<array>"
    elif isinstance(source, bytes):
        label = name or "<bytes>"
    else:
        label = name or os.fspath(source)
    with named(label):
        if isinstance(source, np.ndarray):
            picture = _whole(label, source, bits, white, page, ())
        else:
            picture = _open_file(label, source, page, bits, white, max_pixels)
        try:
            picture.content -= _bar_rows(picture, info_bar)
        except BaseException:
            picture.close()
            raise
    return picture


def find_images(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The image files (by suffix, in any case) in `folder`, sorted by their path relative to it.

    Hidden files and folders are left out, and with them the temporary files of this project. Links to folders are not
    followed; a link to a file that is listed already, by its own name or by another link, is left out.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{root} is not a folder: give the folder that holds the images")
    found: list[Path] = []
    for where, folders, files in os.walk(root, onerror=_cannot_list):
        folders[:] = [one for one in folders if recursive and not one.startswith(".")]
        found += [Path(where, one) for one in files if not one.startswith(".")]
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    images.sort(key=lambda path: (path.is_symlink(), path.relative_to(root).as_posix()))  # files before links to them
    first: dict[str, Path] = {}
    for path in images:
        first.setdefault(os.path.realpath(path), path)
    return sorted(first.values(), key=lambda path: path.relative_to(root).as_posix())


def _cannot_list(error: OSError) -> None:
    raise ImageError(f"{error.filename}: the folder cannot be listed ({error.strerror}): check its rights") from error


@contextmanager
def named(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageError that begins with the image's name."""
    try:
        yield
    except ImageError as error:
        text = str(error)
        raise ImageError(text if text.startswith(f"{name}: ") else f"{name}: {text}") from error.__cause__
    except MemoryError as error:
        raise ImageError(f"{name}: too little memory to decode it: save it as a tiled TIFF") from error
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be read ({error.strerror or error}): check the path and its rights"
        ) from error
    except Exception as error:  # decoders of damaged data raise anything, and all of it means one thing
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ImageError(f"{name}: cannot be decoded ({reason}): {decoding.AGAIN}") from error


def _stamp(info: os.stat_result) -> tuple[int, int]:
    return info.st_size, info.st_mtime_ns


def _open_file(
    label: str,
    source: str | os.PathLike[str] | bytes,
    page: int,
    bits: int | None,
    white: float | None,
    max_pixels: int,
) -> Picture:
    path = None if isinstance(source, bytes) else Path(source)
    if path is not None and not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("is not a regular file: give an image file")
    file: io.BytesIO | io.BufferedReader = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115 (a TIFF stays open)
    try:
        stamp = None if path is None else _stamp(os.fstat(file.fileno()))
        head = file.read(8)
        if not head:
            raise ImageError("is empty (0 bytes): copy or export the file again")
        if head[:4] in tiff.MAGIC:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            picture = tiff_picture(label, tiff.TiffImage(file, page, max_pixels), page, bits, white)
            picture._file = file
        else:
            if not head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")):
                raise ImageError(f"begins with {head!r} and is no TIFF, PNG, JPEG or BMP: convert it to one of them")
            if file.seek(0, 2) > decoding.WHOLE_LIMIT:
                raise ImageError(f"has {file.tell()} bytes, too many to decode in one piece: save it as a tiled TIFF")
            file.seek(0)
            data = file.read()
            file.close()
            digest = hashlib.sha256(data).hexdigest()
            array, stored_bits, notes = decoding.decode(data, max_pixels)
            fewer = stored_bits if stored_bits < 8 * array.dtype.itemsize else None
            picture = _whole(label, array, bits or fewer, white, page, notes)
    except BaseException:
        file.close()
        raise
    picture.sha256, picture._path, picture._stamp = digest, path, stamp
    return picture


def _white(dtype: np.dtype, bits: int | None, white: float | None) -> float:
    if white is None:
        return white_of(dtype, bits)
    if not (np.isfinite(white) and white > 0):
        raise ImageError(f"white={white} is no grey level: give a number above 0")
    return float(white)


def _whole(
    label: str, array: np.ndarray, bits: int | None, white: float | None, page: int, notes: tuple[str, ...]
) -> Picture:
    """A picture of an array that lies in memory."""
    if page != 0:
        raise ImageError(f"page {page} was asked for, but only a TIFF has pages: give page=0")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or array.size == 0:
        raise ImageError(
            f"an array of shape {array.shape} is no image: give (height, width) or (height, width, 1 or 3)"
        )
    if array.shape[2] in (2, 4):
        array, notes = array[..., :-1], (*notes, "alpha channel dropped")
    if array.dtype.kind == "b":
        array, notes = array.astype(np.uint8) * np.uint8(255), (*notes, "1-bit pixels expanded to 8 bit")
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32: rows() refuses what is infinite
            array = array.astype(np.float32, copy=False)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    level = _white(array.dtype, bits, white)
    if array.dtype.kind != "f":
        white_of(array.dtype)  # refuses signed and wide integers, whatever white was given
    height, width, channels = array.shape

    def fetch(top: int, bottom: int) -> np.ndarray:
        return array[top:bottom]

    return Picture(label, height, width, channels, array.dtype, level, None, height, 0, 1, None, notes, fetch)


def tiff_picture(label: str, image: tiff.TiffImage, page: int, bits: int | None, white: float | None) -> Picture:
    level = _white(image.dtype, bits or image.bits, white)
    picture = Picture(
        name=label,
        height=image.height,
        width=image.width,
        channels=image.channels,
        dtype=image.dtype,
        white=level,
        pixel_size=image.pixel_size,
        content=image.height,
        page=page,
        pages=image.pages,
        sha256=None,
        notes=image.notes,
        _fetch=image.rows,
    )
    if image.bar is not None:
        picture.content -= image.bar
    return picture


def _bar_rows(picture: Picture, info_bar: Literal["auto"] | int) -> int:
    """Rows to take off `content`, which metadata may have lowered already."""
    by_metadata = picture.height - picture.content
    if info_bar == "auto":
        looked_at = min(int(picture.height * sem.LOOKED_AT), _BAR_ROWS)
        if by_metadata or looked_at < 1:
            return 0
        seen = sem.find_bar(picture.rows(picture.height - looked_at, picture.height))
        if seen:  # a guess, however safe: whoever reads the result must be able to see it
            picture.notes += (f"the lowest {seen} rows look like an info bar and are left out",)
        return seen
    if not 0 <= info_bar < picture.height:
        raise ImageError(f"info_bar={info_bar} leaves no row of an image {picture.height} px high: give fewer rows")
    return info_bar - by_metadata
