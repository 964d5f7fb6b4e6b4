"""evaluate: how well a trained run finds the defects of a labelled dataset in MVTec layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from anomalib_gan import evaluation as ev
from anomalib_gan.runtime.files import write_bytes, write_json
from anomalib_gan.runtime.image import IMAGE_SUFFIXES, find_images, open_image
from anomalib_gan.runtime.inspector import Inspection, Inspector, InvalidImage
from pipelines.calibrate import rows_of_bar
from pipelines.opening import open_inspector

EXACT_PIXELS = 200_000_000  # up to here every pixel is ranked (about 1 GB); beyond, pixels are counted in ev.BINS bins
GOOD = "good"
LABELS = {
    "auroc": "AUROC",
    "ap": "AP",
    "aupro": "AUPRO at 30 % FPR",
    "f1_max": "F1-max",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
}


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


def read_mask(path: Path, image: Path, height: int, width: int) -> NDArray[np.bool_]:
    """The mask (height, width), True where any colour channel is above 0, whatever its dtype."""
    with open_image(path, info_bar=0, white=float(np.finfo(np.float32).max)) as picture:  # a mask has no white
        if (picture.height, picture.width) != (height, width):
            raise ValueError(
                f"mask {path} is {picture.height}x{picture.width} but its image {image} is {height}x{width}: "
                "both must have the same height and width in pixels"
            )
        return picture.rows(0, picture.height).max(axis=2) > 0


def evaluate_dataset(
    inspector: Inspector,
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    exact_pixels: int = EXACT_PIXELS,
) -> dict[str, Any]:
    """Scores every test image with `inspector` and writes evaluation.json, evaluation.md and the plots into `out`.

    Returns what evaluation.json holds. A figure that this dataset leaves undefined is None, with its reason under
    "undefined". Raises ValueError for a dataset that is not in MVTec layout or whose masks do not fit.
    """
    samples, notes = find_samples(dataset)
    out = Path(out)
    root = Path(dataset).resolve()
    threshold = None if inspector.calibration is None else inspector.calibration.pixel
    pools: dict[str, ev.PixelPool] = {}
    rows: list[dict[str, Any]] = []
    hits: dict[str, ev.Hits] = {}
    scale_warnings: list[str] = []
    extremes: dict[str, tuple[float, Sample, NDArray[np.float32], NDArray[np.bool_]]] = {}
    for sample, result in _scored(inspector, samples):
        row: dict[str, Any] = {"image": sample.image.relative_to(Path(dataset)).as_posix(), "class": sample.kind}
        rows.append(row)
        if isinstance(result, InvalidImage):
            row["invalid"] = result.reason
            continue
        if result.scale_warning:
            scale_warnings.append(f"{row['image']}: {result.scale_warning}")
        row |= {"score": result.score, "verdict": result.verdict, "seconds": sum(result.timing.values())}
        if sample.mask is None and not sample.normal:
            continue
        assert result.map is not None  # only a sink takes the map away
        if sample.mask is None:
            mask = np.zeros(result.map.shape, bool)
        else:
            mask = read_mask(sample.mask, sample.image, result.height, result.width)
        image_pool = ev.PixelPool()
        image_pool.add(result.map, mask)
        row |= {"pixels": image_pool.pixels, "excluded_pixels": image_pool.excluded, "defects": image_pool.regions}
        if threshold is not None:
            found = ev.count_hits(result.map, mask, threshold)
            hits[sample.kind] = hits.get(sample.kind, ev.Hits()) + found
            row |= {"defects_hit": found.hit, "normal_pixels_above": _share(found.above, found.normal)}
        if not sample.normal:
            row |= ev.figures(ev.Ranking.of([image_pool]))
            if row["auroc"] is not None:
                for name, better in (("worst", np.less), ("best", np.greater)):
                    if name not in extremes or better(row["auroc"], extremes[name][0]):
                        extremes[name] = (row["auroc"], sample, result.map, mask)
            if not image_pool.regions:
                notes.append(f"{sample.image}: its class is '{sample.kind}' but its mask marks no pixel")
        pool = pools.setdefault(sample.kind, ev.PixelPool())
        if any(not other.exact for other in pools.values()) and pool.exact:
            pool.coarsen(inspector.backend.scale)
        pool.absorb(image_pool)
        if sum(other.pixels for other in pools.values() if other.exact) > exact_pixels:
            for other in pools.values():
                other.coarsen(inspector.backend.scale)
    if all("invalid" in row for row in rows):
        raise ValueError(
            f"none of the {len(rows)} test images of {root} could be read, the first because: {rows[0]['invalid']}"
        )

    rankings = {kind: ev.Ranking.of([pool]) for kind, pool in pools.items()}
    overall = ev.Ranking.of(list(pools.values()))
    notes += _remarks(rows, overall, pools)
    if scale_warnings:
        notes.append(f"{len(scale_warnings)} images have another pixel size, the first is {scale_warnings[0]}")
    report: dict[str, Any] = {
        "dataset": str(root),
        "model": inspector.backend.hash,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": inspector.backend.device,
        "images": dict(Counter(row["class"] for row in rows)),
        "invalid": [row for row in rows if "invalid" in row],
        "pixel_threshold": threshold,
        "pixels": sum(pool.pixels for pool in pools.values()),
        "excluded_pixels": sum(pool.excluded for pool in pools.values()),
        "exact": overall.exact,
        "uncertainty": ev.uncertainty(overall),
        "overall": _summary(rows, pools.values(), overall, sum(hits.values(), ev.Hits()) if hits else None),
        "classes": {
            kind: _summary(
                [row for row in rows if row["class"] in (kind, GOOD)],
                [pools[kind]] if kind in pools else [],
                rankings.get(kind),
                hits.get(kind),
                kind,
            )
            for kind in sorted({row["class"] for row in rows})
        },
        "undefined": {},
        "notes": notes,
        "per_image": sorted((row for row in rows if "invalid" not in row), key=_badness),
    }
    report["undefined"] = _reasons(report, inspector)
    _against_calibration(report, inspector)

    title = f"{root.name}: pixels of {len(rows) - len(report['invalid'])} images"
    if report["overall"]["pixel"]["auroc"] is not None:
        defined = {kind: value for kind, value in rankings.items() if len(value.found) and value.normal}
        shown = {"all": overall} | (defined if len(defined) > 1 else {})
        write_bytes(out / "roc.png", ev.plot_roc(shown, title))
        write_bytes(out / "pr.png", ev.plot_pr(shown, title))
    for name, (value, sample, scores, mask) in extremes.items():
        with inspector.opener(sample.image) as picture:
            image = picture.rows(0, picture.height)
        title = f"{name}: {sample.kind}/{sample.image.name}, pixel AUROC {value:.3f}"
        scale = inspector.backend.scale
        write_bytes(
            out / f"{name}.png", ev.plot_overlay(image, scores, mask, scale=scale, threshold=threshold, title=title)
        )
    write_bytes(out / "evaluation.md", _markdown(report, bool(extremes)).encode())
    write_json(out / "evaluation.json", report)
    return report


def _scored(inspector: Inspector, samples: list[Sample]) -> Iterator[tuple[Sample, Inspection | InvalidImage]]:
    results = inspector.stream([sample.image for sample in samples])
    console = Console(stderr=True)
    pairs = zip(samples, results, strict=True)
    yield from track(
        pairs, "evaluating", total=len(samples), console=console, transient=True, disable=not console.is_terminal
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _badness(row: Mapping[str, Any]) -> tuple[int, float]:
    """Worst first: by pixel AUROC, then images without one: anomalous by rising score, normal by falling score."""
    if row.get("auroc") is not None:
        return 0, row["auroc"]
    return (2, -row["score"]) if row["class"] == GOOD else (1, row["score"])


def _summary(
    rows: list[dict[str, Any]], pools: Any, ranking: ev.Ranking | None, hits: ev.Hits | None, kind: str | None = None
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


def _remarks(rows: list[dict[str, Any]], overall: ev.Ranking, pools: Mapping[str, ev.PixelPool]) -> list[str]:
    notes = []
    if invalid := [row for row in rows if "invalid" in row]:
        notes.append(f"{len(invalid)} images could not be read and count nowhere, the first is {invalid[0]['image']}")
    if any(not pool.exact for pool in pools.values()):
        worst = max(ev.uncertainty(overall).values())
        notes.append(
            f"too many pixels to rank each: pooled figures come from {ev.BINS} bins and are right to {worst:.1e}, "
            "per-image figures are exact"
        )
    return notes


def _reasons(report: Mapping[str, Any], inspector: Inspector) -> dict[str, str]:
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
        reasons["hits"] = "the run has no pixel threshold: calibrate it first (anomalib-gan calibrate RUN)"
    elif not overall["defects"]:
        reasons["hits"] = "no test image has a marked defect"
    elif overall["large_defects_hit"] is None:
        reasons["large_defects_hit"] = f"no defect is larger than {ev.LARGE} px"
    return reasons


def _against_calibration(report: dict[str, Any], inspector: Inspector) -> None:
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


def _text(value: float | None, percent: bool = False) -> str:
    return "–" if value is None else f"{value:.1%}" if percent else f"{value:.4f}"


def overall_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, pooled, mean per image) of the whole dataset, as text."""
    overall = report["overall"]
    rows = [
        (f"pixel {label}", _text(overall["pixel"][key]), _text(overall["per_image"][key]))
        for key, label in LABELS.items()
    ]
    hits = overall["hits"]
    count, large = (
        (f" ({hits['hit']} of {hits['defects']})", f" ({hits['large_hit']} of {hits['large']})") if hits else ("", "")
    )
    rows += [
        (f"defects hit{count}", _text(overall["defects_hit"], True), ""),
        (
            f"defects over {ev.LARGE} px hit{large}",
            _text(overall["large_defects_hit"], True),
            "",
        ),
        ("normal pixels above the threshold", _text(overall["normal_pixels_above"], True), ""),
        (f"image AUROC ({overall['normal_images']} normal)", _text(overall["image_auroc"]), ""),
    ]
    if overall["image_auroc_against_calibration"] is not None:
        rows.append(("image AUROC against calibration", _text(overall["image_auroc_against_calibration"]), ""))
    return rows


