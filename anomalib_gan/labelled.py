"""Labelled images, or stacks, in MVTec layout, and how well an inspector finds the defects in them.

Its figures are those of `evaluation`; no torch, so that whatever an Inspector runs on can be measured.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan import evaluation as ev
from anomalib_gan import plots
from anomalib_gan.evaluation_report import markdown
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import IMAGE_SUFFIXES, find_images, open_image
from anomalib_gan.runtime.inspection import Inspection, InvalidImage
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.stack import Stack, open_stack
from anomalib_gan.runtime.volume import VolumeInspection, VolumeInspector

EXACT_PIXELS = 200_000_000  # up to here every pixel is ranked (about 1 GB); beyond, pixels are counted in ev.BINS bins
GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One labelled image; `mask` is None for normal images and for classes without masks."""

    image: Path
    kind: str
    mask: Path | None

    @property
    def normal(self) -> bool:
        return self.kind == GOOD


def find_samples(dataset: str | os.PathLike[str]) -> tuple[list[Sample], list[str]]:
    """The images under test/<class>/ with their masks under ground_truth/<class>/<stem>_mask.* or <stem>.*, and notes.

    Class "good" is normal. A class without masks in ground_truth is kept; where there are any, each image needs one.
    Raises ValueError for another layout, and for an image with no mask or two.
    """
    root = Path(dataset)
    test = root / "test"
    if not test.is_dir():
        raise ValueError(
            f"{root} has no folder 'test': "
            "expected test/good/*, test/<defect>/* and ground_truth/<defect>/<name>_mask.png"
        )
    if loose := find_images(test, recursive=False):
        raise ValueError(f"{loose[0]} lies in 'test' itself: move it to test/good, or to test/<kind of defect>")
    samples, notes = [], []
    for folder in sorted(path for path in test.iterdir() if path.is_dir()):
        kind, truth = folder.name, root / "ground_truth" / folder.name
        images = find_images(folder)
        masks = (
            {} if kind == GOOD or not truth.is_dir() else {path.relative_to(truth): path for path in find_images(truth)}
        )
        if kind != GOOD and images and not masks:
            notes.append(f"class '{kind}' has no masks ({truth} is missing or empty): it counts for image figures only")
        by_stem: dict[Path, list[Path]] = {}
        for relative, path in masks.items():
            by_stem.setdefault(relative.with_name(relative.stem), []).append(path)
        used = set()
        for image in images:
            relative = image.relative_to(folder)
            found = [
                path
                for stem in (image.stem + "_mask", image.stem)
                for path in by_stem.get(relative.with_name(stem), [])
            ]
            if masks and not found:
                raise ValueError(
                    f"{image} has no mask: expected {truth / relative.with_name(image.stem + '_mask.png')}"
                )
            if len(found) > 1:
                raise ValueError(f"{image} has two masks, {found[0]} and {found[1]}: keep one")
            used.update(found)
            samples.append(Sample(image, kind, found[0] if found else None))
        if idle := [path for path in masks.values() if path not in used]:
            notes.append(f"{len(idle)} masks belong to no image, the first is {idle[0]}")
    if not samples:
        raise ValueError(f"{test} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return samples, notes


def read_mask(path: Path, image: Path, *size: int) -> NDArray[np.bool_]:
    """The mask (height, width), or of a stack (depth, height, width), True where any colour channel is above 0,
    whatever its dtype.

    Raises ValueError where its size is not that of its `image`.
    """
    white = float(np.finfo(np.float32).max)  # a mask has none
    found: tuple[int, ...]
    if len(size) == 3:
        with open_stack(path, info_bar=0, white=white) as stack:
            found = stack.depth, stack.height, stack.width
            mask = stack.slices(0, stack.depth).max(axis=-1) > 0
    else:
        with open_image(path, info_bar=0, white=white) as picture:
            found = picture.height, picture.width
            mask = picture.rows(0, picture.height).max(axis=-1) > 0
    if found != size:
        one, other = ("x".join(map(str, sides)) for sides in (found, size))
        raise ValueError(
            f"mask {path} is {one} but its image {image} is {other}: both must have the same height and width in pixels"
        )
    return mask


def evaluate(
    inspector: Inspector | VolumeInspector,
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    exact_pixels: int = EXACT_PIXELS,
    progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter,
) -> dict[str, Any]:
    """Scores every test image with `inspector` and writes evaluation.json, evaluation.md and the plots into `out`.

    Returns what evaluation.json holds. A figure that this dataset leaves undefined is None, with its reason under
    "undefined". `progress` wraps the images to show how far it is. Raises ValueError for a dataset that is not in MVTec
    layout or whose masks do not fit.
    """
    samples, notes = find_samples(dataset)
    gathered = Gathered(inspector, Path(dataset), exact_pixels, notes)
    results: Iterable[Inspection | VolumeInspection | InvalidImage]
    results = inspector.stream([sample.image for sample in samples])
    for sample, result in zip(progress(samples), results, strict=True):
        gathered.add(sample, result)
    overall = ev.Ranking.of(list(gathered.pools.values()))
    classes = {kind: ev.Ranking.of([pool]) for kind, pool in gathered.pools.items()}
    report, out = gathered.report(overall, classes), Path(out)
    gathered.draw(overall, classes, out)
    write_bytes(out / "evaluation.md", markdown(report, bool(gathered.extremes)).encode())
    write_json(out / "evaluation.json", report)
    return report


class Gathered:
    """What the images of a data set have given so far; pixels of a class are kept together."""

    def __init__(self, inspector: Inspector | VolumeInspector, root: Path, exact_pixels: int, notes: list[str]) -> None:
        self.inspector, self.root, self.exact_pixels, self.notes = inspector, root, exact_pixels, notes
        self.threshold = None if inspector.calibration is None else inspector.calibration.pixel
        self.rows: list[dict[str, Any]] = []
        self.pools: dict[str, ev.PixelPool] = {}
        self.hits: dict[str, ev.Hits] = {}
        self.scale_warnings: list[str] = []
        self.extremes: dict[str, tuple[float, Sample, NDArray[np.float32], NDArray[np.bool_]]] = {}

    def add(self, sample: Sample, result: Inspection | VolumeInspection | InvalidImage) -> None:
        """One image: its row and, where its pixels are labelled, its share of the pools, hits and extremes."""
        row: dict[str, Any] = {"image": sample.image.relative_to(self.root).as_posix(), "class": sample.kind}
        self.rows.append(row)
        if isinstance(result, InvalidImage):
            row["invalid"] = result.reason
            return
        if result.scale_warning:
            self.scale_warnings.append(f"{row['image']}: {result.scale_warning}")
        row |= {"score": result.score, "verdict": result.verdict, "seconds": sum(result.timing.values())}
        if sample.mask is None and not sample.normal:
            return
        assert result.map is not None  # only a sink takes the map away
        if sample.mask is None:
            mask = np.zeros(result.map.shape, bool)
        else:
            mask = read_mask(sample.mask, sample.image, *result.map.shape)
        pool = ev.PixelPool()
        pool.add(result.map, mask)
        row |= {"pixels": pool.pixels, "excluded_pixels": pool.excluded, "defects": pool.regions}
        if self.threshold is not None:
            found = ev.count_hits(result.map, mask, self.threshold)
            self.hits[sample.kind] = self.hits.get(sample.kind, ev.Hits()) + found
            row |= {"defects_hit": found.hit, "normal_pixels_above": _share(found.above, found.normal)}
        if not sample.normal:
            row |= ev.figures(ev.Ranking.of([pool]))
            if row["auroc"] is not None:
                for name, better in (("worst", np.less), ("best", np.greater)):
                    if name not in self.extremes or better(row["auroc"], self.extremes[name][0]):
                        self.extremes[name] = (row["auroc"], sample, result.map, mask)
            if not pool.regions:
                self.notes.append(f"{sample.image}: its class is '{sample.kind}' but its mask marks no pixel")
        self._absorb(sample.kind, pool)

    def _absorb(self, kind: str, image: ev.PixelPool) -> None:
        """The pools are exact together, until they hold more than `exact_pixels`, and coarse together from then on."""
        pool = self.pools.setdefault(kind, ev.PixelPool())
        if any(not other.exact for other in self.pools.values()) and pool.exact:
            pool.coarsen(self.inspector.backend.scale)
        pool.absorb(image)
        if sum(other.pixels for other in self.pools.values() if other.exact) > self.exact_pixels:
            for other in self.pools.values():
                other.coarsen(self.inspector.backend.scale)

    def report(self, overall: ev.Ranking, classes: Mapping[str, ev.Ranking]) -> dict[str, Any]:
        """What evaluation.json holds, by the rankings of all and of each class; ValueError where no image was read."""
        rows, pools, hits = self.rows, self.pools, self.hits
        invalid = [row for row in rows if "invalid" in row]
        if len(invalid) == len(rows):
            raise ValueError(
                f"none of the {len(rows)} test images of {self.root.resolve()} could be read, the first because: "
                f"{rows[0]['invalid']}"
            )
        uncertainty = ev.uncertainty(overall)
        notes = list(self.notes)
        if invalid:
            notes.append(
                f"{len(invalid)} images could not be read and count nowhere, the first is {invalid[0]['image']}"
            )
        if not overall.exact:
            notes.append(
                f"too many pixels to rank each: pooled figures come from {ev.BINS} bins and are right to "
                f"{max(uncertainty.values()):.1e}, per-image figures are exact"
            )
        if self.scale_warnings:
            notes.append(
                f"{len(self.scale_warnings)} images have another pixel size, the first is {self.scale_warnings[0]}"
            )
        report: dict[str, Any] = {
            "dataset": str(self.root.resolve()),
            "model": self.inspector.backend.hash,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": self.inspector.backend.device,
            "images": dict(Counter(row["class"] for row in rows)),
            "invalid": invalid,
            "pixel_threshold": self.threshold,
            "pixels": sum(pool.pixels for pool in pools.values()),
            "excluded_pixels": sum(pool.excluded for pool in pools.values()),
            "exact": overall.exact,
            "uncertainty": uncertainty,
            "overall": _summary(rows, pools.values(), overall, sum(hits.values(), ev.Hits()) if hits else None),
            "classes": {
                kind: _summary(
                    [row for row in rows if row["class"] in (kind, GOOD)],
                    [pools[kind]] if kind in pools else [],
                    classes.get(kind),
                    hits.get(kind),
                    kind,
                )
                for kind in sorted({row["class"] for row in rows})
            },
            "undefined": {},
            "notes": notes,
            "per_image": sorted((row for row in rows if "invalid" not in row), key=_badness),
        }
        report["undefined"] = _reasons(report, self.inspector)
        _against_calibration(report, self.inspector)
        return report

    def draw(self, overall: ev.Ranking, classes: Mapping[str, ev.Ranking], out: Path) -> None:
        """The curves, and the images with the best and the worst pixel AUROC, where there are any."""
        defined = {kind: ranking for kind, ranking in classes.items() if len(ranking.found) and ranking.normal}
        if len(overall.found) and overall.normal:
            title = f"{self.root.resolve().name}: pixels of {sum('invalid' not in row for row in self.rows)} images"
            shown = {"all": overall} | (defined if len(defined) > 1 else {})
            plots.roc(shown, title, out / "roc.png")
            plots.precision_recall(shown, title, out / "pr.png")
        for name, (value, sample, scores, mask) in self.extremes.items():
            place = ""
            with self.inspector.opener(sample.image) as opened:
                if isinstance(opened, Stack):  # the slice with most of the defect
                    number = int(mask.sum((1, 2)).argmax())
                    image, scores, mask = opened.slices(number, number + 1)[0], scores[number], mask[number]
                    scores, mask, place = scores[: len(image)], mask[: len(image)], f", slice {number}"
                else:
                    image = opened.rows(0, opened.height)
            plots.overlay(
                image,
                scores,
                mask,
                out / f"{name}.png",
                scale=self.inspector.backend.scale,
                threshold=self.threshold,
                title=f"{name}: {sample.kind}/{sample.image.name}{place}, pixel AUROC {value:.3f}",
            )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _badness(row: Mapping[str, Any]) -> tuple[int, float]:
    """Worst first: by pixel AUROC, then images without one: anomalous by rising score, normal by falling score."""
    if row.get("auroc") is not None:
        return 0, row["auroc"]
    return (2, -row["score"]) if row["class"] == GOOD else (1, row["score"])


def _summary(
    rows: list[dict[str, Any]],
    pools: Iterable[ev.PixelPool],
    ranking: ev.Ranking | None,
    hits: ev.Hits | None,
    kind: str | None = None,
) -> dict[str, Any]:
    """Figures of the images in `rows`; with `kind`, of that class (its image AUROC is against all good images)."""
    scored = [row for row in rows if "invalid" not in row]
    normal = [row["score"] for row in scored if row["class"] == GOOD]
    anomalous = [row["score"] for row in scored if row["class"] != GOOD]
    masked = [row for row in scored if row.get("auroc") is not None and kind in (None, row["class"])]
    return {
        "normal_images": len(normal) if kind in (None, GOOD) else 0,
        "anomalous_images": len(anomalous),
        "masked_images": len(masked),
        "pixel": dict.fromkeys(ev.FIGURES) if ranking is None else ev.figures(ranking),
        "per_image": ev.mean_figures(masked),
        "image_auroc": ev.image_auroc(normal, anomalous),
        "defects": sum(pool.regions for pool in pools),
        "hits": hits and asdict(hits),
        "defects_hit": hits and _share(hits.hit, hits.defects),
        "large_defects_hit": hits and _share(hits.large_hit, hits.large),
        "normal_pixels_above": hits and _share(hits.above, hits.normal),
    }


def _reasons(report: Mapping[str, Any], inspector: Inspector | VolumeInspector) -> dict[str, str]:
    """Why the figures that are None overall are undefined."""
    overall, reasons = report["overall"], {}
    if overall["pixel"]["auroc"] is None:
        reason = "no test image has a marked defect" if not overall["defects"] else "no pixel of a test image is normal"
        reasons["pixel"] = reasons["per_image"] = reason
    elif overall["per_image"]["auroc"] is None:
        reasons["per_image"] = "no test image has both normal and defect pixels"
    if overall["image_auroc"] is None:
        lacking = (
            "normal test image (test/good is missing or empty)"
            if overall["anomalous_images"]
            else "anomalous test image"
        )
        reasons["image_auroc"] = f"no {lacking}"
    if inspector.calibration is None:
        command = "stacks calibrate" if isinstance(inspector, VolumeInspector) else "calibrate"
        reasons["hits"] = f"the run has no pixel threshold: calibrate it first (anomalib-gan {command} RUN)"
    elif not overall["defects"]:
        reasons["hits"] = "no test image has a marked defect"
    elif overall["large_defects_hit"] is None:
        reasons["large_defects_hit"] = f"no defect is larger than {ev.LARGE} px"
    return reasons


def _against_calibration(report: dict[str, Any], inspector: Inspector | VolumeInspector) -> None:
    """Without normal test images, those of the calibration stand in for them, as a figure of its own."""
    overall, calibration = report["overall"], inspector.calibration
    overall["image_auroc_against_calibration"] = None
    if calibration is None or overall["normal_images"] or not overall["anomalous_images"]:
        return
    if calibration.unit != "images":
        report["notes"].append(
            "the calibration's normal scores come from tiles and do not compare with those of whole images: "
            "give normal images in test/good, or calibrate with --good DIR, for an image AUROC"
        )
        return
    anomalous = [row["score"] for row in report["per_image"]]
    overall["image_auroc_against_calibration"] = ev.image_auroc(calibration.scores, anomalous)
    report["notes"].append(
        f"image AUROC against calibration compares with the {calibration.n} normal images of the calibration, "
        "which are not part of this dataset"
    )
