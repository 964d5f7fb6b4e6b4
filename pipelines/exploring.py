"""What the jobs of `explore` share: a run that is opened and asked for what it can do, and the files of a job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomalib_gan import checkpoint, explore, terminal
from anomalib_gan.benchmarking import opener_of
from anomalib_gan.export import usable
from anomalib_gan.model import Model
from anomalib_gan.models import MODELS
from anomalib_gan.proxy import device_of
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import Picture, find_images
from anomalib_gan.sheets import Row, save

Place = str | os.PathLike[str]


@dataclass(frozen=True)
class How:
    """Where a job writes, and what all jobs of `explore` are told: height and width of a picture, the seed of all that
    is drawn, where to compute, of a model that knows classes the class of all images, and the file that tells how far
    it is.
    """

    out: Place
    size: tuple[int, int]
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    known: str | None = None
    progress: Place | None = None


def draws(kind: type[Model], needs: str = "generate") -> bool:
    """Does such a model draw pictures, from codes or by `sample`? One of volumes does not."""
    return hasattr(kind, needs) and kind.dim == 2


@dataclass(frozen=True)
class Opened:
    """A run's finished model, its name in the zoo, and how its images are opened."""

    run: Path
    model: Model
    name: str
    open: Callable[[Path], Picture]

    @classmethod
    def of(cls, run: Place, how: How, needs: str) -> Opened:
        """ValueError: the run is not finished, or its model has not the method that is needed."""
        if how.threads:
            torch.set_num_threads(how.threads)
        model, stored = checkpoint.load_model(run, usable(how.device), known=how.known)
        name = stored["spec"]["name"]
        if not draws(type(model), needs):
            able = ", ".join(sorted(name for name, kind in MODELS.items() if draws(kind, needs)))
            what = "draws no samples" if needs == "sample" else "has no generator that draws from codes"
            raise ValueError(f"{run} is a run of {name}, which {what}: give a run of one of {able}")
        return cls(Path(run), model, name, opener_of(read_card(run), terminal.note))

    def image(self, path: Path, side: tuple[int, int]) -> Tensor:
        """The middle of an image, (1, C, H, W) in [-1, 1], at most `side` high and wide: multiples of the stride."""
        return next(self.crops(path, side, single=True))

    def crops(
        self, path: Path, side: tuple[int, int], *, single: bool = False, exact: bool = False
    ) -> Iterator[Tensor]:
        """As many pieces of that size as fit side by side in the middle of an image, or the one in its middle;
        ValueError where none fits.

        They are of the largest multiples of the stride within it, as the model wants them, or `exact`.
        """
        stride = self.model.stride
        least = max(self.model.smallest, stride)
        with self.open(path) as picture:
            height, width = picture.content, picture.width
            tall, wide = (
                want if exact else max(least, min(want, have) // stride * stride)
                for want, have in zip(side, (height, width), strict=True)
            )
            if tall > height or wide > width:
                raise ValueError(
                    f"{path}: {width}x{height} px is smaller than {wide}x{tall}, the smallest piece that can be taken: "
                    "give a larger image, or another --size"
                )
            pixels = picture.rows(0, picture.content).astype(np.float32) * np.float32(2 / picture.white) - 1
        x = torch.from_numpy(pixels[..., : self.model.channels]).permute(2, 0, 1)[None]
        x = x.expand(-1, self.model.channels, -1, -1).to(device_of(self.model))
        down, across = (1, 1) if single else (x.shape[2] // tall, x.shape[3] // wide)
        top, left = (x.shape[2] - down * tall) // 2, (x.shape[3] - across * wide) // 2
        for i in range(down):
            for j in range(across):
                yield x[..., top + i * tall :, left + j * wide :][..., :tall, :wide].contiguous()

    def pieces(self, folder: Place, side: tuple[int, int], exact: bool = False) -> list[Tensor]:
        """Pieces of that size of all images of a folder; ValueError where it holds none, or they come out unequal."""
        files = find_images(folder) if Path(folder).is_dir() else []
        if not files:
            raise ValueError(f"{folder} holds no image: give a folder of images")
        found = [x for path in files for x in self.crops(path, side, exact=exact)]
        if len({x.shape for x in found}) > 1:
            least = min(min(x.shape[2:]) for x in found)
            raise ValueError(f"the images of {folder} give pieces of unequal size: give a --size of {least}x{least}")
        return found

    def codes(self, folder: Place, side: tuple[int, int]) -> Tensor:
        """The codes of those pieces, (n, code, h, w)."""
        return torch.cat([explore.encoded(self.model, x) for x in self.pieces(folder, side)])


@contextmanager
def exploring(
    run: Place, how: How, needs: str = "generate"
) -> Iterator[tuple[Opened, Callable[[int], Callable[[int], None]]]]:
    """The run, opened, and what is to be told how many pictures the job will draw; see `terminal.working`."""
    with terminal.working("pictures", how.progress) as begin, explore.seeded(how.seed):
        yield Opened.of(run, how, needs), begin


def written(how: How, name: str, opened: Opened, rows: Sequence[Row], found: Mapping[str, Any], text: str) -> str:
    """The three files of a job; gives the page back."""
    page = f"# {name.capitalize()}: {opened.run.resolve().name} ({opened.name})\n\n{text}"
    told = {"run": str(opened.run), "model": opened.name, "seed": how.seed, "size": list(how.size), **found}
    save(Path(how.out) / f"{name}.png", rows)
    write_json(Path(how.out) / f"{name}.json", told)
    write_bytes(Path(how.out) / f"{name}.md", page.encode())
    return page