def _markdown(report: Mapping[str, Any], overlays: bool) -> str:
    def table(head: list[str], rows: list[list[str]]) -> list[str]:
        cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        return [lines[0], "|---|" + "---:|" * (len(head) - 1), *lines[1:], ""]

    overall = report["overall"]
    lines = [
        f"# Evaluation on {Path(report['dataset']).name}",
        "",
        f"{overall['normal_images']} normal and {overall['anomalous_images']} anomalous images, "
        f"{overall['masked_images']} with masks; {report['pixels'] / 1e6:.1f} Mpx ranked, "
        f"{report['excluded_pixels'] / 1e6:.2f} Mpx of info bars left out. "
        f"Model {report['model'][:12]}, {report['created']}.",
        "",
        *table(["figure", "pooled", "mean over images"], [list(row) for row in overall_rows(report)]),
        f"A defect is an 8-connected region of a mask; it is hit when at least {ev.HIT_SHARE:.0%} of its pixels lie "
        "above the pixel threshold, which comes from normal images"
        + ("." if report["pixel_threshold"] is None else f" ({report['pixel_threshold']:.4g})."),
        "",
    ]
    if report["undefined"]:
        lines += ["Undefined (–):", "", *(f"- {name}: {reason}" for name, reason in report["undefined"].items()), ""]
    if report["notes"]:
        lines += ["Notes:", "", *(f"- {note}" for note in report["notes"]), ""]
    lines += [
        "## Classes",
        "",
        "Pixel figures of a class pool the images of that class; its image AUROC is against all normal images.",
        "",
        *table(
            ["class", "images", *LABELS.values(), "image AUROC", "defects hit", "normal pixels above"],
            [
                [
                    kind,
                    str(report["images"][kind]),
                    *(_text(value["pixel"][key]) for key in LABELS),
                    _text(value["image_auroc"]),
                    _text(value["defects_hit"], True),
                    _text(value["normal_pixels_above"], True),
                ]
                for kind, value in report["classes"].items()
            ],
        ),
    ]
    if overall["pixel"]["auroc"] is not None:
        lines += ["![ROC](roc.png) ![precision over recall](pr.png)", ""]
    if overlays:
        lines += ["![worst image](worst.png)", "", "![best image](best.png)", ""]
    lines += [
        "## Images, worst first",
        "",
        *table(
            ["image", "score", "verdict", *LABELS.values(), "defects hit"],
            [
                [
                    row["image"],
                    f"{row['score']:.4g}",
                    row["verdict"] or "–",
                    *(_text(row.get(key)) for key in LABELS),
                    f"{row['defects_hit']} of {row['defects']}" if row.get("defects") and "defects_hit" in row else "–",
                ]
                for row in report["per_image"]
            ],
        ),
    ]
    if report["invalid"]:
        lines += ["## Not read", "", *(f"- {row['image']}: {row['invalid']}" for row in report["invalid"]), ""]
    return "\n".join(lines)


