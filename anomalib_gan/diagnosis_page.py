"""The page of plots that goes with a diagnosis, written atomically as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from anomalib_gan.findings import Bars, Finding, Lines, Pictures
from anomalib_gan.plots import BLUE, INK, MUTED, ORANGE, OTHERS, write

COLOURS = (BLUE, ORANGE, *OTHERS)
WIDTH = 13.0  # inches
GAP = 4  # px between pictures
ALL = 24  # bars that are all named; of more, every other or less


def page(findings: Sequence[Finding], title: str, path: Path) -> None:
    """Curves and bars two to a row, rows of pictures across the page; nothing where there is nothing to see."""
    panels = [panel for one in findings for panel in one.panels]
    rows: list[list[Lines | Bars | Pictures]] = []
    for panel in panels:
        open_ = rows and len(rows[-1]) == 1 and not isinstance(rows[-1][0], Pictures)
        if open_ and not isinstance(panel, Pictures):
            rows[-1].append(panel)
        else:
            rows.append([panel])
    if not rows:
        return
    heights = [picture_height(row[0]) if isinstance(row[0], Pictures) else 3.0 for row in rows]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    grid = figure.add_gridspec(len(rows), 2, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = figure.add_subplot(grid[i, :] if isinstance(panel, Pictures) else grid[i, j])
            axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
            if isinstance(panel, Lines):
                lines(axes, panel)
            elif isinstance(panel, Bars):
                bars(axes, panel)
            else:
                pictures(axes, panel)
    write(figure, path)


def lines(axes: Axes, panel: Lines) -> None:
    for (name, values), colour in zip(panel.y.items(), COLOURS, strict=False):
        axes.plot(panel.x, values, color=colour, linewidth=1.6, label=name)
    for name, value in panel.marks.items():
        axes.axvline(value, color=MUTED, linewidth=1, linestyle=":", label=name)
    axes.set_xlabel(panel.label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)


def bars(axes: Axes, panel: Bars) -> None:
    width = 0.8 / len(panel.heights)
    places = np.arange(len(panel.names))
    for k, ((name, values), colour) in enumerate(zip(panel.heights.items(), COLOURS, strict=False)):
        axes.bar(places + (k - (len(panel.heights) - 1) / 2) * width, values, width, color=colour, label=name)
    step = -(-len(panel.names) // ALL)
    axes.set_xticks(places[::step], list(panel.names)[::step], fontsize=8)
    axes.set_xlabel(panel.label)
    axes.margins(y=0.2)  # room for the legend
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8, frameon=False)


def pictures(axes: Axes, panel: Pictures) -> None:
    """All pictures in one, captions below each."""
    side = max(max(image.shape) for row in panel.rows for image, _ in row)
    columns, cell = max(len(row) for row in panel.rows), side + GAP
    whole: NDArray[np.float64] = np.full((len(panel.rows) * cell, columns * cell), np.nan)
    for i, row in enumerate(panel.rows):
        for j, (image, caption) in enumerate(row):
            whole[i * cell : i * cell + image.shape[0], j * cell : j * cell + image.shape[1]] = image
            if caption:
                axes.text(j * cell + 2, i * cell + 2, caption, fontsize=8, va="top", bbox=LABEL)
    axes.imshow(whole, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_axis_off()


LABEL = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}


def picture_height(panel: Pictures) -> float:
    """Inches in which the rows fill the page's width."""
    return 0.4 + (WIDTH - 1) * len(panel.rows) / max(len(row) for row in panel.rows)
