"""What a run's card tells those who look at images with its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import white_of

CARD = "card.json"


def read_card(run: str | os.PathLike[str]) -> dict[str, Any]:
    """The card in a run's folder, empty where there is none; a ValueError names a file that is no JSON object."""
    path = Path(run) / CARD
    if not path.exists():
        return {}
    card = read_json(path)
    if not isinstance(card, dict):
        raise ValueError(f"{path} is no card: restore the file, or train again")
    return card


def levels(
    card: Mapping[str, Any], bits: int | None, white: float | None, *, tell: Callable[[str], None]
) -> tuple[int | None, float | None]:
    """`bits` and `white` for `open_image`: those that are given or, where neither is, those of the training.

    They go together, for `white` overrules `bits`: one that is given sets both of the card's aside. `tell` is called
    where they come from the card, and where white is another than it was in training. ImageError for impossible bits.
    """
    if bits is None and white is None:
        trained = card.get("settings", {})
        bits, white = trained.get("bits"), trained.get("white")
        options = {"--bits": bits, "--white": white}
        if given := [f"{name} {value:g}" for name, value in options.items() if value is not None]:
            tell(f"grey levels are read as in training: {' '.join(given)}")
        return bits, white
    here, there = white_of(np.uint16, bits) if white is None else white, card.get("data", {}).get("white")
    if there not in (None, here):
        tell(f"warning: white is {here:g} here and was {there:g} in training: right only for files of another kind")
    return bits, white
