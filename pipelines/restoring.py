"""Explore restore: images restored from noise, blur or holes with a run's generator as prior, against plain filters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan import checkpoint, restoring, terminal
from anomalib_gan.benchmarking import opener_of, training_pixels
from anomalib_gan.degrading import STRENGTH, degradation, holes
from anomalib_gan.export import usable
from anomalib_gan.model import Model
from anomalib_gan.panels import save_picture, shown
from anomalib_gan.restoring import BOTH, Outcome, outcome, table, tune
from anomalib_gan.runtime.calibrating import Normal, held_back
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import ImageError, find_images
from anomalib_gan.sheets import Row, save
from anomalib_gan.training import derive_seed


def restore(
    run: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    kind: str,
    strength: float | None = None,
    mask: str | os.PathLike[str] | None = None,
    as_is: bool = False,
    mu: float | None = None,
    steps: int = restoring.STEPS,
    most: int = 8,
    side: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    known: str | None = None,
    progress: str | os.PathLike[str] | None = None,
) -> str:
    """The text of `out`/restore.md: what plain filters and the generator of a run make of degraded images. Beside it
    restore.json and a picture of each image.

    `images`: a file or a folder of normal images, which are degraded here or, `as_is`, already were; None: what
    training held back. `strength`: see `degradation`; of a hole the diameter in px, unless `mask`, an image that is
    white in the hole, is given. `mu`: None, it is found. Of at most `most` images the middle `side` px. `known`: see
    `load_model`; `progress`: see `told_in`. Errors: ValueError, OSError.
    """
    if kind not in STRENGTH:
        raise ValueError(f"no degradation is called {kind!r}: choose one of {', '.join(STRENGTH)}")
    strength = STRENGTH[kind] if strength is None else strength
    if strength <= 0 or steps < 1 or most < 1:
        raise ValueError(f"strength {strength:g}, steps {steps} and number of images {most} must be above 0")
    if mask is not None and kind != "hole":
        raise ValueError(f"--mask {mask} is of a hole, and --degradation is {kind}: leave one of them out")
    if as_is and (images is None or (kind == "hole" and mask is None)):
        raise ValueError("--as-is needs the degraded images and, of holes, their --mask: give both")
    if threads:
        torch.set_num_threads(threads)
    device = usable(device)
    model, stored = checkpoint.load_model(run, device, known=known)
    originals = dict(pictures(Path(run), images, model, most, side))
    hidden: list[Tensor | None] = [None] * len(originals)
    if kind == "hole":
        hidden = [
            holes(x.shape[-2], x.shape[-1], strength, derive_seed(seed, "hole", n)) if mask is None
            else hole_of(mask, x, side)
            for n, x in enumerate(originals.values())
        ]  # fmt: skip
    seen = training_pixels(run, terminal.note, restoring.SQUARES)
    normals = [tensor(one, model, "an image of the training").to(device) for one in seen]
    mus = restoring.MUS if mu is None else (mu,)
    searches = len(mus) + sum(len(restoring.windows(model, *x.shape[-2:])) for x in originals.values())
    outcomes: dict[str, Outcome] = {}
    with terminal.working("restoring", progress) as begin:
        wrap = stepped(begin(steps * searches))
        chosen = tune(model, normals, kind, strength, seed=seed, steps=steps, mus=mus, progress=wrap)
        for number, ((name, x), hole) in enumerate(zip(originals.items(), hidden, strict=True)):
            A, x = degradation(kind, strength, None if hole is None else hole.to(device)), x.to(device)
            y = x if as_is else A.spoilt(x, derive_seed(seed, "noise", number))
            one = outcome(model, y, A, chosen, x=None if as_is else x, progress=wrap)
            pictured = [shown(picture) for picture in one.pictures.values()]
            save(Path(out) / f"{name}.png", [Row("", pictured, list(one.pictures))])
            if as_is:
                save_picture(Path(out) / f"{name}-restored.png", one.pictures[BOTH])
            outcomes[name] = one
        text = f"# {kind.capitalize()}, restored by {Path(run).resolve().name} ({stored['spec']['name']})\n\n"
        if not as_is:
            text += table(kind, list(outcomes.values()), chosen)
        seconds = float(np.median([one.seconds for one in outcomes.values()]))
        text += f"The search took {seconds:.1f} s for an image.\n"
        write_bytes(Path(out) / "restore.md", text.encode())
        told: dict[str, Any] = {
            "model": stored["hash"], "degradation": kind, "strength": strength, "mask": mask and str(mask),
            "seed": seed, "mu": chosen.mu, "steps": steps,
            "filter": list(chosen.filter[:2]), "rest": list(chosen.rest[:2]),
            "images": {name: {"figures": one.figures, "seconds": one.seconds} for name, one in outcomes.items()},
        }  # fmt: skip
        write_json(Path(out) / "restore.json", told)
    return text


def stepped(done: Callable[[int], None]) -> restoring.Wrap:
    """Wraps steps so that each is told when it is done."""

    def wrap(steps: range) -> Iterator[int]:
        for step in steps:
            yield step
            done(1)

    return wrap


def pictures(
    run: Path, images: str | os.PathLike[str] | None, model: Model, most: int, side: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Names and images (1, C, H, W) in [-1, 1]: the middle `side` px of at most so many, evenly spread."""
    if images is None:
        files: Sequence[Normal] = held_back(run)
        if not files:
            raise ValueError(f"{run} held no normal image back: give some")
    else:
        place = Path(images)
        files = [Normal(path) for path in (find_images(place) if place.is_dir() else [place])]
        if not files:
            raise ImageError(f"{place} holds no image: give some")
    opener = opener_of(read_card(run), terminal.note)
    for number in sorted({round(k) for k in np.linspace(0, len(files) - 1, min(len(files), most))}):
        path, box = files[number].path, files[number].box
        with opener(path) as picture:
            top, left, bottom, right = box or (0, 0, picture.content, picture.width)
            pixels = picture.rows(top, bottom)[:, left:right].astype(np.float64) * (2 / picture.white) - 1
        yield f"{number}-{path.stem}", middle(tensor(pixels, model, str(path)), side)


