"""Draws prior.png beside this file: what an autoencoder and a variational one make of codes z ~ N(0, I).

python docs/prior.py runs/ae runs/vae
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from anomalib_gan.checkpoint import load_model
from anomalib_gan.data import normal_files, read_normals, signed
from anomalib_gan.model import Model, crops
from anomalib_gan.models.ae import AE
from anomalib_gan.models.vae import VAE
from anomalib_gan.nets import enlarge
from anomalib_gan.plots import write

HERE = Path(__file__).resolve().parent
MANY, SIDE = 6, 192  # patches of each kind, px


def decoded(model: Model, z: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] of codes (N, code, h, w)."""
    if isinstance(model, VAE):
        return model.generate(z)
    if isinstance(model, AE):
        return enlarge(model.G(z), model.shrink)
    raise ValueError(f"{type(model).__name__} is no autoencoder: give runs of ae and vae")


@torch.inference_mode()
def draw(runs: list[Path], out: Path) -> None:
    """A row of normal patches, and a row for each run."""
    rows: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for run in runs:
        model, stored = load_model(run)
        if not rows:
            images, _ = read_normals(normal_files(Path(stored["card"]["data"]["folder"])))
            rows["normal"] = next(crops([signed(image.grey)[None] for image in images], SIDE, MANY))
        cells = SIDE // model.stride
        rows[stored["spec"]["name"]] = decoded(model, torch.randn(MANY, stored["spec"]["params"]["code"], cells, cells))
    figure = Figure(figsize=(1.6 * MANY + 0.3, 1.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), MANY, squeeze=False)
    for line, (name, patches) in zip(panels, rows.items(), strict=True):
        for panel, patch in zip(line, patches, strict=True):
            panel.imshow(((patch[0] + 1) / 2).clamp(0, 1), cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(name, fontsize=11)
    write(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of trained runs of ae and vae")
    draw(parser.parse_args().runs, HERE / "prior.png")
    print(HERE / "prior.png")
