"""Diagnose: what a trained run is beyond its maps: its codes, its critic, what it draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from anomalib_gan import checkpoint, terminal
from anomalib_gan.benchmarking import held_pixels, training_pixels
from anomalib_gan.diagnosis import diagnose
from anomalib_gan.diagnosis_page import page
from anomalib_gan.findings import Finding, markdown, to_json
from anomalib_gan.model import Model
from anomalib_gan.running import HISTORY, read_history
from anomalib_gan.runtime.calibrating import held_back
from anomalib_gan.runtime.files import write_bytes, write_json
from pipelines import options

SHEET = "samples.png"


def diagnosis(
    run: str | os.PathLike[str], *, out: str | os.PathLike[str] | None = None, threads: int | None = None
) -> list[Finding]:
    """What `diagnosis.diagnose` finds in a run: `out`/diagnosis.md, .json and .png; `out` defaults to run/diagnosis.

    ValueError: the run is not finished, or an image of its training is missing or another one now.
    """
    if threads:
        torch.set_num_threads(threads)
    run = Path(run)
    model, stored = checkpoint.load_model(run, mapped=False)
    if model.pairs:  # what follows shows it images of one kind
        raise ValueError(f"the {stored['spec']['name']} in {run} is no detector: {model.mapped}")
    held = held_pixels(run, terminal.note) if held_back(run) else []
    seen, unseen = fitting(training_pixels(run, terminal.note), model), fitting(held, model)
    if not seen:
        raise ValueError(f"no image of the training is as large as the model's smallest ({model.smallest} px)")
    found = diagnose(model, seen, unseen, read_history(run / HISTORY))
    place = run / "diagnosis" if out is None else Path(out)
    text = markdown(run.resolve().name, found)
    if (run / SHEET).exists():
        text += f"\nThe same codes drawn at moments of the training: {SHEET} in the run's folder.\n"
    write_bytes(place / "diagnosis.md", text.encode())
    write_json(place / "diagnosis.json", to_json(found))
    page(found, f"Diagnosis of {run.resolve().name}", place / "diagnosis.png")
    return found


def fitting(pixels: Sequence[NDArray[np.float64]], model: Model) -> list[Tensor]:
    """Images (height, width, channels) as (1, C, H, W), cut to multiples of the stride; none that is too small."""
    found = []
    for image in pixels:
        height, width = (side // model.stride * model.stride for side in image.shape[:2])
        if min(height, width) >= max(model.smallest, model.stride):
            x = torch.from_numpy(image[:height, :width, : model.channels]).float().permute(2, 0, 1)[None]
            found.append(x.expand(-1, model.channels, -1, -1).contiguous())
    return found


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; default RUN/diagnosis.")] = None,
    threads: options.Threads = None,
) -> None:
    """Tell what a trained model is beyond its maps, from normal images alone.

    Of a VAE both terms over the training, collapsed units, the aggregate posterior against the prior; of a GAN what
    its critic still says, which kinds of the material its samples cover, and whether they are copies of training
    images; of each model how much local variance its reconstructions keep, and how wide its code should be. What a
    model has decides what is told. Writes diagnosis.md, .json and a page of plots, .png.
    """
    found = diagnosis(run, out=out, threads=threads)
    console = terminal.plain()
    console.print(markdown(run.resolve().name, found))
    console.print(f"written to {out or run / 'diagnosis'}")