def evaluate(
    run: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    rescale: bool = False,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
) -> dict[str, Any]:
    """`evaluate_dataset` for a run's folder; `out` defaults to run/evaluation/<dataset name>.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; `rescale`, `device`, `tile` and `threads`
    those of `open_inspector`.
    """
    inspector = open_inspector(run, device=device, tile=tile, threads=threads, rescale=rescale)
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    return evaluate_dataset(inspector, dataset, out or Path(run) / "evaluation" / Path(dataset).resolve().name)


def print_report(report: Mapping[str, Any], out: Path, console: Console) -> None:
    """The overall table, what is undefined and why, the notes, and where the files are."""
    table = Table(title=f"Evaluation on {Path(report['dataset']).name}", title_justify="left")
    table.add_column("figure")
    table.add_column("pooled", justify="right")
    table.add_column("mean over images", justify="right")
    for row in overall_rows(report):
        table.add_row(*row)
    console.print(table)
    for name, reason in report["undefined"].items():
        console.print(f"{name} is undefined: {reason}", markup=False)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"written to {out}", markup=False)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model; calibrated, for defects hit.")],
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET",
            help="Labelled images in MVTec layout: test/good/\\*, test/KIND/\\*, ground_truth/KIND/NAME_mask.png.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write; default RUN/evaluation/DATASET.")] = None,
    info_bar: str = typer.Option("auto", help="Rows at the bottom that are no image; `auto` reads or finds them."),
    bits: int | None = typer.Option(None, help="Significant bits, such as 12 for a 12-bit detector in 16-bit files."),
    white: float | None = typer.Option(None, help="Grey level of white; floating-point TIFFs need it."),
    rescale: bool = typer.Option(False, help="Resample images whose pixel size differs from the training images'."),
    device: str = typer.Option("auto", help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."),
    tile: int = typer.Option(1024, help="Side in pixels of the tiles that large images are cut into."),
    threads: int | None = typer.Option(None, help="Processor threads of the network."),
) -> None:
    """Measure a run on images with masks: AUROC, AP, AUPRO, F1-max, defects hit, plots, best and worst image."""
    report = evaluate(
        run,
        dataset,
        out=out,
        info_bar=rows_of_bar(info_bar),
        bits=bits,
        white=white,
        rescale=rescale,
        device=device,
        tile=tile,
        threads=threads,
    )
    print_report(report, out or run / "evaluation" / dataset.resolve().name, Console())
