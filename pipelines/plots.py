"""The pictures of a training run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from anomalib_gan.records.pictures import heat_range
from anomalib_gan.runtime.files import write_bytes


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


def reconstructions(rows: Sequence[tuple[Tensor, Tensor | None, Tensor]], scale: Sequence[float], path: Path) -> None:
    """Rows of input | reconstruction | map of normal patches: (C, H, W) in [-1, 1], and (H, W)."""
    rebuilt = rows[0][1] is not None
    columns = 3 if rebuilt else 2
    coldest, hottest = heat_range((scale[0], scale[1]))
    width = max(image.shape[2] / image.shape[1] for image, _, _ in rows)
    figure = Figure(figsize=(3 * width * columns + 0.8, 3 * len(rows) + 0.3), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (image, again, values) in zip(panels, rows, strict=True):
        pictures = [picture for picture in (image, again) if picture is not None]
        for panel, picture in zip(line, pictures, strict=False):
            panel.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
        heat = line[-1].imshow(values.cpu().numpy(), cmap="inferno", vmin=coldest, vmax=max(hottest, coldest + 1e-12))
        for panel in line:
            panel.set_axis_off()
    titles = ["normal patch", "reconstruction"] if rebuilt else ["normal patch"]
    for panel, title in zip(panels[0], [*titles, "map, fixed scale"], strict=True):
        panel.set_title(title, fontsize=10)
    figure.colorbar(heat, ax=list(panels[:, -1]), shrink=0.8)
    write(figure, path)


def sheet(moments: Sequence[tuple[int, Tensor]], path: Path) -> None:
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


def _shown(image: Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] -> (H, W) or (H, W, 3) in [0, 1]."""
    picture = ((image.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
    return picture[..., 0] if picture.shape[2] == 1 else picture
