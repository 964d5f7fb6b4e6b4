"""The synthetic nanofibre images: reproducible, exactly labelled, small, and not easy."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

FOLDER = Path(__file__).parents[1] / "data_samples"
sys.path.insert(0, str(FOLDER))

import foam  # noqa: E402
import generate  # noqa: E402

CLOSE = 1  # grey level: sines, powers and blurs may round differently on another machine or version


def read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return tifffile.imread(path)
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def assert_committed(name: str, drawn: np.ndarray) -> None:
    stored = read(FOLDER / name)
    assert (stored.shape, stored.dtype) == (drawn.shape, drawn.dtype), name
    if "extra" in name:  # the glyphs of the info bar are the OpenCV version's own
        stored, drawn = stored[: -generate.BAR], drawn[: -generate.BAR]
    off = np.abs(stored.astype(int) - drawn.astype(int))
    if "ground_truth" in name:
        assert (off > 0).mean() < 1e-3, name
    else:
        assert off.max() <= CLOSE * (257 if drawn.dtype == np.uint16 else 1), name


def test_a_seed_draws_the_committed_pictures() -> None:
    for name, drawn in (*itertools.islice(generate.pictures(0), 2), *itertools.islice(foam.stacks(0), 1)):
        assert_committed(name, drawn)


@pytest.mark.slow
def test_seed_0_is_the_whole_committed_set() -> None:
    names = set()
    for name, drawn in itertools.chain(generate.pictures(0), foam.stacks(0)):
        assert_committed(name, drawn)
        names.add(name)
    committed = {p.relative_to(FOLDER).as_posix() for p in FOLDER.rglob("*") if p.suffix in (".png", ".tif")}
    assert committed == names


def test_seeds_differ() -> None:
    pictures = [generate.draw(np.random.default_rng(seed), 128, 160) for seed in (1, 1, 2)]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[0] - pictures[2]).mean() > 10


def test_layout() -> None:
    """Every defect image has its mask and every mask its image; names of kinds are the generator's."""
    images = {(p.parent.name, p.stem) for p in FOLDER.glob("test/*/*.png")}
    masks = {(p.parent.name, p.stem.removesuffix("_mask")) for p in FOLDER.glob("ground_truth/*/*_mask.png")}
    assert {pair for pair in images if pair[0] != "good"} == masks
    assert {kind for kind, _ in masks} == set(generate.DEFECTS)
    assert len(list(FOLDER.glob("train/good/*.png"))) == 6
    assert len(masks) == 10


def test_size_and_range() -> None:
    files = [p for p in FOLDER.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files) < 5e6
    for path in [*FOLDER.glob("train/good/*.png"), *FOLDER.glob("test/*/*.png")]:
        image = read(path)
        assert image.shape == (generate.HEIGHT, generate.WIDTH) and image.dtype == np.uint8
        assert np.percentile(image, 2) < 25, f"{path} has no dark holes"
        assert np.percentile(image, 98) > 190, f"{path} has no bright fibres"


def test_defects_are_small_and_whole() -> None:
    for path in FOLDER.glob("ground_truth/*/*_mask.png"):
        mask = read(path)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.001 < (mask > 0).mean() < 0.06, path
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        assert stats[1:, cv2.CC_STAT_AREA].min() >= generate.SPECK, f"{path} holds specks"


@pytest.mark.parametrize("kind", sorted(generate.DEFECTS))
def test_a_mask_is_where_the_defect_changed_the_picture(kind: str) -> None:
    """The same picture with and without the defect, under the same noise."""
    spoilt, normal, mask = generate.draw_defect(np.random.default_rng(5), kind, 256, 320)
    change = np.abs(spoilt - normal)
    assert (change[mask] > 0.6 * generate.THRESHOLD).mean() > 0.95
    assert (change[~mask] > 1.6 * generate.THRESHOLD).mean() < 5e-4
    assert np.median(change[mask]) > 2 * np.median(np.abs(np.diff(normal, axis=1))) or kind == "charging"


def test_the_foam_is_as_porous_as_it_is_said_to_be_and_a_void_is_a_large_pore() -> None:
    rng = np.random.default_rng(5)
    normal = foam.draw(rng, (64, 96, 128))
    assert (normal < foam.MIDDLE).mean() == pytest.approx(foam.POROSITY, abs=0.03)
    spoilt, before, mask = foam.draw_void(rng)
    away = ~ndimage.binary_dilation(mask, iterations=4)
    assert np.abs(spoilt.astype(int) - before)[away].max() <= CLOSE
    assert (spoilt[mask] < foam.MIDDLE).mean() > 0.98 > 0.6 > (before[mask] < foam.MIDDLE).mean()
    inside = ndimage.distance_transform_edt(spoilt < foam.MIDDLE)
    assert inside.max() > 1.25 * ndimage.distance_transform_edt(before < foam.MIDDLE).max()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="take one of bead"):
        generate.draw_defect(np.random.default_rng(0), "scratch", 128, 128)


def test_tiff_carries_the_microscopes_metadata() -> None:
    with tifffile.TiffFile(FOLDER / "extra/fei_16_bit.tif") as tiff:
        page = tiff.pages[0]
        assert page.dtype == np.uint16
        assert page.tags[34682].name == "FEI_HELIOS"
        fei = tiff.fei_metadata
        assert fei is not None
        assert fei["Scan"]["PixelWidth"] == pytest.approx(generate.PIXEL_SIZE)
        assert fei["Scan"]["HorFieldsize"] == pytest.approx(generate.PIXEL_SIZE * page.imagewidth)
        assert fei["Image"]["ResolutionY"] + fei["PrivateFei"]["DatabarHeight"] == page.imagelength
        x, per = page.tags["XResolution"].value
        assert 0.01 / (x / per) == pytest.approx(generate.PIXEL_SIZE, rel=1e-3)
        assert len(np.unique(page.asarray())) > 1000, "8-bit grey levels in a 16-bit file"


def test_info_bar_is_a_dark_strip_with_text() -> None:
    bar = read(FOLDER / "extra/info_bar.png")[-generate.BAR + 1 :]
    assert (bar < 20).mean() > 0.7 and (bar > 200).mean() > 0.01


def test_simple_methods_stay_under_090() -> None:
    pytest.importorskip("sklearn")
    import baselines

    samples = baselines.load(FOLDER, every=4)
    assert max(baselines.local_deviation(samples).values()) < 0.90
    assert max(baselines.patch_gaussian(samples).values()) < 0.90


@pytest.mark.slow
def test_an_l2_autoencoder_stays_under_090() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    import baselines

    assert max(baselines.autoencoder(baselines.load(FOLDER)).values()) < 0.90
