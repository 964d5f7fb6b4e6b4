"""Normal images: found, read once, and cropped into batches on the device."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF  # type: ignore[import-untyped]

from anomalib_gan.model import Labelled
from anomalib_gan.runtime.image import ImageError, Picture, find_images, open_image
from anomalib_gan.runtime.stack import Stack
from anomalib_gan.training import derive_seed

BUDGET = 4 * 2**30  # bytes of pixels kept in memory
ONE = "normal"  # the class of all images where there are no class folders

Reader = Callable[..., "Normal"]


@dataclass(frozen=True)
class Normal:
    """One normal image without its info bar: `grey` is (C, H, W), of a stack of slices (C, D, H, W), uint8
    (white = 255) or float32 with white = 1.
    """

    path: Path
    sha256: str
    grey: Tensor
    white: float
    pixel_size: float | None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> str:
        """Height and width (of a stack, depth first) for messages."""
        return "x".join(map(str, self.grey.shape[1:]))


def normal_folder(folder: str | os.PathLike[str]) -> Path:
    """Where the normal images of a folder lie: train/good of an MVTec data set, else train, else the folder itself."""
    root = Path(folder)
    return next((place for place in (root / "train" / "good", root / "train") if place.is_dir()), root)


def normal_files(folder: str | os.PathLike[str]) -> list[Path]:
    """All images in `normal_folder` and its sub-folders."""
    place = normal_folder(folder)
    if not place.is_dir():
        raise ImageError(f"{place} is not a folder: give the folder with the normal images")
    files = find_images(place)
    if not files:
        raise ImageError(f"{place} holds no image: give the folder with the normal images")
    return files


def classes_of(folder: str | os.PathLike[str], files: Sequence[Path]) -> list[str]:
    """The class of each of the `normal_files` of a folder: the sub-folder of `normal_folder` that it lies in.

    Where there are no sub-folders all are of class ONE; images beside class folders are an ImageError.
    """
    place = normal_folder(folder)
    below = [path.relative_to(place).parts for path in files]
    loose = [path for path, parts in zip(files, below, strict=True) if len(parts) == 1]
    if len(loose) == len(files):
        return [ONE] * len(files)
    if loose:
        raise ImageError(f"{loose[0]} lies beside the class folders of {place}: move it into the one of its material")
    return [parts[0] for parts in below]


def grouped(images: Sequence[Normal], kinds: Sequence[str], classes: Sequence[str]) -> list[list[Normal]]:
    """The images of each of the classes, by the class of each image; a ValueError where the two do not match."""
    for image, kind in zip(images, kinds, strict=True):
        if kind not in classes:
            raise ValueError(
                f"{image.path} is of class {kind!r}, and the classes are {', '.join(classes)}: "
                "name it among them, or leave that folder out"
            )
    if missing := [name for name in classes if name not in kinds]:
        raise ValueError(f"there is no image of class {missing[0]!r}: give its folder, or leave the class out")
    return [[image for image, kind in zip(images, kinds, strict=True) if kind == name] for name in classes]


def read_normals(
    files: Sequence[Path],
    *,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    budget: int = BUDGET,
    read: Reader | None = None,
) -> tuple[list[Normal], list[str]]:
    """Reads the images once, and what to tell the user about them. `info_bar`, `bits`, `white`: see `open_image`;
    `read`: `volumes.read_stack` where each file is a stack.

    They stay in memory up to `budget` bytes; of a larger collection an evenly spread part is used, and that is said.
    A grey image may be stored as three equal channels; grey and colour together are an ImageError that names the file.
    """
    used, warnings = 0, []
    one = partial(read or read_image, info_bar=info_bar, bits=bits, white=white)
    kept: dict[int, Normal] = {}
    for index in sorted(range(len(files)), key=_radical_inverse):  # each prefix of this order is evenly spread
        image = one(files[index], budget=budget)
        used += image.grey.nbytes
        if kept and used > budget:
            warnings.append(
                f"{len(files)} images are more than the memory set aside ({budget / 2**30:.3g} GiB): "
                f"training uses {len(kept)} of them, evenly spread"
            )
            break
        kept[index] = image
    images = [kept[index] for index in sorted(kept)]
    colours = [image for image in images if image.grey.shape[0] == 3]
    if colours and len(colours) < len(images):
        few, kind = (colours, "colour") if 2 * len(colours) <= len(images) else (_greys(images), "grey")
        raise ImageError(
            f"{few[0].path} is a {kind} image and {len(images) - len(few)} others are not: "
            f"convert or remove it ({len(few)} such in all)"
        )
    for note, count in Counter(note for image in images for note in image.notes).items():
        first = next(image.path for image in images if note in image.notes)
        warnings.append(f"{first}: {note}" + (f" (and {count - 1} more)" if count > 1 else ""))
    sizes = [image.pixel_size for image in images if image.pixel_size]
    if sizes:
        middle = pixel_size(images) or 0.0
        strange = [image for image in images if image.pixel_size and abs(image.pixel_size / middle - 1) > 0.1]
        if strange:
            warnings.append(
                f"pixel sizes differ: {strange[0].path} has {strange[0].pixel_size:.4g} um, the middle one is "
                f"{middle:.4g} um ({len(strange)} of {len(images)} differ by over 10 %): train on one magnification"
            )
        if len(sizes) < len(images):
            warnings.append(f"{len(images) - len(sizes)} of {len(images)} images do not tell their pixel size")
    return images, warnings


def read_image(
    path: Path, *, info_bar: Literal["auto"] | int, bits: int | None, white: float | None, budget: int
) -> Normal:
    """An image, as many of its upper rows as `budget` bytes hold."""
    with open_image(path, info_bar=info_bar, bits=bits, white=white) as picture:
        rows = min(picture.content, budget // (picture.width * bytes_per_pixel(picture)))
        notes = list(picture.notes)
        if rows < picture.content:
            notes.append(f"only the upper {rows} of {picture.content} rows fit into memory and are used")
        return normal_of(path, picture, picture.rows(0, rows), notes)


def bytes_per_pixel(source: Picture | Stack) -> int:
    """What `normal_of` keeps of a pixel."""
    return source.channels * (1 if source.dtype == np.uint8 and source.white == 255 else 4)


def normal_of(path: Path, source: Picture | Stack, pixels: NDArray[Any], notes: list[str]) -> Normal:
    """From what was decoded, (..., channels)."""
    if source.channels == 3 and (pixels[..., :1] == pixels).all():
        pixels = pixels[..., :1]
    if source.dtype != np.uint8 or source.white != 255:
        pixels = pixels.astype(np.float32) / np.float32(source.white)
        if pixels.min() < 0 or pixels.max() > 1:  # of floats only: others are refused above white
            notes.append(f"grey levels lie outside 0 to white = {source.white:g}: is --white right?")
    grey = torch.from_numpy(np.array(np.moveaxis(pixels, -1, 0), order="C"))  # a copy: the source's own is read-only
    return Normal(path, source.sha256 or "", grey, source.white, source.pixel_size, tuple(notes))


def flat(grey: Tensor) -> Tensor:
    """(C, H, W) as it is, of a stack (C, D, H, W) the middle slice."""
    return grey if grey.dim() == 3 else grey[:, grey.shape[1] // 2]


def _greys(images: Iterable[Normal]) -> list[Normal]:
    return [image for image in images if image.grey.shape[0] == 1]


def _radical_inverse(index: int) -> float:
    """The van der Corput sequence: 0, 1/2, 1/4, 3/4, 1/8, ..."""
    digits = f"{index:b}"[::-1]
    return int(digits, 2) / 2 ** len(digits)


def fingerprint(images: Sequence[Normal], kinds: Sequence[str] | None = None) -> str:
    """One SHA-256 over the content of all files and, where it matters, the class of each, whatever names and order."""
    told = [image.sha256 + kind for image, kind in zip(images, kinds or [""] * len(images), strict=True)]
    return hashlib.sha256("".join(sorted(told)).encode()).hexdigest()


def pixel_size(images: Sequence[Normal]) -> float | None:
    """The middle pixel size in um, None where no image tells it."""
    sizes = sorted(image.pixel_size for image in images if image.pixel_size)
    return sizes[len(sizes) // 2] if sizes else None


def signed(grey: Tensor) -> Tensor:
    """Grey levels as in `Normal.grey` -> float32 in [-1, 1]: 2 grey / white - 1."""
    return grey.float() * (2 / 255) - 1 if grey.dtype == torch.uint8 else grey.float() * 2 - 1


def alike(images: Sequence[Tensor]) -> list[Tensor]:
    """Grey levels as in `Normal.grey`, of one type: bytes where all are, else all between 0 and 1."""
    if len({image.dtype for image in images}) == 1:
        return list(images)
    return [(signed(image) + 1) / 2 for image in images]


class Crops:
    """Batches of random patches: `crops(n)` is (batch, C, patch, patch) in [-1, 1] on `device`; of volumes
    (C, D, H, W), which cannot be zoomed, (batch, C, patch, patch, patch).

    It is a pure function of (seed, n). A patch's middle is equally likely anywhere in any image, so large images count
    for more; where it would hang over the edge it is moved inwards, so what lies along edges is seen as well.
    An image smaller than a patch is mirrored out to one; smaller than half a patch is a ValueError. Each patch is
    flipped, magnified or shrunk at random by a factor of up to 1 + `zoom`, as far as the image reaches, and its
    brightness and contrast changed by up to `jitter` (0: not at all). With share = (rank, world) it is this process's
    part of the world's batch, which is `world` times as large. With `labels`, the number of each image's class, the
    batches are `Labelled`.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        patch: int,
        batch: int,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        flips: bool = True,
        jitter: float = 0.1,
        zoom: float = 0.0,
        channels: int | None = None,
        share: tuple[int, int] = (0, 1),
        labels: Sequence[int] | None = None,
    ) -> None:
        if not images:
            raise ValueError("there is no image to train on")
        self.patch, self.size, self.seed, self.device = patch, batch, seed, torch.device(device)
        self.flips, self.jitter, self.zoom, self.share = flips, jitter, zoom, share
        self.channels = channels or images[0].shape[0]
        self.dim = images[0].dim() - 1
        if self.dim == 3 and zoom:
            raise ValueError(f"a zoom of {zoom} is not possible for volumes: leave it out")
        self.images = [fill(image, patch).to(self.device) for image in alike(images)]
        self.ends = torch.tensor(list(accumulate(image[0].numel() for image in self.images)))
        self.labels = None if labels is None else torch.tensor(labels)

    def __call__(self, n: int) -> Tensor | Labelled:
        rank, world = self.share
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "batch", n))
        places = torch.randint(int(self.ends[-1]), (self.size * world,), generator=generator)
        chance = torch.rand((3 + self.dim, self.size * world), generator=generator)
        mine = slice(rank * self.size, (rank + 1) * self.size)
        sides = (self.patch * (1 + self.zoom) ** (2 * chance[4] - 1)).round().long()
        x = torch.stack([self._crop(*drawn) for drawn in zip(places[mine], sides[mine].tolist(), strict=True)])
        x = self._augment(x, chance[:, mine]).expand(-1, self.channels, *x.shape[2:])
        if self.labels is None:
            return x
        return Labelled(x, self.labels[torch.searchsorted(self.ends, places[mine], right=True)].to(self.device))

    def _crop(self, place: Tensor, side: int) -> Tensor:
        """A square, or cube, around a place, of `side` pixels as far as there are, brought to the size of a patch."""
        index = int(torch.searchsorted(self.ends, place, right=True))
        image = self.images[index]
        offset = int(place) - (int(self.ends[index - 1]) if index else 0)
        side = min(side, *image.shape[1:])
        corner = [
            min(max(int(middle) - side // 2, 0), size - side)
            for middle, size in zip(np.unravel_index(offset, image.shape[1:]), image.shape[1:], strict=True)
        ]
        crop = image[(slice(None), *(slice(begin, begin + side) for begin in corner))]
        return crop if side == self.patch else TF.resize(crop, [self.patch, self.patch], antialias=True)

    def _augment(self, x: Tensor, chance: Tensor) -> Tensor:
        """Grey levels as they are stored -> [-1, 1], flipped, and with the brightness and contrast of torchvision's
        ColorJitter, with one draw per patch, all at once; in place, for memory costs more here than arithmetic.
        """
        across, down, brightness, contrast, _, *through = chance.to(self.device)[(..., *[None] * (1 + self.dim))]
        if self.flips:
            for axis, drawn in enumerate((across, down, *through), 1):
                x = torch.where(drawn < 0.5, x.flip(-axis), x)
        x = x.float().div_(255) if x.dtype == torch.uint8 else x.float()
        if self.jitter:
            x.mul_(1 + self.jitter * (2 * brightness - 1)).clamp_(0, 1)
            middle = x.mean(tuple(range(1, x.dim())), keepdim=True)
            x.sub_(middle).mul_(1 + self.jitter * (2 * contrast - 1)).add_(middle).clamp_(0, 1)
        return x.mul_(2).sub_(1)


def fill(image: Tensor, patch: int) -> Tensor:
    """(C, H, W) mirrored out to the right and downwards, (C, D, H, W) also backwards, until a patch fits; far too small
    is a ValueError.
    """
    sizes = image.shape[1:]
    if min(sizes) < patch / 2 + 1:
        told = "x".join(map(str, sizes))
        raise ValueError(
            f"an image region of {told} px is smaller than half a training patch ({patch} px): "
            "leave such images out, or choose a smaller patch"
        )
    missing = [end for size in reversed(sizes) for end in (0, max(0, patch - size))]
    return F.pad(image[None].float(), missing, "reflect")[0].to(image.dtype) if any(missing) else image
