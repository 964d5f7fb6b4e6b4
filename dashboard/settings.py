"""What the command hands to the dashboard: one JSON object in an environment variable, read once per process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

VARIABLE = "ANOMALIB_GAN_DASHBOARD"


@dataclass(frozen=True)
class Settings:
    """Absolute paths, all of them as text; empty where there are none.

    db: URL or file of the results. models: folders of bundles. images: folders whose images may be looked at. cameras:
    indices, or recordings that stand in for one. users: the file of users. runs: the folder of runs, where models are
    trained.
    """

    db: str = ""
    models: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    users: str = ""
    runs: str = ""

    def to_environment(self) -> dict[str, str]:
        """What `read` finds again in another process."""
        return {VARIABLE: json.dumps(asdict(self))}


def read() -> Settings:
    """The settings of this process, all empty where it was not started by the command."""
    return _parsed(os.environ.get(VARIABLE, "{}"))


@lru_cache(1)
def _parsed(text: str) -> Settings:
    try:
        value: dict[str, Any] = json.loads(text)
        if unknown := set(value) - {field.name for field in fields(Settings)}:
            raise ValueError(f"unknown entries {sorted(unknown)}")
        entries: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in value.items()}
        return Settings(**entries)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{VARIABLE} holds no settings ({error}): start with `anomalib-gan dashboard`") from error


def folder(path: str | os.PathLike[str], option: str) -> str:
    """The absolute path of a folder that an option names; a ValueError where there is none."""
    if not Path(path).is_dir():
        raise ValueError(f"{option} {path} is no folder: give one that exists")
    return str(Path(path).resolve())
