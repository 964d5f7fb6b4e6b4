"""The only way from what a person chose to a file: a path within a configured folder, reached without leaving it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from anomalib_gan.runtime.bundle import MANIFEST
from anomalib_gan.runtime.files import short

LISTED = 10_000
"""Images of a folder that are offered; more would not be found in a list anyway."""


class RefusedPathError(ValueError):
    """A path that leads out of the configured folders, or to nothing in them."""


def resolve(root: str | os.PathLike[str], relative: str) -> Path:
    """The existing file or folder `relative`, with slashes, below the configured folder `root`.

    RefusedPathError for whatever is absolute, names a drive, holds `..`, `.`, a backslash or what is not printable, and
    where a link on the way leads out of `root`. Links that stay within are followed.
    """
    parts = relative.split("/")
    plain = (
        not PurePosixPath(relative).is_absolute()
        and not PureWindowsPath(relative).anchor
        and all(part not in ("", ".", "..") for part in parts)
        and all(part.isprintable() for part in parts)
        and "\\" not in relative
        and (os.name != "nt" or ":" not in relative)  # which names another stream of a file there
    )
    if not plain:
        raise RefusedPathError(f"{short(relative)} is no path within a configured folder")
    home = Path(root).resolve()
    try:
        found = home.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:  # missing, a loop of links, or a name no system has
        raise RefusedPathError(f"{short(relative)} is not in {home}: it may have been moved away") from error
    if not found.is_relative_to(home):
        raise RefusedPathError(f"{short(relative)} is a link that leads out of {home}")
    return found


def locate(roots: Iterable[str | os.PathLike[str]], path: Path) -> Path:
    """The existing file with the absolute path `path`, where one of the configured folders holds it, by `resolve`."""
    for root in roots:
        home = Path(root).resolve()
        if path.is_relative_to(home):
            return resolve(home, path.relative_to(home).as_posix())
    raise RefusedPathError(f"{path} lies in none of the configured folders: start with `--images {path.parent}`")


def bundles(roots: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """The bundles right below the folders, or these folders themselves, by the name to show."""
    found: dict[str, Path] = {}
    for root in map(Path, roots):
        inside = [root] if _is_bundle(root) else sorted(path for path in root.iterdir() if _is_bundle(path))
        for path in inside:
            if path.name.startswith("."):
                continue
            path = path if path == root else resolve(root, path.name)
            name = path.name.removesuffix(".bundle") or path.name
            found[name if name not in found else f"{name} ({path.parent})"] = path
    return found


def _is_bundle(path: Path) -> bool:
    return path.is_dir() and (path / MANIFEST).is_file()


def images(root: str | os.PathLike[str]) -> list[str]:
    """The images below a folder, as paths for `resolve`; at most LISTED of them, sorted."""
    from anomalib_gan.runtime.image import find_images

    return [path.relative_to(root).as_posix() for path in find_images(root)][:LISTED]
