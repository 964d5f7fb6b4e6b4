"""The pictures of a training run and of an evaluation, each written atomically as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from anomalib_gan.evaluation import FPR_LIMIT, PRO_LIMIT, Ranking, figures
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.heat import heat_range

INK, MUTED, BLUE, ORANGE = "#1a1a1a", "#767676", "#1f5fa8", "#c2571a"
OTHERS = ("#2a9d6f", "#8a5fbf", "#b8960b", "#d1495b", "#4aa3c7", "#7a6a58")  # thin lines beside the main one

Pixels = NDArray[np.floating]


def write(figure: Figure, path: Path) -> None:
    """Writes the figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    write_bytes(path, buffer.getvalue())


def curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """One panel per player, one line per term: the values pale, their running mean over 5 % of the training on top.

    The axis is logarithmic where all terms are positive and one would be flat beside another.
    """
    players = list(dict.fromkeys(who for row in history for who in row["losses"]))
    if not players:
        return
    figure = Figure(figsize=(9, 2.6 * len(players) + 0.4), layout="constrained")
    panels = figure.subplots(len(players), 1, squeeze=False, sharex=True)[:, 0]
    for panel, who in zip(panels, players, strict=True):
        spans = []
        for term in dict.fromkeys(term for row in history for term in row["losses"].get(who, ())):
            rows = [row for row in history if term in row["losses"].get(who, ())]
            steps = np.array([row["step"] for row in rows])
            values = np.array([row["losses"][who][term] for row in rows])
            window = max(1, len(values) // 20)
            padded = np.pad(values, (window // 2, window - 1 - window // 2), mode="edge")
            mean = np.convolve(padded, np.full(window, 1 / window), mode="valid")
            (line,) = panel.plot(steps, mean, linewidth=1.8, label=term, marker="o" if len(steps) == 1 else None)
            panel.plot(steps, values, linewidth=0.8, alpha=0.35, color=line.get_color())
            spans.append((values.min(), mean.max()))
        if min(low for low, _ in spans) > 0 and max(high for _, high in spans) > 20 * min(high for _, high in spans):
            panel.set_yscale("log")
        panel.set_title(who, loc="left", fontsize=11)
        panel.set_ylabel("loss")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("step")
    write(figure, path)


def reconstructions(
    rows: Sequence[tuple[Pixels, Pixels | None, Pixels]], scale: tuple[float, float], path: Path
) -> None:
    """Rows of input | reconstruction | map of normal patches: (C, H, W) in [-1, 1], and (H, W)."""
    rebuilt = rows[0][1] is not None
    columns = 3 if rebuilt else 2
    coldest, hottest = heat_range(scale)
    width = max(image.shape[2] / image.shape[1] for image, _, _ in rows)
    figure = Figure(figsize=(3 * width * columns + 0.8, 3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (image, again, values) in zip(panels, rows, strict=True):
        pictures = [picture for picture in (image, again) if picture is not None]
        for panel, picture in zip(line, pictures, strict=False):
            panel.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
        heat = line[-1].imshow(values, cmap="inferno", vmin=coldest, vmax=max(hottest, coldest + 1e-12))
        for panel in line:
            panel.set_axis_off()
    titles = ["normal patch", "reconstruction"] if rebuilt else ["normal patch"]
    for panel, title in zip(panels[0], [*titles, "map, fixed scale"], strict=True):
        panel.set_title(title, fontsize=10)
    figure.colorbar(heat, ax=list(panels[:, -1]), shrink=0.8)
    write(figure, path)


def side_by_side(rows: Sequence[Sequence[Pixels]], titles: Sequence[str], path: Path) -> None:
    """Rows of pictures (C, H, W) in [-1, 1], of one size each, under a title for each column."""
    figure = Figure(figsize=(3 * len(titles), 3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(panels, rows, strict=True):
        for panel, picture in zip(line, pictures, strict=True):
            panel.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
            panel.set_axis_off()
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    write(figure, path)


def sheet(moments: Sequence[tuple[int, Pixels]], path: Path) -> None:
    """One row per moment of the training (its step, (N, C, H, W) in [-1, 1]), one column per code, always the same."""
    columns = len(moments[0][1])
    figure = Figure(figsize=(1.5 * columns + 1, 1.5 * len(moments)), layout="constrained")
    panels = figure.subplots(len(moments), columns, squeeze=False)
    for line, (step, images) in zip(panels, moments, strict=True):
        for panel, image in zip(line, images, strict=True):
            panel.imshow(_shown(image), cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(f"step {step}", fontsize=10)
    write(figure, path)


def roc(rankings: Mapping[str, Ranking], title: str, path: Path) -> None:
    """The ROC of each ranking; the first is the main one and gets its PRO curve too."""
    figure, axes = _square(title, "normal pixels flagged (false-positive rate)", "defect found")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":", label="chance")
    for place, (name, ranking) in enumerate(rankings.items()):
        value = figures(ranking)
        main = place == 0
        axes.plot(
            *_thinned(*ranking.curve(ranking.found)),
            label=f"{name}: ROC, area {value['auroc']:.4f}",
            color=BLUE if main else OTHERS[(place - 1) % len(OTHERS)],
            linewidth=2 if main else 1,
            zorder=3 if main else 2,
        )
        if main:
            axes.plot(
                *_thinned(*ranking.curve(ranking.overlap)),
                label=f"{name}: PRO, AUPRO {value['aupro']:.4f}",
                color=ORANGE,
                linewidth=2,
                zorder=3,
            )
            axes.axvspan(0, PRO_LIMIT, color=ORANGE, alpha=0.07, linewidth=0, label=f"FPR up to {PRO_LIMIT:.0%}: AUPRO")
            axes.plot(
                FPR_LIMIT,
                value["tpr_at_5_fpr"] or 0.0,
                "o",
                color=BLUE,
                zorder=4,
                label=f"{value['tpr_at_5_fpr']:.1%} of defect pixels at {FPR_LIMIT:.0%} FPR",
            )
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    write(figure, path)


def precision_recall(rankings: Mapping[str, Ranking], title: str, path: Path) -> None:
    """Precision over recall of each ranking; the first is the main one. F1-max is marked on it."""
    figure, axes = _square(title, "recall (defect pixels found)", "precision (flagged pixels that are defect)")
    for place, (name, ranking) in enumerate(rankings.items()):
        recall, precision = ranking.found / ranking.found[-1], ranking.found / (ranking.found + ranking.level)
        main = place == 0
        axes.plot(
            *_thinned(recall, precision),
            label=f"{name}: AP {figures(ranking)['ap']:.4f}",
            color=BLUE if main else OTHERS[(place - 1) % len(OTHERS)],
            linewidth=2 if main else 1,
            drawstyle="steps-pre",
            zorder=3 if main else 2,
        )
        if main:
            f1 = 2 * precision * recall / (precision + recall)
            best = int(f1.argmax())
            axes.plot(recall[best], precision[best], "o", color=ORANGE, zorder=4, label=f"F1-max {f1[best]:.4f}")
            share = float(ranking.found[-1] / (ranking.found[-1] + ranking.normal))
            axes.axhline(
                share, color=MUTED, linewidth=0.8, linestyle=":", label=f"chance: {share:.1%} of pixels are defect"
            )
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    write(figure, path)


def overlay(
    image: NDArray[Any],
    scores: NDArray[np.float32],
    mask: NDArray[np.bool_],
    path: Path,
    *,
    scale: tuple[float, float],
    threshold: float | None,
    title: str,
    side: int = 1600,
) -> None:
    """An image (H, W, C) beside its map, on the fixed range of `scale` and never of the map itself.

    Green outline: the mask; blue, with a pixel threshold: what the detector flags. Larger images are thinned to `side`.
    """
    step = min(-(-max(scores.shape) // side), max(min(scores.shape) // 2, 1))  # outlines need two rows
    grey, values, truth = image[::step, ::step], scores[::step, ::step], mask[::step, ::step]
    grey = grey.astype(np.float32)
    low, high = np.percentile(grey, [0.1, 99.9])
    grey = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)  # for the eye only: dark 16-bit images would show black
    height, width = values.shape
    tall = height > 1.6 * width
    figure = Figure(layout="constrained")
    shape = (1, 2) if height > 0.6 * width else (2, 1)
    cell = 6.5 if shape == (1, 2) and not tall else 4.5 if tall else 11.0
    figure.set_size_inches(shape[1] * cell + 0.9, shape[0] * cell * min(height / width, 3.0) + 0.8)
    left, right = figure.subplots(*shape)
    for axes in (left, right):
        axes.set_axis_off()
    left.imshow(grey.squeeze(), cmap="gray", vmin=0, vmax=1)
    coldest, hottest = heat_range(scale)
    heat = right.imshow(values, cmap="inferno", vmin=coldest, vmax=hottest)
    bar = figure.colorbar(heat, ax=right, extend="both", fraction=0.046, pad=0.02)
    bar.set_label(f"map on a fixed scale; 99.9 % of normal pixels lie below {scale[1]:.3g}", color=INK)
    lines = []

    def outline(field: NDArray[np.bool_], where: Sequence[Axes], colour: str, name: str) -> None:
        if field.any() and not field.all():
            for axes in where:
                axes.contour(field, levels=[0.5], colors=colour, linewidths=1.3)
            lines.append(Line2D([], [], color=colour, label=name))

    outline(truth, (left, right), "#5ee06a", "defect in the mask")
    if threshold is not None:
        outline(values > np.float64(threshold), (left, right), "#38d0ff", "above the pixel threshold")
    bar.ax.axhline(scale[1], color="white", linewidth=1.5)
    if threshold is not None and coldest < threshold < hottest:
        bar.ax.axhline(threshold, color="#38d0ff", linewidth=1.5)
    if lines:
        figure.legend(handles=lines, loc="outside lower left", ncols=2, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    write(figure, path)


def _square(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.4, 6.0), layout="constrained")
    axes = figure.add_subplot(xlim=(-0.005, 1.005), ylim=(-0.005, 1.005), xlabel=x, ylabel=y)
    axes.set_title(title, loc="left", color=INK)
    axes.set_aspect("equal")
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64], points: int = 4000) -> tuple[NDArray[Any], NDArray[Any]]:
    kept = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    return x[kept], y[kept]


def _shown(image: Pixels) -> Pixels:
    """(C, H, W) in [-1, 1] -> (H, W) or (H, W, 3) in [0, 1]."""
    picture = ((image + 1) / 2).clip(0, 1).transpose(1, 2, 0)
    return picture[..., 0] if picture.shape[2] == 1 else picture
