"""What a bundle tells of its detector: card, evaluations, pictures. Each file is verified when it is read.

It was written elsewhere, so any entry may be missing or be of another kind than here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from anomalib_gan.runtime.bundle import Bundle, BundleError
from anomalib_gan.runtime.image import open_image
from dashboard.text import plain
from dashboard.viewer import Bytes

CARD = "card/card.json"
PIXELS = 32 * 2**20
"""Of a picture that is shown."""
CELL = 300
"""Characters of a cell; what follows is cut off."""
NOTHING = "\N{EN DASH}"


def document(found: Bundle, name: str) -> dict[str, Any]:
    """The JSON object in a file of the bundle, empty where there is no such file; BundleError where it is none."""
    if name not in found.manifest.files:
        return {}
    try:
        value = json.loads(found.read(name))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{found.path}: {name} is not valid JSON ({error}): export it again") from error
    if not isinstance(value, dict):
        raise BundleError(f"{found.path}: {name} is no JSON object: export it again")
    return value


def evaluations(found: Bundle) -> list[str]:
    """The data sets that the detector was evaluated on, as their folders in the card are called."""
    parts = [name.split("/") for name in found.manifest.files]
    return sorted(part[2] for part in parts if part[:2] == ["card", "evaluation"] and part[3:] == ["evaluation.json"])


def picture(found: Bundle, name: str) -> Bytes:
    """A picture of the bundle, (height, width[, 3]); ImageError where it cannot be shown, KeyError without one."""
    with open_image(found.read(name), name=name, info_bar=0, max_pixels=PIXELS) as opened:
        pixels = opened.rows(0, opened.height)
        return np.asarray(np.rint(pixels * np.float32(255 / opened.white)), np.uint8).squeeze()


def entry(value: Any, *names: str) -> Any:
    """What stands in an object below these names; None where nothing does.

    >>> entry({"data": {"white": 255}}, "data", "white"), entry({"data": 3}, "data", "white")
    (255, None)
    """
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def items(value: Any, *names: str) -> list[Any]:
    """The list there, empty where there is none."""
    found = entry(value, *names)
    return found if isinstance(found, list) else []


def number(value: Any) -> float | None:
    """The number there, if it is one that floats can hold."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        return None


def told(value: Any) -> str:
    """A value of a card for people.

    >>> told(None), told(True), told(0.123456), told({"a": [1, 2]}), told(512)
    ('–', 'yes', '0.1235', 'a 1, 2', '512')
    """
    if value is None or value in ({}, [], ""):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(told, value))
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in str(value))


def lasting(value: Any) -> str:
    """Seconds as hours, minutes and seconds."""
    length = number(value)
    return NOTHING if length is None or not 0 <= length < 1e9 else str(timedelta(seconds=round(length)))


def moment(value: Any) -> datetime | None:
    """An aware time in ISO 8601; None for whatever is none."""
    try:
        found = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Markdown of a table whose cells show exactly what they hold; the columns `right` are those of numbers."""
    rule = ["---:" if at in right else "---" for at in range(len(head))]
    cells = [[plain(one if len(one) <= CELL else f"{one[:CELL]} ...") for one in row] for row in (head, *rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:]))
