"""One way from a run or a bundle to an Inspector, for every command that looks at images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_gan.runtime.bundle import MANIFEST, recalibrate
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.volume import TILE as VOLUME_TILE
from anomalib_gan.runtime.volume import VolumeInspector

if TYPE_CHECKING:
    from anomalib_gan.export import TorchBackend

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
    backend, calibration = _trained(folder, device, threads, calibrated, known)
    return Inspector(backend, tile=tile, calibration=calibration, rescale=rescale)


def open_volumes(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    tile: int = VOLUME_TILE,
    threads: int | None = None,
    calibrated: bool = True,
) -> VolumeInspector:
    """The same for the run of a model of volumes: an inspector of stacks. `tile` is the side in voxels."""
    folder = Path(path)
    if is_bundle(folder):
        raise ValueError(f"{folder} is a bundle, which holds a detector for images: give the run of a model of volumes")
    backend, calibration = _trained(folder, device, threads, calibrated)
    return VolumeInspector(backend, tile, calibration)


def _trained(
    folder: Path, device: str, threads: int | None, calibrated: bool, known: str | None = None
) -> tuple[TorchBackend, Calibration | None]:
    """The model of a run and, where it has one and `calibrated` is set, its calibration."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a run's folder nor a bundle: train a model with "
            f"`anomalib-gan train NORMAL_DIR --out {folder}`"
        )
    import torch

    from anomalib_gan.export import TorchBackend

    if threads:
        torch.set_num_threads(threads)
    stored = folder / CALIBRATION
    backend = TorchBackend.load(folder, device=device, known=known)
    return backend, Calibration.from_json(read_json(stored)) if calibrated and stored.exists() else None


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
