"""The files beside the results: which image has which, when they are complete, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anomalib_gan.records.database import InspectionRecord
from anomalib_gan.records.pictures import Rows, write_map, write_mask, write_overlay

LARGE = 64 * 2**20
"""Above so many pixels a map is written strip by strip and its mask is a tiled TIFF."""


@dataclass(frozen=True)
class Outputs:
    """The folders maps, masks and overlays of `out`; `maps`, `masks` and `overlays` say which are wanted.

    A file is called after the image's whole relative path, so a.png, a.tif and sub/a.png have three different maps.
    """

    out: Path
    scale: tuple[float, float]
    maps: bool = True
    masks: bool = True
    overlays: bool = True

    def map(self, path: str) -> Path:
        return self.out / "maps" / f"{path}.tif"

    def mask(self, path: str, large: bool = False) -> Path:
        return self.out / "masks" / f"{path}{'.tif' if large else '.png'}"

    def overlay(self, path: str) -> Path:
        return self.out / "overlays" / f"{path}.jpg"

    def complete(self, row: InspectionRecord) -> bool:
        """Are all wanted files of this image there? Nothing is wanted of an invalid one."""
        large = (row.height or 0) * (row.width or 0) > LARGE
        wanted = (
            (self.maps, self.map(row.path)),
            (self.masks, self.mask(row.path, large)),
            (self.overlays, self.overlay(row.path)),
        )
        return row.verdict == "invalid" or all(file.is_file() for want, file in wanted if want)

    def write(self, path: str, image: Rows | None, map: Rows, height: int, width: int, threshold: float) -> None:
        """Writes the wanted files of one image; what was left of it is gone first. Only overlays need the `image`."""
        self.remove(path)
        if self.maps:
            write_map(self.map(path), map, height, width, self.scale)
        if self.masks:
            write_mask(self.mask(path, height * width > LARGE), map, height, width, threshold)
        if self.overlays and image is not None:
            write_overlay(self.overlay(path), image, map, height, width, self.scale, threshold)

    def remove(self, path: str) -> None:
        for file in (self.map(path), self.mask(path), self.mask(path, large=True), self.overlay(path)):
            file.unlink(missing_ok=True)

    def clean(self) -> None:
        """Removes the temporary files that a killed process left."""
        pattern = ".tmp-*.part"
        for left in self.out.glob(pattern):
            left.unlink(missing_ok=True)
        for folder in ("maps", "masks", "overlays"):
            for left in (self.out / folder).rglob(pattern):
                left.unlink(missing_ok=True)
