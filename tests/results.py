"""A real database for tests of the dashboard: data_samples scored by the frozen bundle, with thresholds of images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalib_gan.records.scoring import score_folder
from anomalib_gan.runtime.bundle import recalibrate
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.inspector import Inspector

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "data_samples"


@dataclass(frozen=True)
class Results:
    """A bundle in `models`, the images that it scored, one of them broken, and where the results lie."""

    root: Path
    images: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def bundle(self) -> Path:
        return self.models / "samples.bundle"

    @property
    def database(self) -> Path:
        return self.root / "results.db"

    @property
    def settings(self) -> dict[str, object]:
        return {"db": str(self.database), "models": (str(self.models),), "images": (str(self.images),)}

    def score(self) -> dict[str, int]:
        """Scores the images with the thresholds that the bundle has now."""
        inspector = Inspector.load(self.bundle)
        card = read_card(self.bundle / "card")
        return score_folder(inspector, self.images, self.root / "out", card=card, database=self.database).counts


def make(root: Path) -> Results:
    made = Results(root, root / "images")
    shutil.copytree(ROOT / "tests/frozen/v1.bundle", made.bundle)
    shutil.copytree(SAMPLES / "test", made.images)
    (made.images / "broken.png").write_bytes((made.images / "dust/000.png").read_bytes()[:5000])
    inspector = Inspector.load(made.bundle)
    found = [inspector(quarter) for path in sorted((SAMPLES / "train/good").iterdir()) for quarter in quarters(path)]
    scores, peaks = [one.score for one in found], [float(np.nanmax(one.map)) for one in found]
    model = inspector.backend.hash
    recalibrate(made.bundle, Calibration.fit(scores, peaks, rate=0.2, reject_rate=0.04, model=model))
    made.score()
    return made


def quarters(path: Path) -> list[np.ndarray]:
    """More normal images than the six that there are."""
    with open_image(path) as picture:
        pixels = picture.rows(0, picture.content)
    return [part for half in np.array_split(pixels, 2) for part in np.array_split(half, 2, axis=1)]
