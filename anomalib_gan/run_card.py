"""What a run's card says of its data, its settings and the machine, as the training begins."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision  # type: ignore[import-untyped]

from anomalib_gan import __version__
from anomalib_gan.data import Normal, fingerprint, pixel_size
from anomalib_gan.machine import processor, processors
from anomalib_gan.model import Spec


def begun(
    run: Path, spec: Spec, settings: Mapping[str, Any], device: torch.device, *, started: str, **more: Any
) -> dict[str, Any]:
    """The card of a training that `started` at this time. The checkpoint holds it too, and takes plain values only."""
    card = {
        "name": run.name,
        "spec": asdict(spec),
        "settings": settings,
        "versions": {
            **{"anomalib_gan": __version__, "python": platform.python_version(), "numpy": np.__version__},
            **{"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
        },
        "machine": machine(device),
        "started": started,
        "duration_s": None,
        **more,
    }
    return json.loads(json.dumps(card, allow_nan=False))


def described(folder: Path, images: Sequence[Normal], kinds: Sequence[str] | None = None) -> dict[str, Any]:
    """What it says of a folder of images, and of their classes where they have some."""
    told: list[dict[str, Any]] = [
        {"path": str(i.path.absolute()), "sha256": i.sha256, "height": i.grey.shape[-2], "width": i.grey.shape[-1]}
        | ({"depth": i.grey.shape[1]} if i.grey.dim() == 4 else {})  # of stacks
        for i in images
    ]
    if kinds:
        told = [{**one, "class": kind} for one, kind in zip(told, kinds, strict=True)]
    return {
        **{"folder": str(folder.absolute()), "images": told},
        **{"fingerprint": fingerprint(images, kinds)},
        **({"classes": dict(Counter(kinds))} if kinds else {}),
        **{"pixel_size": pixel_size(images), "channels": images[0].grey.shape[0], "white": images[0].white},
    }


def folders(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What it says of the folder that was trained on and, of a translator, of what its images are to become."""
    return [card["data"], *([card["data"]["to"]] if "to" in card["data"] else [])]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures of the card were reached on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"system": platform.platform(), "processor": processor(), "cores": processors(), "gpu": gpu}