def tensor(pixels: np.ndarray, model: Model, name: str) -> Tensor:
    """(H, W, channels) -> (1, C, H, W) with the model's channels; ImageError for colours that it does not know."""
    if pixels.shape[2] > model.channels and (pixels != pixels[..., :1]).any():
        raise ImageError(f"{name} is a colour image, the model has {model.channels} channel: convert it")
    x = torch.from_numpy(pixels[..., : model.channels]).float().permute(2, 0, 1)[None]
    return x.expand(-1, model.channels, -1, -1).contiguous()


def middle(x: Tensor, side: int | None) -> Tensor:
    """(..., H, W), cut to at most `side` px."""
    height, width = (size if side is None else min(size, side) for size in x.shape[-2:])
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def hole_of(mask: str | os.PathLike[str], x: Tensor, side: int | None) -> Tensor:
    """The hole (1, 1, H, W) that an image shows in white, cut as the images are."""
    with opener_of({}, terminal.note)(Path(mask)) as picture:
        white = picture.rows(0, picture.height)[..., 0] > picture.white / 2
    hole = middle(torch.from_numpy(np.ascontiguousarray(white))[None, None], side)
    if hole.shape[-2:] != x.shape[-2:]:
        (a, b), (c, d) = hole.shape[-2:], x.shape[-2:]
        raise ImageError(f"{mask} is a mask of {a}x{b} px for an image of {c}x{d} px: give one of its size")
    if not hole.any() or hole.all():
        raise ImageError(
            f"{mask} is {'all' if hole.all() else 'nowhere'} white: mark the hole in white, the rest black"
        )
    return hole
