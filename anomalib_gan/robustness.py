"""What a detector loses when images change in ways that are no defects: light, noise, focus, files, magnification."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_gan import corruption
from anomalib_gan import evaluation as ev
from anomalib_gan.data import normal_files
from anomalib_gan.labelled import Sample, find_samples, read_mask
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspection import Inspection
from anomalib_gan.runtime.inspector import Inspector

Grey = NDArray[np.float32]  # (height, width, channels), white = 1


def noise(x: Grey) -> float:
    """Standard deviation of the image's own noise, the mean of its channels."""
    return float(corruption.noise(torch.from_numpy(x).permute(2, 0, 1)[None]).mean())


def doubled(x: Grey) -> Grey:
    """As much noise again as makes the standard deviation twice that of the image's own."""
    more: Grey = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    return x + np.float32(np.sqrt(3) * noise(x)) * more


def blurred(x: Grey) -> Grey:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), 1.0), np.float32).reshape(x.shape)


def contrasted(factor: float) -> Callable[[Grey], Grey]:
    return lambda x: x.mean() + factor * (x - x.mean())


def compressed(x: Grey) -> Grey:
    coded = cv2.imencode(".jpg", np.rint(x * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    again = np.asarray(cv2.imdecode(coded, cv2.IMREAD_UNCHANGED), np.float32)
    return again.reshape(x.shape) / np.float32(255)


def magnified(factor: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The image at `factor` times its size; masks, of bytes, without grey levels in between."""

    def change(x: NDArray[Any]) -> NDArray[Any]:
        size = round(x.shape[1] * factor), round(x.shape[0] * factor)
        how = cv2.INTER_NEAREST if x.dtype == np.uint8 else cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return cv2.resize(x, size, interpolation=how).reshape(size[1], size[0], -1)

    return change


CHANGES: dict[str, Callable[[Grey], Grey]] = {
    "none": lambda x: x,
    "brightness +20 %": lambda x: 1.2 * x,
    "brightness -20 %": lambda x: 0.8 * x,
    "contrast +20 %": contrasted(1.2),
    "contrast -20 %": contrasted(0.8),
    "noise x2": doubled,
    "slight blur (sigma 1 px)": blurred,
    "JPEG 80": compressed,
    "magnification +10 %": magnified(1.1),
    "magnification -10 %": magnified(0.9),
}


def robustness(
    inspector: Inspector,
    samples: Sequence[Sample],
    changes: Iterable[str] = CHANGES,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> list[dict[str, Any]]:
    """For each change, by name, the figures on the changed images: pixel and image AUROC, and false alarms.

    "false_alarms" is the share of normal images that are not accepted, "normal_pixels_above" that of normal pixels
    above the pixel threshold; None where the run is not calibrated or there are no normal images. Values outside
    [0, white] are clipped, as a camera would. ImageError where an image cannot be read.
    """
    found = []
    for name in changes:
        change = CHANGES[name]
        pool, hits = ev.PixelPool(), ev.Hits()
        normal: list[Inspection] = []
        scores: list[float] = []
        for sample in progress(samples):
            with inspector.opener(sample.image) as picture:
                grey = picture.rows(0, picture.content).astype(np.float32) / np.float32(picture.white)
                mask = np.zeros(grey.shape[:2], bool)
                if sample.mask is not None:
                    mask = read_mask(sample.mask, sample.image, picture.height, picture.width)[: picture.content]
            if name.startswith("magnification"):
                mask = change(mask[..., None].astype(np.uint8))[..., 0] > 0
            with open_image(np.clip(change(grey), 0, 1).astype(np.float32), info_bar=0, white=1.0) as changed:
                result = inspector(changed)
            assert result.map is not None  # only a sink takes the map away
            if sample.normal:
                normal.append(result)
            else:
                scores.append(result.score)
            if sample.normal or sample.mask is not None:
                pool.add(result.map, mask)
                if inspector.calibration is not None:
                    hits += ev.count_hits(result.map, mask, inspector.calibration.pixel)
        calibrated = inspector.calibration is not None
        found.append(
            {
                "change": name,
                "pixel_auroc": ev.figures(ev.Ranking.of([pool]))["auroc"],
                "image_auroc": ev.image_auroc([one.score for one in normal], scores),
                "false_alarms": sum(one.verdict != "accept" for one in normal) / len(normal)
                if calibrated and normal
                else None,
                "normal_pixels_above": hits.above / hits.normal if calibrated and hits.normal else None,
            }
        )
    return found


def contaminated(
    dataset: str | os.PathLike[str], out: str | os.PathLike[str], share: float = 0.05, seed: int = 0
) -> tuple[Path, Path]:
    """Two data sets out of one, "clean" and "dirty" in `out`: the second has defective images among the normal ones.

    `share` of the dirty training images, at least one, are defective test images; neither data set tests on those. The
    files are links to those of `dataset` (MVTec layout). ValueError where so many would leave no defective image.
    """
    root, folder = Path(dataset).resolve(), Path(out)
    samples, _ = find_samples(root)
    normal = normal_files(root)
    defective = [sample for sample in samples if not sample.normal]
    count = max(1, round(share / (1 - share) * len(normal)))
    if not 0 < share < 1 or count >= len(defective):
        raise ValueError(
            f"{share:g} of {len(normal)} training images are {count} defective ones, of which {root} has "
            f"{len(defective)}: choose a smaller share"
        )
    order = np.random.default_rng(seed).permutation(len(defective))[:count]
    moved = [defective[i] for i in sorted(order.tolist())]
    for name in ("clean", "dirty"):
        shutil.rmtree(folder / name, ignore_errors=True)
        links = {f"train/good/{path.name}": path for path in normal}
        if name == "dirty":
            links |= {f"train/good/moved_{one.kind}_{one.image.name}": one.image for one in moved}
        for one in samples:
            if one not in moved:
                links[f"test/{one.kind}/{one.image.name}"] = one.image
                if one.mask is not None:
                    links[f"ground_truth/{one.kind}/{one.mask.name}"] = one.mask
        for place, path in links.items():
            link = folder / name / place
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder / "clean", folder / "dirty"


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table, the first row being what the others are compared with."""
    heads = ["change", "pixel AUROC", "difference", "image AUROC", "normal images not accepted", "normal pixels above"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]

    def cell(value: float | None, form: str = ".4f") -> str:
        return "undefined" if value is None else format(value, form)

    for one in found:
        value, first = one["pixel_auroc"], found[0]["pixel_auroc"]
        apart = None if value is None or first is None else value - first
        cells = [one["change"], cell(value), cell(apart, "+.4f"), cell(one["image_auroc"])]
        cells += [cell(one["false_alarms"], ".1%"), cell(one["normal_pixels_above"], ".2%")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
