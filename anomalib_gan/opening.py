"""One way from a run or a bundle to an Inspector, for every command that looks at images."""

from __future__ import annotations

import os
from pathlib import Path

from anomalib_gan.runtime.bundle import MANIFEST, recalibrate
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.inspector import Inspector

CALIBRATION = "calibration.json"


def open_inspector(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
    rescale: bool = False,
    calibrated: bool = True,
    spin: bool = True,
    known: str | None = None,
) -> Inspector:
    """The model of a run or of a bundle and, where it has one and `calibrated` is set, its calibration.

    `tile` is the side in pixels of the square pieces that large images are cut into; `threads` bounds the processor
    threads of the network, `spin` as in `Inspector.load`. `known`: of a run whose model has classes, the one that all
    images are of, which makes it another detector with a calibration of its own. A ValueError names what is missing or
    wrong in the folder. A bundle needs no torch.
    """
    folder = Path(path)
    if is_bundle(folder):
        if known is not None:
            raise ValueError(f"{folder} is a bundle, which knows no classes: leave --class {known} out")
        inspector = Inspector.load(folder, device, threads=threads, tile=tile, rescale=rescale, spin=spin)
        inspector.calibration = inspector.calibration if calibrated else None
        return inspector
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a run's folder nor a bundle: train a model with "
            f"`anomalib-gan train NORMAL_DIR --out {folder}`"
        )
    import torch

    from anomalib_gan.export import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    backend = TorchBackend.load(folder, device=device, known=known)
    stored = folder / CALIBRATION
    calibration = Calibration.from_json(read_json(stored)) if calibrated and stored.exists() else None
    return Inspector(backend, tile=tile, calibration=calibration, rescale=rescale)


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Does the folder hold an exported detector, rather than a run?"""
    return os.path.lexists(Path(path) / MANIFEST)


def card_folder(path: str | os.PathLike[str]) -> Path:
    """Where a run, or a bundle, has the files that tell how the model was trained."""
    return Path(path) / "card" if is_bundle(path) else Path(path)


def store_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Makes the calibration that of a run, or of a bundle; atomically."""
    if is_bundle(path):
        recalibrate(path, calibration)
    else:
        calibration.save(Path(path) / CALIBRATION)
