"""A run's checkpoint: one plain dict in one file, written atomically and read without running any code from it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomalib_gan import models
from anomalib_gan.model import Model
from anomalib_gan.runtime.files import atomic_write

NAME = "checkpoint.pt"
SCHEMA = "anomalib_gan/checkpoint/1"
REQUIRED = ("spec", "step", "steps", "seed", "drawn", "model", "ema", "optimisers", "settled", "map_scale", "card")


class CheckpointError(ValueError):
    """A file that is no checkpoint of this project, is damaged, or was written by another version."""


def save(path: str | os.PathLike[str], checkpoint: dict[str, Any]) -> None:
    """Writes the checkpoint atomically: a kill leaves the old file or the new one.

    `checkpoint` is `Trainer.state_dict()` (step, steps, seed, drawn, seconds, model, ema, optimisers by player name)
    and spec {name, params}; settled: the finished model's weights, None until training has ended; map_scale: [low,
    high] of the map on normal images, None until then; card: what card.json says; and anything made of plain values.
    """
    with atomic_write(path) as file:
        torch.save({"schema": SCHEMA, **checkpoint}, file)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> dict[str, Any]:
    """The checkpoint in a file or in a run's folder; a CheckpointError says what is wrong with it."""
    file = Path(path)
    file = file / NAME if file.is_dir() else file
    if not file.exists():
        raise CheckpointError(f"{file} does not exist: train a model first (anomalib-gan train)")
    with open(file, "rb") as stream:
        if stream.read(2) != b"PK":  # torch.save writes a zip; older formats and anything else are not ours
            raise CheckpointError(f"{file} is no checkpoint, or is truncated: give the run's {NAME}, or train again")
    try:
        checkpoint = torch.load(file, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file} holds more than plain values, so it was not read: train again") from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} is no checkpoint, or is truncated ({reason}): restore it or train again"
        ) from error
    if not isinstance(checkpoint, dict) or "schema" not in checkpoint:
        raise CheckpointError(f"{file} is a torch file but no checkpoint of anomalib_gan: give the run's {NAME}")
    if checkpoint["schema"] != SCHEMA:
        raise CheckpointError(
            f"{file} has the schema {checkpoint['schema']!r}, this version reads {SCHEMA!r}: "
            "use the version that wrote it"
        )
    if missing := [key for key in REQUIRED if key not in checkpoint]:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}: train again")
    return checkpoint


def load_model(
    run: str | os.PathLike[str], device: str | torch.device = "cpu", *, known: str | None = None, mapped: bool = True
) -> tuple[Model, dict[str, Any]]:
    """The finished model of a run (averaged weights, settled, eval mode, on `device`) and its checkpoint.

    `known`: of a model with classes, the one that all images are of; ValueError where it has none of that name. The
    checkpoint's `hash` is then the SHA-256 of exactly this model, and so another with another `known`. A model without
    a map is a ValueError, unless `mapped` is False.
    """
    checkpoint = load(run, device)
    if checkpoint["settled"] is None:
        raise CheckpointError(
            f"the training in {run} stopped at step {checkpoint['step']} of {checkpoint['steps']}: "
            "finish it with anomalib-gan train --resume"
        )
    if known is not None:
        spec = checkpoint["spec"]
        if not spec["params"].get("classes"):
            raise ValueError(f"{run} is a run of {spec['name']}, which knows no classes: leave --class {known} out")
        checkpoint["spec"] = {**spec, "params": {**spec["params"], "known": known}}
    model = models.build(checkpoint["spec"]["name"], **checkpoint["spec"]["params"]).to(device)
    if mapped and model.mapped is not True:
        raise ValueError(f"the {checkpoint['spec']['name']} in {run} is no detector: {model.mapped}")
    model.load_state_dict(checkpoint["settled"])
    checkpoint["hash"] = model_hash(checkpoint["spec"], checkpoint["settled"])
    return model.eval().requires_grad_(False), checkpoint


def model_hash(spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the spec and over names, types, shapes and bytes of the weights, whatever device they lie on.

    The same weights with another parameter, such as the share of the critic in the map, are another detector.
    """
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
