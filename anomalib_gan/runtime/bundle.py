"""A trained detector as a folder that any production line can embed: graphs, card and manifest, written atomically and
read with distrust.

    detector.bundle/
        manifest.json    what the detector is, its thresholds, and size and SHA-256 of every other file
        model.onnx       image (N, C, H, W) raw grey levels, white -> anomaly_map (N, 1, H, W)
        parts.onnx       the same inputs -> reconstruction, code, and each component of the map
        generator.onnx   z (N, code, h, w) -> image (N, C, H, W) in [0, 1]
        prior.onnx       z, white noise -> code, what the generator draws images like normal ones from; without it, z
        types.onnx       what is known of defects -> probabilities of their types; with types.json, see `naming`
        card/            how it was trained

Files that the manifest does not list are never read: systems leave files of their own in folders. Those that it lists
must be there, regular, inside the folder without links, and have its size and SHA-256. A hash inside the folder proves
that nothing was damaged, not who wrote it: for that, keep `fingerprint` elsewhere and hand it to `load`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import short, write_bytes
from anomalib_gan.runtime.manifest import (
    GENERATOR,
    HEAD,
    MANIFEST,
    MANIFEST_BYTES,
    MODEL,
    PARTS,
    PRIOR,
    SCHEMA,
    TYPES,
    BundleError,
    File,
    Manifest,
    Precision,
    cap,
    check_path,
    decode,
    encode,
    fingerprint,
)

__all__ = [
    "GENERATOR",
    "HEAD",
    "MANIFEST",
    "MODEL",
    "PARTS",
    "PRIOR",
    "SCHEMA",
    "TYPES",
    "Bundle",
    "BundleError",
    "File",
    "Manifest",
    "Precision",
    "attach",
    "check_target",
    "fingerprint",
    "load",
    "read_manifest",
    "recalibrate",
    "write",
]


# --- the folder ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are what its manifest says; `model` are the verified bytes of model.onnx."""

    path: Path
    manifest: Manifest
    model: bytes = field(repr=False)

    def read(self, name: str) -> bytes:
        """The bytes of another listed file, verified now; a KeyError where there is none of that name."""
        return _verified(self.path, name, self.manifest.files[name], keep=True)


