"""Explore invert: a real image in the terms of a run's generator, and what becomes of it when its codes move."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan import checkpoint, explore, terminal
from anomalib_gan.benchmarking import opener_of
from anomalib_gan.editing import MU, edited, inverted
from anomalib_gan.export import usable
from anomalib_gan.model import Model
from anomalib_gan.panels import save_picture, shown
from anomalib_gan.restoring import STEPS, psnr
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json, write_bytes, write_json
from anomalib_gan.sheets import Row, save
from pipelines.restoring import stepped, tensor

CONTRAST = 2.0  # by which the residual is shown, mid-grey being none


def invert(
    run: str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    move: str | None = None,
    directions: str | os.PathLike[str] | None = None,
    by: float = 2.0,
    mu: float = MU,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    known: str | None = None,
    progress: str | os.PathLike[str] | None = None,
) -> str:
    """The text of `out`/invert.md: how near G(z*) comes to an image. Beside it invert.json, the codes as codes.npz,
    G(z*) as drawn.png and a sheet of pictures, invert.png.

    `move`: a property along which the codes move `by` so many sigmas, see `direction`: edited.png, and transferred.png
    with the edit on the image itself. `known`: see `load_model`; `progress`: see `told_in`. Errors: ValueError,
    OSError.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps are no search: give at least 1")
    if threads:
        torch.set_num_threads(threads)
    device, place = usable(device), Path(out)
    model, stored = checkpoint.load_model(run, device, known=known)
    with opener_of(read_card(run), terminal.note)(Path(image)) as picture:
        pixels, white = picture.rows(0, picture.content), picture.white
        x = tensor(pixels.astype(np.float64) * (2 / white) - 1, model, str(image)).to(device)
        sha256 = picture.sha256
    with terminal.working("inverting", progress) as begin:
        done = begin(steps + (explore.SAMPLES if move is not None and directions is None else 0))
        along = None if move is None else direction(model, move, directions, seed, done)
        start, found = inverted(model, x, mu=mu, steps=steps, progress=stepped(done))
        before, after = psnr(start.image, x), psnr(found.image, x)
        save_picture(place / "drawn.png", found.image, white)
        rows = [Row("", [shown(x), shown(start.image), shown(found.image), shown((x - found.image) * CONTRAST)],
                    ["image", "where it began", "G(z*)", f"image - G(z*), times {CONTRAST:g}"])]  # fmt: skip
        told: dict[str, Any] = {
            "model": stored["hash"], "image": str(image), "sha256": sha256, "mu": mu, "steps": steps,
            "psnr": {"begun": before, "found": after},
        }  # fmt: skip
        z, (down, right) = found.z, found.place
        codes = io.BytesIO()
        np.savez_compressed(codes, z=z.cpu().numpy(), place=[down.start, down.stop, right.start, right.stop])
        write_bytes(place / "codes.npz", codes.getvalue())
        text = (
            f"# {Path(image).name} by {Path(run).resolve().name} ({stored['spec']['name']})\n\n"
            "| image | PSNR |\n|---|---|\n"
            f"| drawn from the codes that the search began with | {before:.2f} dB |\n"
            f"| G(z*), after {steps} steps with mu {mu:g} | {after:.2f} dB |\n"
        )
        if along is not None:
            moved, transferred = edited(model, x, found, by * along)
            save_picture(place / "edited.png", moved, white)
            save_picture(place / "transferred.png", transferred, white)
            rows.append(Row(f"z* moved by {by:g} sigmas along {move}", [shown(moved), shown(transferred)],
                            ["edited: G(z* + d)", "transferred: image + G(z* + d) - G(z*)"]))  # fmt: skip
            told["move"] = {"along": move, "by": by}
        save(place / "invert.png", rows)
        write_bytes(place / "invert.md", text.encode())
        write_json(place / "invert.json", told)  # last: whoever finds it finds the rest
    return text


def direction(
    model: Model, move: str, directions: str | os.PathLike[str] | None, seed: int, tell: Callable[[int], object]
) -> Tensor:
    """The unit vector (code,) along which a property rises and the others hardly do: that of a file of `explore
    directions` or, without one, found as there. ValueError where there is none, or one of another code.
    """
    if directions is None:
        return explore.direction(model, move, seed, tell)
    try:
        known = dict(read_json(directions)["vectors"]["orthogonal"])
        vector = torch.tensor(known[move]) if move in known else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{directions} holds no directions ({error!r}): give the directions.json of `explore directions`"
        ) from error
    if vector is None:
        raise ValueError(f"{directions} has no direction {move!r}: choose from {', '.join(known)}")
    code: Any = model.code
    if vector.shape != (code,):
        raise ValueError(
            f"{directions} is of a code of {vector.numel()} numbers, the model's has {code}: find this run's own"
        )
    return vector
