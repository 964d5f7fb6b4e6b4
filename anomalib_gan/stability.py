"""Many short trainings with settings and materials drawn at random: does any end in a value that is not finite?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan.data import Crops
from anomalib_gan.models import build
from anomalib_gan.training import Trainer, derive_seed

ROUNDS = 4
SIDE = 128  # px, of the images


def stripes(rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return 0.5 + 0.4 * np.sin((rows + rng.uniform(-1, 1) * columns) / rng.uniform(1, 9))


MATERIALS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "stripes": stripes,
    "noise": lambda rng: rng.uniform(0, 1, (SIDE, SIDE)),
    "one level": lambda rng: np.full((SIDE, SIDE), rng.uniform(0, 1)),
    "black": lambda rng: np.zeros((SIDE, SIDE)),
    "white": lambda rng: np.ones((SIDE, SIDE)),
    "hardly any contrast": lambda rng: 0.3 + 0.004 * rng.standard_normal((SIDE, SIDE)),
    "black and white": lambda rng: (stripes(rng) > 0.5).astype(float),
    "a few hot pixels": lambda rng: (rng.uniform(0, 1, (SIDE, SIDE)) > 0.999).astype(float),
}


@dataclass(frozen=True)
class Short:
    """One short training: what was drawn, and what went wrong, None where nothing did."""

    material: str
    params: dict[str, Any]
    trouble: str | None


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    """Keywords of the detector, over more than anybody would choose."""
    shrink = int(rng.choice([1, 2, 4]))
    return {
        "channels": int(rng.choice([1, 3])),
        "code": int(rng.choice([1, 4, 16])),
        "width": int(rng.choice([4, 8, 12])),
        "patch": 16 * shrink * int(rng.integers(1, 4)) if shrink < 4 else 64,
        "shrink": shrink,
        "alpha": None if rng.uniform() < 0.5 else float(rng.uniform(0, 1)),
        "likelihood": float(rng.choice([0.0, 0.1, 1.0])),
        "smoothing": None if rng.uniform() < 0.5 else float(rng.choice([0.0, 1.0, 8.0])),
        "adversarial": float(rng.choice([0.0, 0.5, 5.0])),
        "turned": bool(rng.integers(2)),
        "norm": str(rng.choice(["ssim", "l1", "l2"])),
        "negatives": float(rng.choice([0.0, 1.0, 10.0])),
    }


def short_runs(count: int, seed: int = 0) -> Iterator[Short]:
    """`count` trainings of ROUNDS rounds each, settled and mapped; every one depends on (seed, its number) alone."""
    for number in range(count):
        rng = np.random.default_rng(derive_seed(seed, number))
        material, params = str(rng.choice(list(MATERIALS))), drawn(rng)
        trouble = None
        try:
            found = trained(material, params, rng)
            if not bool(torch.isfinite(found).all()):
                trouble = "the map is not finite"
        except (FloatingPointError, torch.linalg.LinAlgError, ValueError) as error:
            trouble = f"{type(error).__name__}: {error}"
        yield Short(material, params, trouble)


def trained(material: str, params: dict[str, Any], rng: np.random.Generator) -> Tensor:
    """The map of the material after a short training on it."""
    images = [torch.from_numpy(MATERIALS[material](rng)).float()[None] for _ in range(3)]
    torch.manual_seed(int(rng.integers(2**31)))
    model = build("fcbigan", **params)
    model.lr = float(rng.choice([2e-4, 2e-3, 1e-2]))  # type: ignore[assignment]
    crops = Crops(images, model.patch, model.batch, channels=model.channels)
    trainer = Trainer(model, crops, ROUNDS, seed=int(rng.integers(2**31)))
    for _ in trainer:
        pass  # the trainer raises where a value is not finite
    normals = [(2 * image - 1).expand(model.channels, -1, -1)[None] for image in images]
    with torch.no_grad():
        return trainer.finish(normals).anomaly_map(normals[0])
