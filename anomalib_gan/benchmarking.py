"""Tables of what was measured: accuracy by row, seed and data set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import mean
from typing import Any

FIGURES = {"auroc": "pixel AUROC", "ap": "AP", "aupro": "AUPRO", "f1_max": "F1-max", "tpr_at_5_fpr": "TPR at 5 % FPR"}


def markdown(found: Sequence[dict[str, Any]], command: str) -> str:
    """One table per data set: mean over seeds and, from two seeds on, the spread (largest minus smallest)."""
    lines = []
    for data in dict.fromkeys(one["data"] for one in found):
        here = [one for one in found if one["data"] == data]
        lines += [f"**{data}**", "", f"| row | seeds | {' | '.join(FIGURES.values())} | mean over images | "
                  "training | steps | ms per Mpx |", "|" + "---|" * (len(FIGURES) + 6)]  # fmt: skip
        for row in dict.fromkeys(one["row"] for one in here):
            group = [one for one in here if one["row"] == row]
            cells = [figure([one["pixel"][key] for one in group]) for key in FIGURES]
            cells.append(figure([one["per_image"]["auroc"] for one in group]))
            cells.append(f"{mean(one['seconds'] for one in group) / 60:.1f} min, {group[0]['threads']} threads")
            cells.append(f"{mean(one['steps'] for one in group):.0f}")
            cells.append(f"{mean(one['ms_per_megapixel'] for one in group):.0f}")
            lines.append(f"| {row} | {', '.join(str(one['seed']) for one in group)} | {' | '.join(cells)} |")
        for one in here:
            if one["alphas"]:
                each = ", ".join(f"{alpha}: {figure([value])}" for alpha, value in one["alphas"].items())
                lines += ["", f"Pixel AUROC of {one['row']}, seed {one['seed']}, by alpha: {each}."]
        lines.append("")
    machine = found[0]["machine"]
    told = ", ".join(f"{key} {value}" for key, value in machine.items()) if isinstance(machine, dict) else machine
    lines += [f"`{command}`, {datetime.now(UTC).date()}; machine: {told}.", ""]
    return "\n".join(lines)


def figure(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    spread = f" (spread {max(known) - min(known):.4f})" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def csv_of(found: Sequence[dict[str, Any]]) -> str:
    lines = [",".join(["data", "row", "seed", *FIGURES, "per_image_auroc", "image_auroc", "seconds", "steps"])]
    for one in found:
        values = [one["data"], one["row"], one["seed"], *(one["pixel"][key] for key in FIGURES)]
        values += [one["per_image"]["auroc"], one["image_auroc"], one["seconds"], one["steps"]]
        lines.append(",".join("" if value is None else str(value) for value in values))
    return "\n".join(lines) + "\n"
