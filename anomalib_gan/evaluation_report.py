"""The words of an evaluation: figures as text, and evaluation.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalib_gan.evaluation import HIT_SHARE, LARGE

LABELS = {
    "auroc": "AUROC",
    "ap": "AP",
    "aupro": "AUPRO at 30 % FPR",
    "f1_max": "F1-max",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
}


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
        (f"defects over {LARGE} px hit{large}", _text(overall["large_defects_hit"], True), ""),
        ("normal pixels above the threshold", _text(overall["normal_pixels_above"], True), ""),
        (f"image AUROC ({overall['normal_images']} normal)", _text(overall["image_auroc"]), ""),
    ]
    if overall["image_auroc_against_calibration"] is not None:
        rows.append(("image AUROC against calibration", _text(overall["image_auroc_against_calibration"]), ""))
    return rows


def markdown(report: Mapping[str, Any], overlays: bool) -> str:
    """evaluation.md for what evaluation.json holds; with `overlays` it shows the worst and the best image."""

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
        f"A defect is an 8-connected region of a mask; it is hit when at least {HIT_SHARE:.0%} of its pixels lie "
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


def _text(value: float | None, percent: bool = False) -> str:
    return "–" if value is None else f"{value:.1%}" if percent else f"{value:.4f}"
