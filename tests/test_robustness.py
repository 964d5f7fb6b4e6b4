"""Robustness: each change is what it says, and the figures are those of the changed images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalib_gan.labelled import find_samples
from anomalib_gan.robustness import CHANGES, contaminated, markdown, noise, robustness
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.inspector import Inspector

SAMPLES = Path(__file__).parents[1] / "data_samples"


class Bright:
    """A map that is the mean grey level in 8 bits: what a change does to the image, it does to the map."""

    channels, stride, smallest, halo, scale, hash, device = 1, 8, 8, 8, (0.0, 255.0), "0" * 64, "cpu"
    pixel_size = None

    def __call__(self, image, white):
        return (image * (255 / white)).mean(axis=1, keepdims=True).astype(np.float32)


def grey(seed=0):
    rng = np.random.default_rng(seed)
    rows = np.linspace(0.2, 0.8, 64, dtype=np.float32)[:, None, None]
    return (rows + 0.02 * rng.standard_normal((64, 80, 1))).astype(np.float32)


def test_the_changes_are_what_they_say():
    x = grey()
    assert noise(x) == pytest.approx(0.02, rel=0.1)
    assert noise(CHANGES["noise x2"](x)) == pytest.approx(0.04, rel=0.1)
    assert noise(CHANGES["slight blur (sigma 1 px)"](x)) < 0.5 * noise(x)
    assert CHANGES["brightness -20 %"](x).mean() == pytest.approx(0.8 * x.mean())
    more = CHANGES["contrast +20 %"](x)
    assert more.mean() == pytest.approx(x.mean(), rel=1e-4) and more.std() == pytest.approx(1.2 * x.std(), rel=1e-4)
    assert CHANGES["magnification +10 %"](x).shape == (70, 88, 1)
    assert CHANGES["magnification -10 %"](x).shape == (58, 72, 1)
    mask = np.zeros((64, 80, 1), np.uint8)
    mask[20:40, 30:50] = 1
    assert set(np.unique(CHANGES["magnification +10 %"](mask))) == {0, 1}
    jpeg = CHANGES["JPEG 80"](x)
    assert jpeg.shape == x.shape and 0 < np.abs(jpeg - x).mean() < 0.02
    assert all(change(x).dtype == np.float32 for change in CHANGES.values())


def test_the_table_compares_the_changed_images_with_the_unchanged():
    samples, _ = find_samples(SAMPLES)
    calibration = Calibration.fit([140.0, 150.0], [256.0, 256.0], rate=0.4, reject_rate=0.3, pixel_rate=0.4)
    inspector = Inspector(Bright(), calibration=calibration)
    names = ("none", "brightness -20 %", "brightness +20 %", "magnification +10 %")
    found = robustness(inspector, samples, names)
    assert [one["change"] for one in found] == list(names)
    none, dark, bright, larger = found
    assert none["pixel_auroc"] == pytest.approx(dark["pixel_auroc"], abs=1e-3)  # the order is the same
    assert none["pixel_auroc"] == pytest.approx(larger["pixel_auroc"], abs=0.01)
    assert none["pixel_auroc"] > bright["pixel_auroc"]  # clipped at white
    assert none["false_alarms"] == bright["false_alarms"] == 1 and none["normal_pixels_above"] == 0
    lines = markdown(found).splitlines()
    assert len(lines) == 2 + len(names) and "| +0.0000 |" in lines[2]
    uncalibrated = robustness(Inspector(Bright()), samples[:1], ("none",))[0]
    assert uncalibrated["false_alarms"] is None and "undefined" in markdown([uncalibrated])


def test_a_dirty_set_has_defects_to_train_on_and_both_sets_the_same_test(tmp_path):
    clean, dirty = contaminated(SAMPLES, tmp_path, share=0.3, seed=1)
    names = lambda folder: {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}  # noqa: E731
    more = names(dirty) - names(clean)
    assert names(clean) < names(dirty) and len(more) == round(0.3 / 0.7 * 6)
    assert all(name.startswith("train/good/moved_") for name in more)
    whole, rest = find_samples(SAMPLES)[0], find_samples(dirty)[0]
    assert len(rest) == len(whole) - len(more)
    moved = {(dirty / name).resolve() for name in more}
    assert moved.isdisjoint(one.image.resolve() for one in rest)
    assert contaminated(SAMPLES, tmp_path, share=0.3, seed=1) == (clean, dirty)  # again, over what is there
    assert names(dirty) - names(clean) == more
    with pytest.raises(ValueError, match="choose a smaller share"):
        contaminated(SAMPLES, tmp_path, share=0.7)
