"""How accurate detectors are on labelled data: the rows of the benchmark, what is measured of each run, the table.

A row is a model of the zoo that looks at images, by its name, or the detector with other settings than its defaults.
Some rows need no training of their own: they are the map of another row's run, mixed otherwise.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from anomalib_gan.benchmarking import held_pixels, per_megapixel
from anomalib_gan.data import fill
from anomalib_gan.export import TorchBackend
from anomalib_gan.model import Model
from anomalib_gan.models import MODELS
from anomalib_gan.models.fcbigan import FCBiGAN
from anomalib_gan.proxy import SIDE, TRIALS, effort, proxy
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json, short
from anomalib_gan.runtime.inspector import Inspector

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "detector": ("fcbigan", {}),
    "adversarial weight 0": ("fcbigan", {"adversarial": 0.0}),
    "without negatives": ("fcbigan", {"negatives": 0.0}),
    "L1 instead of SSIM": ("fcbigan", {"norm": "l1"}),
    "L2 instead of SSIM": ("fcbigan", {"norm": "l2"}),
    "working scale 1": ("fcbigan", {"shrink": 1, "patch": 96}),
    "working scale 1/4": ("fcbigan", {"shrink": 4, "patch": 384}),
    "twice as wide": ("fcbigan", {"width": 64}),
    "one look": ("fcbigan", {"turned": False}),
    "source mode": ("fcbigan_source", {}),
    "augmented with samples": ("fcbigan", {}),
    "painted negatives": ("fcbigan", {}),
    **{name: (name, {}) for name, kind in MODELS.items() if kind.mapped is True and kind.dim == 2},
}
# The model whose run, of the same budget, feeds the training of a row.
FED_BY = {"augmented with samples": "dcgan", "painted negatives": "mask_gan"}
ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
# Mixtures of (critic, residual, likelihood) that are evaluated beside the one that was found.
MIXTURES = {
    "critic alone": (1.0, 0.0, 0.0),
    "residual alone": (0.0, 1.0, 0.0),
    "likelihood alone": (0.0, 0.0, 1.0),
    "alpha 0.75": (0.75, 0.25, 0.0),
}
FIGURES = {"auroc": "pixel AUROC", "aupro": "AUPRO", "tpr_at_5_fpr": "TPR at 5 % FPR"}
Evaluate = Callable[[Inspector, Path], dict[str, Any]]


def measured(run: Path, inspector: Inspector, evaluate: Evaluate, tell: Callable[[str], None]) -> dict[str, Any]:
    """All that the table holds of a calibrated run. `evaluate(inspector, out)` evaluates on the data set.

    "views" holds the same figures for the mixtures of the detector's map beside the one found: of source mode every
    alpha of ALPHAS, else those of MIXTURES; of other models none. "proxy_crops": how many, and their side in px.
    """
    backend = inspector.backend
    assert isinstance(backend, TorchBackend)
    model: Model = backend.graph.model
    found, card = summary(evaluate(inspector, run / "evaluation")), read_card(run)
    views = {}
    if isinstance(model, FCBiGAN):
        weights = model.weights
        kept, kept_limit = weights.clone(), getattr(model, "limit", math.inf)
        source = card["spec"]["name"] == "fcbigan_source"
        mixtures = {f"alpha {alpha:g}": (alpha, 1 - alpha, 0.0) for alpha in ALPHAS} if source else MIXTURES
        for name, mixture in mixtures.items():
            weights.copy_(torch.tensor(mixture))
            setattr(model, "limit", math.inf if name == "residual alone" else kept_limit)  # noqa: B010
            views[name] = summary(evaluate(inspector, run / "evaluation" / name.replace(" ", "-")))
        weights.copy_(kept)
        setattr(model, "limit", kept_limit)  # noqa: B010
    least = max(model.stride, model.smallest)  # narrow strips are mirrored out, as `train` does where it looks at them
    normals = [fill(torch.from_numpy(grey).float().permute(2, 0, 1), least)[None] for grey in held_pixels(run, tell)]
    trials, side = effort(model)
    tell(f"judging the map on {trials} crops of {side} px with synthetic defects")
    return {
        **found,
        "views": views,
        "proxy": proxy(model, normals, trials=trials, side=side)["map"],
        "proxy_crops": [trials, side],
        "steps": card["steps"],
        "seconds": card["duration_s"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "ms_per_megapixel": per_megapixel(inspector),
    }


def recorded(found: dict[str, Any]) -> dict[str, Any]:
    """Of a run's measurements with its card all that a table says, so that the run itself may go."""
    card = found["card"]
    settings = {name: card["settings"][name] for name in ("steps", "minutes", "threads")}
    machine = {name: card["machine"][name] for name in ("processor", "cores", "gpu")}
    return found | {"card": {"settings": settings, "machine": machine, "started": card["started"]}}


