"""Draws result.png beside this file: what a trained run makes of a few images of data_samples.

python docs/picture.py runs/demo [IMAGE ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure

from anomalib_gan.export import TorchBackend, scaled
from anomalib_gan.opening import open_inspector
from anomalib_gan.plots import write
from anomalib_gan.runtime.heat import heat_range
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector

HERE = Path(__file__).resolve().parent
TEST = HERE.parent / "data_samples" / "test"
IMAGES = [TEST / "bead" / "000.png", TEST / "film" / "000.png", TEST / "good" / "000.png"]
TITLES = ("input", "reconstruction", "map, fixed scale of normal images", "defects")


def draw(inspector: Inspector, images: list[Path], out: Path) -> None:
    """One row per image: the input, its reconstruction, its map, and the defects outlined."""
    if inspector.calibration is None:
        raise ValueError("the run has no calibration, so no defects: run `anomalib-gan calibrate` first")
    found = []
    for path in images:
        with open_image(path) as picture:
            result = inspector(picture)
            found.append((path, result, picture.rows(0, picture.content), picture.white))
    aspect = max(pixels.shape[0] / pixels.shape[1] for _, _, pixels, _ in found)
    figure = Figure(figsize=(12.6, 0.4 + (2.9 * aspect + 0.1) * len(found)), layout="constrained")
    panels = figure.subplots(len(found), len(TITLES), squeeze=False)
    low, high = heat_range(inspector.backend.scale)
    for line, (path, result, pixels, white) in zip(panels, found, strict=True):
        assert result.map is not None  # no sink took it
        map = result.map[: result.content]
        again = reconstruction(inspector.backend, pixels, white)
        for panel, shown in zip(line, (pixels / white, again, None, pixels / white), strict=True):
            if shown is not None:
                panel.imshow(np.squeeze(shown), cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
        heat = line[2].imshow(map, cmap="inferno", vmin=low, vmax=high)
        above = (map > np.float64(inspector.calibration.pixel)).astype(np.uint8)
        above = cv2.dilate(above, np.ones((5, 5), np.uint8))  # around the defects, so that single pixels show too
        for outline in cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            line[3].plot(*np.vstack([outline[:, 0], outline[:1, 0]]).T, color="#ff3b3b", linewidth=1.4)
        line[0].set_ylabel(f"{path.parent.name}: {result.verdict}", fontsize=11)
        line[3].text(
            0.02, 0.03, f"{result.defect_count} found", transform=line[3].transAxes, color="white", fontsize=9,
            bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0},
        )  # fmt: skip
    for panel, title in zip(panels[0], TITLES, strict=True):
        panel.set_title(title, fontsize=11)
    figure.colorbar(heat, ax=panels, extend="both", shrink=0.8, pad=0.01)
    write(figure, out)


@torch.inference_mode()
def reconstruction(backend: object, pixels: np.ndarray, white: float) -> np.ndarray:
    """G(E(x)) of (H, W, C) grey levels, in [0, 1], without what is left over of H and W beyond the stride."""
    assert isinstance(backend, TorchBackend)
    height, width = (side // backend.stride * backend.stride for side in pixels.shape[:2])
    grey = torch.from_numpy(pixels[:height, :width].transpose(2, 0, 1)[None].astype(np.float32))
    x = scaled(grey.expand(-1, backend.channels, -1, -1), white).to(backend.device)
    again = backend.graph.model.reconstruct(x)[0].float().cpu().numpy()
    return np.asarray((again.transpose(1, 2, 0) + 1) / 2).clip(0, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a trained and calibrated run")
    parser.add_argument("images", type=Path, nargs="*", default=IMAGES, help="pictures, instead of three samples")
    given = parser.parse_args()
    draw(open_inspector(given.run), given.images, HERE / "result.png")
    print(HERE / "result.png")
