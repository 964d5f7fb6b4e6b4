"""Are a trained model's networks worth more than untrained ones to who names defects with few labels?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib_gan.transfer import Row


def transfer(
    run: str | os.PathLike[str],
    labelled: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    labels: Sequence[int] | None = None,
    repeats: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> list[Row]:
    """What `anomalib_gan.transfer.compare` finds for a run and class folders of crops: out/transfer.md and .json."""
    import torch

    from anomalib_gan import checkpoint, models, terminal
    from anomalib_gan.runtime.card import levels, read_card
    from anomalib_gan.runtime.files import write_bytes, write_json
    from anomalib_gan.transfer import COUNTS, REPEATS, STEPS, compare, markdown, read_crops, to_json

    if threads:
        torch.set_num_threads(threads)
    model, stored = checkpoint.load_model(run)
    if model.dim != 2:
        raise ValueError(f"{run} holds a model of volumes, and crops are images: give a run of a model of images")
    spec, card = stored["spec"], read_card(run)
    bits, white = levels(card, None, None, tell=terminal.note)

    def fresh(seed: int) -> models.Model:
        torch.manual_seed(seed)
        return models.build(spec["name"], **spec["params"])

    crops = read_crops(labelled, model, bits=bits, white=white)
    given: dict[str, Any] = {
        "counts": sorted(set(labels or COUNTS)),
        "repeats": repeats or REPEATS,
        "steps": steps or STEPS,
    }
    flips = bool(card.get("settings", {}).get("flips", True))
    rows = compare(
        model, fresh, crops, **given, seed=seed, flips=flips, progress=lambda draws: terminal.track(draws, what="draws")
    )  # fmt: skip
    about = {"run": str(Path(run).absolute()), "model": spec, "hash": stored["hash"], "trained_steps": stored["steps"]}
    write_json(Path(out) / "transfer.json", {**about, "settings": {**given, "seed": seed}, **to_json(rows, crops)})
    write_bytes(Path(out) / "transfer.md", markdown(rows, crops).encode())
    return rows
