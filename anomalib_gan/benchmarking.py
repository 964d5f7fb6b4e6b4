"""Tables of what was measured: accuracy by row, seed and data set."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

FIGURES = {"auroc": "pixel AUROC", "ap": "AP", "aupro": "AUPRO", "f1_max": "F1-max", "tpr_at_5_fpr": "TPR at 5 % FPR"}


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """One table per data set, with the commands that give its rows: mean over seeds and, from two seeds on, the spread
    (largest minus smallest). `found`: what each run measured, and its card under "card".
    """
    lines = []
    for data in dict.fromkeys(one["data"] for one in found):
        here = [one for one in found if one["data"] == data]
        heads = ["row", "seeds", *FIGURES.values(), "AUROC, mean over images", "training", "steps", "ms per Mpx"]
        lines += [f"**{data}**", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        commands = []
        for row in dict.fromkeys(one["row"] for one in here):
            group = [one for one in here if one["row"] == row]
            settings = group[0]["card"]["settings"]
            threads = settings["threads"]
            cells = [row, ", ".join(str(one["seed"]) for one in group)]
            cells += [figure([one["pixel"][key] for one in group]) for key in FIGURES]
            cells.append(figure([one["per_image"]["auroc"] for one in group]))
            cells.append(f"{mean(one['seconds'] for one in group) / 60:.1f} min, {threads} thread{'s' * (threads > 1)}")
            cells.append(f"{mean(one['steps'] for one in group):.0f}")
            cells.append(f"{mean(one['ms_per_megapixel'] for one in group):.0f}")
            lines.append("| " + " | ".join(cells) + " |")
            length = f"--steps {settings['steps']}" if settings["steps"] else f"--minutes {settings['minutes']:g}"
            seeds = ",".join(str(one["seed"]) for one in group)
            commands.append(
                f"    anomalib-gan benchmark accuracy --data {data} --rows '{row}' --seeds {seeds} {length}"
            )
            commands[-1] += f" --threads {threads}"
        for one in here:
            if one["alphas"]:
                each = ", ".join(f"{alpha}: {figure([value])}" for alpha, value in one["alphas"].items())
                lines += ["", f"Pixel AUROC of {one['row']}, seed {one['seed']}, by alpha: {each}."]
        machine = here[0]["card"]["machine"]
        told = f"{machine['processor']}, {machine['cores']} cores, " + (machine["gpu"] or "no GPU")
        dates = sorted({str(one["card"]["started"])[:10] for one in here})
        lines += ["", *commands, "", f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {told}.", ""]
    return "\n".join(lines)


def between(text: str, name: str, table: str) -> str:
    """`text` with `table` between the markers <!-- name --> and <!-- /name -->; a ValueError where they are missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the markers {begin.strip()} and {end} are missing: put them where the table belongs")
    return head + begin + table.strip() + "\n" + end + tail


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