def load(path: str | os.PathLike[str], expect_sha256: str | None = None) -> Bundle:
    """The bundle in a folder, with size and SHA-256 of every listed file checked; a BundleError says what is wrong.

    `expect_sha256`: the `fingerprint` that the bundle must have, from whoever made it. The graph is not looked into:
    `check_graph` does that.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if expect_sha256 is not None and (found := fingerprint(manifest)) != expect_sha256.strip().lower():
        raise BundleError(
            f"{folder} has the fingerprint {found}, not the expected {short(expect_sha256)}: do not use it"
        )
    for name, file in manifest.files.items():
        if name != MODEL:
            _verified(folder, name, file, keep=False)
    return Bundle(folder, manifest, _verified(folder, MODEL, manifest.files[MODEL], keep=True))


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What the bundle's manifest says; no other file is looked at."""
    folder = Path(path)
    if not folder.is_dir() or not os.path.lexists(folder / MANIFEST):
        raise BundleError(f"{folder} is no bundle: it holds no {MANIFEST}")
    data = b"".join(_pieces(folder, MANIFEST, MANIFEST_BYTES))
    try:
        return decode(data)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def check_target(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """FileExistsError where `write` would not put a bundle."""
    if os.path.lexists(path):
        if not overwrite:
            raise FileExistsError(f"{path} exists: choose another place, or replace the bundle there")
        if not (Path(path) / MANIFEST).is_file():
            raise FileExistsError(f"{path} exists and is no bundle, so it is not replaced: choose another place")


def write(
    path: str | os.PathLike[str],
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    overwrite: bool = False,
) -> Manifest:
    """Writes a bundle that appears whole or not at all; returns the manifest with its `files` filled in.

    `files`: contents, or where they lie, by path within the bundle; model.onnx is one. An existing target is a
    FileExistsError; with `overwrite` a bundle is replaced, behind a link too, and nothing else ever. A crash in the
    moment of replacing leaves the old bundle under a temporary name beside the target.
    """
    check_target(path, overwrite)
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.parent / f".tmp-{uuid.uuid4().hex}.bundle"
    scratch.mkdir()
    try:
        listed = {}
        for name, content in files.items():
            check_path(name)
            listed[name] = _store(scratch / name, content, name)
        complete = replace(manifest, files=listed)
        _store(scratch / MANIFEST, encode(complete), MANIFEST)
        for folder, _, _ in os.walk(scratch):
            _flush_folder(folder)
        _place(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _flush_folder(target.parent)
    return complete


def recalibrate(path: str | os.PathLike[str], calibration: Calibration) -> Manifest:
    """Replaces the thresholds of a bundle; only its manifest is written anew, atomically."""
    manifest = replace(read_manifest(path), calibration=calibration)
    write_bytes(Path(path) / MANIFEST, encode(manifest))
    return manifest


def attach(path: str | os.PathLike[str], files: Mapping[str, bytes | None]) -> Manifest:
    """Puts files beside the detector, in the place of older ones of these names, or takes them away (None).

    It changes the fingerprint. While files are exchanged the manifest lists none of them: killed at any moment, the
    bundle still loads, with the old files, without any or with the new ones. Only who reads the bundle in that very
    moment may have to read it again. The detector itself is not for this.
    """
    folder, before = Path(path), read_manifest(path)
    given = {name: data for name, data in files.items() if data is not None}
    listed = {name: File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in given.items()}
    bare = replace(before, files={name: file for name, file in before.files.items() if name not in files})
    after = replace(bare, files={**bare.files, **listed})
    steps = [(one, encode(one)) for one in (bare, after)]  # what cannot be written is refused before anything is
    if bare != before:
        write_bytes(folder / MANIFEST, steps[0][1])
    for name in files:
        if name in given:
            write_bytes(folder / name, given[name])
        else:
            (folder / name).unlink(missing_ok=True)
    if after != bare:
        write_bytes(folder / MANIFEST, steps[1][1])
    return after


def _store(path: Path, content: bytes | Path, name: str) -> File:
    """Writes one file of a new bundle, down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for piece in _contents(content):
            digest.update(piece)
            size += len(piece)
            if size > cap(name):
                raise BundleError(f"{name} has more than {cap(name)} bytes, too much for a bundle")
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return File(digest.hexdigest(), size)


def _contents(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with open(content, "rb") as file:
        while piece := file.read(2**20):
            yield piece


def _place(scratch: Path, target: Path) -> None:
    """Gives the finished folder its name; a bundle that has it is put aside first, for folders cannot be replaced."""
    if not os.path.lexists(target):
        os.rename(scratch, target)
        return
    aside = target.parent / f".tmp-{uuid.uuid4().hex}.old.bundle"
    os.rename(target, aside)
    try:
        os.rename(scratch, target)
    except BaseException:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush_folder(path: str | os.PathLike[str]) -> None:
    """Makes the names in a folder last through a power cut; Windows opens no folders and needs none of it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _verified(folder: Path, name: str, file: File, keep: bool) -> bytes:
    """The bytes of a listed file, or none of them where they are not to be kept, after a look at all of them."""
    digest, size, kept = hashlib.sha256(), 0, []
    for piece in _pieces(folder, name, file.bytes):
        digest.update(piece)
        size += len(piece)
        if keep:
            kept.append(piece)
    if size != file.bytes:
        raise BundleError(f"{folder}: {name} has {size} bytes instead of {file.bytes}: copy the bundle again")
    if digest.hexdigest() != file.sha256:
        raise BundleError(f"{folder}: {name} is damaged (its SHA-256 is not the manifest's): copy the bundle again")
    return b"".join(kept)


JUNCTION = 0xA0000003  # Windows' links between folders


def _pieces(folder: Path, name: str, most: int) -> Iterator[bytes]:
    """The contents of a regular file inside the folder, reached without links, of at most `most` bytes."""
    path = folder
    try:
        for part in name.split("/"):
            path = path / part
            info = os.lstat(path)
            if stat.S_ISLNK(info.st_mode) or getattr(info, "st_reparse_tag", None) == JUNCTION:
                raise BundleError(f"{folder}: {name} is reached through a link: copy the bundle with its files")
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait, and some devices act when they are opened
            raise BundleError(f"{folder}: {name} is no regular file")
        if info.st_size > most:
            raise BundleError(f"{folder}: {name} has {info.st_size} bytes instead of at most {most}")
        with open(path, "rb", opener=_open_no_link) as file:
            size = 0
            while piece := file.read(2**20):
                size += len(piece)
                if size > most:
                    raise BundleError(f"{folder}: {name} grew while it was read")
                yield piece
    except FileNotFoundError as error:
        raise BundleError(f"{folder}: {name} is missing: copy the bundle again") from error
    except OSError as error:
        raise BundleError(f"{folder}: {name} cannot be read ({error.strerror or error})") from error


def _open_no_link(path: str, flags: int) -> int:
    """Nor anything that waits, should the file have been exchanged in the last moment; Windows knows neither flag."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