def read_record(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """What `recorded` made of runs, from a JSON file; none where there is no file. ValueError where it is another's."""
    if not Path(path).exists():
        return []
    found = read_json(path)
    known = {"data", "row", "seed", "card", "pixel", "views", "proxy", "steps", "seconds"}
    for one in found if isinstance(found, list) else [found]:
        if not isinstance(one, dict) or not known <= one.keys() or one["row"] not in ROWS:
            what = one.get("row") if isinstance(one, dict) else one
            raise ValueError(
                f"{path} is no record of this benchmark, or another version's ({short(what)}): give another --record"
            )
    return list(found)


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """What an evaluation gives the table: figures over all pixels, over images, of whole images, of large defects."""
    overall = report["overall"]
    return {key: overall[key] for key in ("pixel", "per_image", "image_auroc", "large_defects_hit")} | {
        "normal_pixels_above": overall["normal_pixels_above"],
        "classes": {kind: one["pixel"]["auroc"] for kind, one in report["classes"].items() if kind != "good"},
    }


HEADS = (
    *("row", "seeds", *FIGURES.values(), "AUROC, mean over images", "image AUROC", "defects > 400 px hit"),
    *("normal pixels above", "proxy", "training", "steps", "parameters", "ms per Mpx"),
)


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """One table per data set, with the commands that give its rows: mean over seeds and, from two seeds on, the spread
    (largest minus smallest). `found`: what each run measured, and its card under "card".
    """
    lines = []
    for data in dict.fromkeys(one["data"] for one in found):
        here = [one for one in found if one["data"] == data]
        lines += [f"**{data}**", "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
        commands: dict[str, list[str]] = {}
        sweeps = []
        for row in dict.fromkeys(one["row"] for one in here):
            group = [one for one in here if one["row"] == row]
            settings = group[0]["card"]["settings"]
            threads = settings["threads"]
            played = f"{mean(one['seconds'] for one in group) / 60:.1f} min, {threads} thread{'s' * (threads > 1)}"
            cost = [
                played if any(one["steps"] for one in group) else "closed form",
                f"{mean(one['steps'] for one in group):.0f}",
                f"{group[0]['parameters']:,}",
                f"{mean(one['ms_per_megapixel'] for one in group):.0f}",
            ]
            seeds = ", ".join(str(one["seed"]) for one in group)
            lines.append(table_row(row, seeds, group, [figure([one["proxy"] for one in group]), *cost]))
            views = list(group[0]["views"])
            if row == "source mode":
                values = ", ".join(
                    f"{name.removeprefix('alpha ')}: {figure([one['views'][name]['pixel']['auroc'] for one in group])}"
                    for name in views
                )
                sweeps.append(f"Pixel AUROC of {row} by alpha: {values}.")
            elif row == "detector":
                for name in views:
                    mixed = [one["views"][name] for one in group]
                    lines.append(table_row(f"- {name}", seeds, mixed, [""] * 5, thresholds=False))
            length = f"--steps {settings['steps']}" if settings["steps"] else f"--minutes {settings['minutes']:g}"
            commands.setdefault(f"--seeds {seeds.replace(' ', '')} {length} --threads {threads}", []).append(row)
        machines = [one["card"]["machine"] for one in here]
        told = " and ".join(
            dict.fromkeys(f"{one['processor']}, {one['cores']} cores, {one['gpu'] or 'no GPU'}" for one in machines)
        )
        dates = sorted({str(one["card"]["started"])[:10] for one in here})
        lines += [line for sweep in sweeps for line in ("", sweep)]
        lines += [line for note in (*fewer(here), *fed(here)) for line in ("", note)]
        told_by = [
            f"    anomalib-gan benchmark accuracy --data {data} --models '{','.join(rows)}' {rest}"
            for rest, rows in commands.items()
        ]
        lines += ["", *told_by, "", f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {told}.", ""]
    return "\n".join(lines)


def fewer(found: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each size of the proxy that is not the usual one: its figures are of another sample."""
    rows: dict[tuple[int, int], list[str]] = {}
    for one in found:
        rows.setdefault(tuple(one.get("proxy_crops", (TRIALS, SIDE))), []).append(one["row"])
    return [
        f"The map of {', '.join(dict.fromkeys(names))} takes an optimisation, so the proxy is of {trials} crops of "
        f"{side} px instead of {TRIALS} of {SIDE}."
        for (trials, side), names in rows.items()
        if (trials, side) != (TRIALS, SIDE)
    ]


def fed(found: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each row that another run feeds: what it was, and that its training is not counted."""
    return [
        f"The row {row} was fed by a run of {FED_BY[row]}, whose training of the same length is not counted in it."
        for row in dict.fromkeys(one["row"] for one in found)
        if row in FED_BY
    ]


def table_row(
    name: str, seeds: str, group: Sequence[dict[str, Any]], rest: Sequence[str], thresholds: bool = True
) -> str:
    """A row of the table; without `thresholds` where the calibration is that of another map."""
    cells = [name, seeds, *(figure([one["pixel"][key] for one in group]) for key in FIGURES)]
    cells.append(figure([one["per_image"]["auroc"] for one in group]))
    image, *others = (figure([one[key] for one in group]) for key in HEADS_OF_IMAGES)
    cells += [image, *(others if thresholds else ["" for _ in others])]
    return "| " + " | ".join([*cells, *rest]) + " |"


HEADS_OF_IMAGES = ("image_auroc", "large_defects_hit", "normal_pixels_above")


def figure(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    spread = f" (spread {max(known) - min(known):.4f})" if len(known) > 1 else ""
    return f"{mean(known):.4f}{spread}"


def csv_of(found: Sequence[dict[str, Any]]) -> str:
    """Every run and, below it, its mixtures, a line each."""
    pixel = ("auroc", "ap", "aupro", "f1_max", "tpr_at_5_fpr")
    cost = ("proxy", "seconds", "steps", "parameters", "ms_per_megapixel")
    lines = [",".join(["data", "row", "seed", "mixture", *pixel, "per_image_auroc", *HEADS_OF_IMAGES, *cost])]
    for one in found:
        for mixture, values in {"": one, **one["views"]}.items():
            cells = [one["data"], one["row"], one["seed"], mixture, *(values["pixel"][key] for key in pixel)]
            cells += [values["per_image"]["auroc"], *(values[key] for key in HEADS_OF_IMAGES)]
            cells += [values.get(key) for key in cost]
            lines.append(",".join("" if cell is None else str(cell) for cell in cells))
    return "\n".join(lines) + "\n"


def place_of(out: Path, data: str | os.PathLike[str], row: str, seed: int) -> Path:
    """Where the run of a row lies."""
    return out / Path(data).resolve().name / f"{row.replace(' ', '-').replace('/', '-of-')}-{seed}"
