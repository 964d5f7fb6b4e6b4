"""Writes that a kill, a full disk or a crash cannot leave half done."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Yields a file that becomes `path` only when the block ends well.

    The bytes go to a temporary file beside the target, are flushed to the disk and renamed over it, so a reader sees
    the old file or the new one and never a part. When the block raises, the temporary file is removed and `path` is
    untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    name = target.parent / f".tmp-{uuid.uuid4().hex}.part"
    try:
        with open(name, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinity are refused, for other languages cannot read
    them.
    """
    write_bytes(path, json_text(value))


def json_text(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON value in `path`; a ValueError names the file that is not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes in hex, read in pieces so that its size does not matter."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def short(value: Any) -> str:
    """A value from a file as it stands in an error, which shall be one line, however large the value is."""
    return _REPR.repr(value)
