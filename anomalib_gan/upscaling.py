"""Runs that enlarge images: as operators on folders, and compared, on images made smaller, with interpolation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_gan import checkpoint
from anomalib_gan.applying import TILE, Operator
from anomalib_gan.export import usable
from anomalib_gan.opening import is_bundle
from anomalib_gan.residuals import structural
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspector import Opener

BICUBIC = "bicubic"
FIGURES = {"psnr": "PSNR, dB", "ssim": "SSIM"}


def upscaler(
    run: str | os.PathLike[str], *, device: str = "auto", tile: int = TILE, mark: Mapping[str, Any] | None = None
) -> Operator:
    """The run of a model that enlarges. `mark`: what results shall say besides the model's hash and the factor.

    A ValueError names what is wrong with the run.
    """
    if is_bundle(run):
        raise ValueError(f"{run} is a bundle, which holds a detector and no more: give the run that it was made from")
    model, stored = checkpoint.load_model(run)
    enlarge = getattr(model, "upscale", None)
    if enlarge is None:
        raise ValueError(
            f"{run} is a run of {stored['spec']['name']}, which enlarges nothing: train one with --model srgan"
        )
    factor, size, place = int(getattr(model, "factor", 1)), stored.get("pixel_size"), usable(device)
    model.to(place)
    return Operator(
        net=enlarge,
        channels=model.channels,
        halo=int(getattr(model, "reach", model.halo)),
        mark={"model": stored["hash"], "factor": factor, **(mark or {})},
        factor=factor,
        pixel_size=size and size * factor,
        device=place,
        tile=tile,
    )


def interpolated(pixels: NDArray[Any], factor: int, white: float) -> NDArray[Any]:
    """Grey levels (h, w, c) -> (factor h, factor w, c) of the same type by bicubic interpolation."""
    height, width, channels = pixels.shape
    size = (factor * width, factor * height)
    large = cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_CUBIC).reshape(*size[::-1], channels)
    return _levels(large, white, pixels.dtype)


def reduced(pixels: NDArray[Any], factor: int, white: float) -> NDArray[Any]:
    """Grey levels (factor h, factor w, c) -> (h, w, c) of the same type: means of factor x factor pixels, as networks
    are trained on, and rounded as a file has them. What is left over at the right and below is cut off.
    """
    height, width = (side // factor for side in pixels.shape[:2])
    cut = pixels[: height * factor, : width * factor].astype(np.float64)
    means = cut.reshape(height, factor, width, factor, pixels.shape[2]).mean((1, 3))
    return _levels(means, white, pixels.dtype)


def _levels(values: NDArray[Any], white: float, kind: np.dtype) -> NDArray[Any]:
    return (values if kind.kind == "f" else np.rint(values)).clip(0, white).astype(kind)


def psnr(one: NDArray[Any], other: NDArray[Any], white: float) -> float:
    """Peak signal-to-noise ratio of two images of grey levels in [0, white], in dB; infinite where they are equal."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return 10 * math.log10(white**2 / error) if error else math.inf


def ssim(one: NDArray[Any], other: NDArray[Any], white: float) -> float:
    """Mean structural similarity of two images (h, w, c) of grey levels in [0, white], over pixels and channels.

    `residuals.structural` has the constants of a range of 2; the index asks for levels that begin at 0, as here.
    """
    x, y = (torch.from_numpy(np.moveaxis(image, -1, 0)[None] * np.float32(2 / white)) for image in (one, other))
    return 1 - float(structural(x.float(), y.float()).double().mean())


def compare(
    operators: Mapping[str, Operator],
    images: Mapping[str, Path],
    *,
    opener: Opener,
    track: Callable[[Iterable[Any]], Iterable[Any]] = lambda things: things,
) -> dict[str, Any]:
    """Each image, by its name, is made smaller by the operators' factor and enlarged again: how near do they come?

    The JSON value of a report: "factor", "images" with the figures of every method by its name and BICUBIC, "mean" of
    them, and "invalid", the images that cannot be compared, with the reason. An infinite PSNR, which only an image
    without any detail has, is None there, and counts for no mean. ValueError: the factors differ, or no image is left.
    """
    factors = {name: operator.factor for name, operator in operators.items()}
    factor = next(iter(factors.values()))
    if other := [name for name, one in factors.items() if one != factor]:
        raise ValueError(
            f"{other[0]} enlarges {factors[other[0]]} times and {next(iter(factors))} {factor} times: "
            "compare runs of one factor"
        )
    found: list[dict[str, Any]] = []
    invalid: dict[str, str] = {}
    for name, path in track(list(images.items())):
        try:
            found.append({"path": name, **_figures(operators, factor, path, opener)})
        except (ImageError, MemoryError) as error:
            invalid[name] = f"not enough memory: {error}" if isinstance(error, MemoryError) else str(error)
    if not found:
        raise ValueError(f"no image can be compared, the first for this reason: {next(iter(invalid.values()))}")
    return {
        "factor": factor,
        "images": found,
        "mean": {method: _mean([one[method] for one in found]) for method in (BICUBIC, *operators)},
        "invalid": invalid,
    }


def _mean(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure over what is known of it."""
    known = {name: [v for one in figures if (v := one[name]) is not None] for name in FIGURES}
    return {name: fmean(values) if values else None for name, values in known.items()}


def _figures(operators: Mapping[str, Operator], factor: int, path: Path, opener: Opener) -> dict[str, Any]:
    with opener(path) as picture:
        pixels, white = picture.rows(0, picture.content), picture.white
        name = picture.name
    small = reduced(pixels, factor, white)
    if not small.size:
        raise ImageError(f"{name}: image {pixels.shape[0]}x{pixels.shape[1]} cannot be made {factor} times smaller")
    truth = pixels[: small.shape[0] * factor, : small.shape[1] * factor]
    results = {BICUBIC: interpolated(small, factor, white)}
    results |= {method: operator(small, white, name) for method, operator in operators.items()}
    figures: dict[str, Any] = {"height": truth.shape[0], "width": truth.shape[1]}
    for method, result in results.items():
        level = 65535.0 if result.dtype != pixels.dtype else white  # of floats, the operators make 16 bits
        near = result.astype(np.float64) * (white / level)
        ratio = psnr(near, truth, white)
        figures[method] = {"psnr": ratio if math.isfinite(ratio) else None, "ssim": ssim(near, truth, white)}
    return figures


def table(report: Mapping[str, Any]) -> str:
    """The means of a report of `compare` as Markdown."""
    count, factor = len(report["images"]), report["factor"]
    lines = [f"| enlarged {factor} times | " + " | ".join(FIGURES.values()) + " |", "|---" * (1 + len(FIGURES)) + "|"]
    for method, figures in report["mean"].items():
        decibels, similarity = (figures[one] for one in FIGURES)
        near = "exact" if decibels is None else f"{decibels:.2f}"
        lines.append(f"| {method} | {near} | {similarity:.4f} |")
    told = f"Means over {count} image{'' if count == 1 else 's'}, made {factor} times smaller by means of their pixels."
    return "\n".join([*lines, "", told]) + "\n"
