"""One way from a run's folder to an Inspector, for every command that looks at images."""

from __future__ import annotations

import os
from pathlib import Path

from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.inspector import Inspector

CALIBRATION = "calibration.json"


def open_inspector(
    run: str | os.PathLike[str],
    *,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
    rescale: bool = False,
    calibrated: bool = True,
) -> Inspector:
    """The run's model and, where it has one and `calibrated` is set, its calibration.

    `tile` is the side in pixels of the square pieces that large images are cut into; `threads` bounds the processor
    threads of the network. A ValueError names what is missing in the folder.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is not a run's folder: train one with `anomalib-gan train NORMAL_DIR --out {folder}`"
        )
    import torch

    from anomalib_gan.export import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    backend = TorchBackend.load(folder, device=device)
    stored = folder / CALIBRATION
    calibration = Calibration.from_json(read_json(stored)) if calibrated and stored.exists() else None
    return Inspector(backend, tile=tile, calibration=calibration, rescale=rescale)
