"""What a run was asked for, and where it computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from anomalib_gan import augmenting, checkpoint
from anomalib_gan.export import usable
from anomalib_gan.model import Model
from anomalib_gan.runtime.card import CARD
from anomalib_gan.runtime.files import read_json

MINUTES = 18.0
JITTER = 0.1
ZOOM = 0.0


@dataclass(frozen=True)
class Settings:
    """What the user chose, as the card keeps it; a run that is resumed goes on with those it began with.

    The length is `steps`, or else what fits into `minutes`, one of which is None. `info_bar`, `bits` and `white` are
    those of `open_image`, `params` keywords of the model's constructor. `init_from` is the run whose weights the
    training begins with, `reviewed` what `starting.Reviewed` holds, `to` the folder of what a translator's images are
    to become. `augment_with` is the run that feeds the training, a share of each batch, `compare_with` one to hold it
    against, `defects` a folder of images with defects and masks: see `augmenting`. ValueError for lengths that cannot
    be.
    """

    model: str
    params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    minutes: float | None = MINUTES
    steps: int | None = None
    device: str = "auto"
    threads: int | None = None
    info_bar: Literal["auto"] | int = "auto"
    bits: int | None = None
    white: float | None = None
    flips: bool = True
    jitter: float = JITTER
    zoom: float = ZOOM
    init_from: str | None = None
    reviewed: dict[str, Any] | None = None
    to: str | None = None
    augment_with: str | None = None
    augment_share: float = augmenting.SHARE
    compare_with: str | None = None
    defects: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"{self.steps} steps are not possible: give at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"{self.minutes} minutes are not possible: give more than 0")
        if not 0 <= self.zoom <= 1:
            raise ValueError(f"a zoom of {self.zoom} is not possible: give 0 to 1")

    def threaded(self) -> Settings:
        """These, with the number of threads that torch computes with from now on: that asked for, or its own."""
        if self.threads:
            torch.set_num_threads(self.threads)
        return replace(self, threads=torch.get_num_threads())

    def for_run(self, run: Path, *, resume: bool, dry_run: bool) -> Settings | None:
        """These, or of an interrupted run that is resumed its own; None where that is finished.

        FileExistsError where `run` is a file, or holds a run that is to be neither resumed nor only looked at.
        """
        if (run / CARD).exists() or (run / checkpoint.NAME).exists():
            if resume:
                card, known = read_json(run / CARD), {one.name for one in fields(self)}
                stored = {name: value for name, value in card["settings"].items() if name in known}
                return Settings(**stored) if card["duration_s"] is None else None
            if not dry_run:
                raise FileExistsError(f"{run} holds a run already: continue it with --resume, or choose another --out")
        elif run.exists() and not run.is_dir():
            raise FileExistsError(f"{run} is a file: choose another --out")
        return self


@dataclass(frozen=True)
class Place:
    """Where this process computes, and its number among how many."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def told(self, settings: Settings, net: Model) -> dict[str, Any]:
        """The settings as the card keeps them, with what came of them here."""
        return {**asdict(settings), "batch": net.batch * self.world, "processes": self.world}


@contextmanager
def processes(device: str) -> Iterator[Place]:
    """The device; under torchrun this process also joins the others."""
    kind = usable(device)
    if kind.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True  # patches have one size
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Place(torch.device(kind))
        return
    if kind == "cuda":
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(kind)
    dist.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield Place(torch.device(kind), dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
