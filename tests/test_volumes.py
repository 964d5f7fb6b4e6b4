"""Stacks of slices: read page by page, scored in three dimensions, judged and measured like images."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_cli import Cli

from anomalib_gan import data, holding
from anomalib_gan.records.pictures import read_map
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.runtime.inspection import InvalidImage
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.scores import hottest_mean
from anomalib_gan.runtime.stack import open_stack
from anomalib_gan.runtime.volume import STEP, WINDOW, VolumeCutter, VolumeInspector, volume_defects, volume_score
from anomalib_gan.volumes import read_stack

SAMPLES = Path(__file__).parents[1] / "data_samples/volumes"
FIRST = SAMPLES / "train/good/000.tif"
HALO, STRIDE = 8, 4


class Neighbours:
    """A backend whose map is the mean over the neighbourhood, with the edge repeated: exact in integers."""

    dim, channels, stride, halo, smallest = 3, 1, STRIDE, HALO, STRIDE
    scale, hash, device, pixel_size = (0.0, 1.0), "0" * 64, "here", None

    def __call__(self, image, white):
        return ndimage.maximum_filter(image / white, (1, 1, *[2 * HALO - 1] * 3), mode="nearest")


def written(path, *pages, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, metadata=None, photometric="minisblack", **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stack_gives_the_slices_of_its_file_whatever_the_compression(tmp_path, dtype):
    voxels = np.random.default_rng(0).integers(0, 255, (5, 12, 17), dtype)
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
        path = written(tmp_path / "a.tif", *voxels, **options)
        for source in (path, path.read_bytes(), voxels):
            with open_stack(source) as stack:
                assert (stack.depth, stack.height, stack.width, stack.channels) == (5, 12, 17, 1)
                assert stack.pixels == voxels.size and stack.white == np.iinfo(dtype).max
                assert np.array_equal(stack.slices(1, 4)[..., 0], voxels[1:4])
                assert np.array_equal(stack.slices(0, 5)[..., 0], voxels)


def test_what_is_no_stack_has_a_reason(tmp_path):
    page = np.zeros((12, 17), np.uint8)
    for pages, told in (
        ((page,), "is one image and no stack: save the slices as the pages of one TIFF"),
        ((page, page[:, :9]), r"page 1 \(12x9 px.*is not like page 0 \(12x17 px.*give slices of one size and type"),
        ((page, page.astype(np.uint16)), "page 1 .*uint16.*is not like page 0"),
    ):
        path = written(tmp_path / "a.tif", *pages)
        with pytest.raises(ImageError, match=f"a.tif: {told}"), open_stack(path) as stack:
            stack.slices(0, stack.depth)
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", page)[1].tobytes())
    with pytest.raises(ImageError, match="is one image and no stack"):
        open_stack(tmp_path / "b.png")
    whole = written(tmp_path / "c.tif", *np.zeros((4, 64, 64), np.uint8)).read_bytes()
    with pytest.raises(ImageError, match="<bytes>: is cut off or damaged after page 2: "):
        open_stack(whole[:9000])


def test_batches_are_blocks_of_the_stacks_and_a_pure_function_of_seed_and_number():
    images, warnings = data.read_normals([FIRST], read=read_stack)
    voxels = tifffile.imread(FIRST)
    assert not warnings and np.array_equal(images[0].grey[0].numpy(), voxels)
    crops = data.Crops([images[0].grey], 16, 3, seed=1, flips=False, jitter=0.0)
    again = data.Crops([images[0].grey], 16, 3, seed=1, flips=False, jitter=0.0)
    assert torch.equal(crops(5), again(5)) and not torch.equal(crops(5), crops(6))
    windows = np.lib.stride_tricks.sliding_window_view(voxels, (16, 16, 16))
    for block in crops(5):
        levels = ((block[0] + 1) * 127.5).round().numpy().astype(np.uint8)
        places = np.argwhere((windows[..., 0, 0, :] == levels[0, 0]).all(-1))  # where its first row is found
        assert any(np.array_equal(windows[tuple(place)], levels) for place in places)
    flipped = data.Crops([images[0].grey], 16, 32, seed=1, jitter=0.0)(5)
    same = data.Crops([images[0].grey], 16, 32, seed=1, flips=False, jitter=0.0)(5)
    turned = {
        axes
        for one, other in zip(flipped, same, strict=True)
        for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3))
        if torch.equal(one, other.flip(axes))
    }
    assert len(turned) == 8
    with pytest.raises(ValueError, match="is not possible for volumes: leave it out"):
        data.Crops([images[0].grey], 16, 3, zoom=0.2)


def test_of_few_stacks_the_last_columns_of_all_slices_are_held_back():
    images, _ = data.read_normals(sorted(FIRST.parent.iterdir()), read=read_stack)
    held = holding.hold_out(images, 32, 0)
    assert [one.box for one in held] == [(0, 64, 80, 96)] * 2
    training, kept = holding.regions(images, held)
    assert {x.shape for x in training} == {(1, 64, 80, 64)} and {x.shape for x in kept} == {(1, 64, 80, 32)}


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(STRIDE, 40)] * 3), st.sampled_from([STRIDE, 8, 20, 64]), st.integers(0, 99))
def test_the_map_of_a_stack_in_tiles_is_that_of_the_whole_along_all_three_axes(sizes, tile, seed):
    voxels = np.random.default_rng(seed).integers(0, 255, sizes, np.uint8)
    whole, tiled = (VolumeInspector(Neighbours(), tile=t)(voxels) for t in (512, tile))
    assert np.array_equal(whole.map, tiled.map) and whole.map.shape == sizes
    expected = ndimage.maximum_filter(voxels / np.float32(255), [2 * HALO - 1] * 3, mode="nearest")
    assert np.allclose(whole.map, expected)
    assert whole.score == tiled.score and whole.peak == whole.map.max()


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(1, 150)] * 3), st.integers(0, 99))
def test_the_score_is_the_hottest_window_of_all(sizes, seed):
    map = np.random.default_rng(seed).random(sizes, np.float32)
    best = -1.0
    corners = [sorted({*range(0, max(size - WINDOW, 0) + 1, STEP), max(size - WINDOW, 0)}) for size in sizes]
    for front in corners[0]:
        for top in corners[1]:
            for left in corners[2]:
                window = map[front : front + WINDOW, top : top + WINDOW, left : left + WINDOW]
                best = max(best, hottest_mean(window.ravel()))
    assert volume_score(map) == best


def test_defects_are_the_connected_regions_above_the_threshold_by_falling_peak():
    map = np.zeros((10, 12, 14), np.float32)
    map[2:5, 3:6, 4:8] = 2.0
    map[5, 6, 8] = 3.0  # touches the block by a corner, so it is one with it
    map[8, 1, 1] = 5.0
    (spot, block), count = volume_defects(map, 1.0)
    assert count == 2
    assert (spot.front, spot.top, spot.left, spot.back, spot.bottom, spot.right) == (8, 1, 1, 9, 2, 2)
    assert (spot.volume, spot.peak, spot.slice, spot.row, spot.col) == (1, 5.0, 8.0, 1.0, 1.0)
    assert (block.front, block.top, block.left, block.back, block.bottom, block.right) == (2, 3, 4, 6, 7, 9)
    assert block.volume == 3 * 3 * 4 + 1 and block.peak == 3.0
    assert block.slice == pytest.approx((3.0 * 36 + 5) / 37)
    assert volume_defects(map, 5.0) == ([], 0)
    (kept,), count = volume_defects(map, 1.0, limit=1)
    assert kept == spot and count == 2


def test_blocks_for_thresholds_cover_the_held_back_box_once():
    map = np.random.default_rng(0).random((70, 50, 140), np.float32)
    cutter = VolumeCutter((5, 10, 45, 140))
    cutter(0, map)
    assert len(cutter.scores) == len(cutter.peaks) == 2 * 1 * 3 and cutter.pixels == 70 * 40 * 130
    assert max(cutter.peaks) == map[:, 5:45, 10:].max()


def test_an_info_bar_is_no_part_of_the_map_and_a_bad_stack_is_not_the_end():
    voxels = np.random.default_rng(0).integers(0, 255, (8, 20, 16), np.uint8)
    inspector = VolumeInspector(Neighbours(), opener=lambda source: open_stack(source, info_bar=4))
    good, bad = inspector.stream([voxels, voxels[:2]])
    assert np.isnan(good.map[:, 16:]).all() and np.isfinite(good.map[:, :16]).all()
    assert isinstance(bad, InvalidImage)
    assert "stack 2x16x16 is smaller than the model's smallest, 4 voxels along every axis" in bad.reason
    with pytest.raises(ImageError, match="colours but the model was trained on grey"):
        inspector(np.random.default_rng(0).integers(0, 255, (8, 20, 16, 3), np.uint8))


def test_images_and_stacks_have_each_their_inspector():
    with pytest.raises(ValueError, match="looks at stacks, not at images: use `anomalib-gan stacks`"):
        Inspector(Neighbours())

    class Flat(Neighbours):
        dim = 2

    with pytest.raises(ValueError, match="looks at images, not at stacks"):
        VolumeInspector(Flat())


@pytest.mark.slow
def test_stacks_go_through_the_commands_and_a_mistake_is_one_line(tmp_path, monkeypatch, capsys):
    told, run = Cli(monkeypatch, capsys), tmp_path / "run"
    small = [word for pair in ("side=16", "width=4", "batch=4", "steps=2") for word in ("--param", pair)]
    train = ("--model", "gan3d", "--steps", 2, "--device", "cpu", *small)
    assert "is one image and no stack" in told.refuses("train", SAMPLES.parent, "--out", run, *train)
    assert "zoom of 0.2 is not possible" in told.refuses("train", SAMPLES, "--out", run, *train, "--zoom", 0.2)
    code, out, errors = told("train", SAMPLES, "--out", run, *train)
    assert code == 0 and "2 normal stacks" in out and "4 patches of 16x16x16 voxels" in out, errors
    for name in ("curves.png", "samples.png", "reconstructions.png"):
        assert cv2.imread(str(run / name)) is not None
    assert "use `anomalib-gan stacks`" in told.refuses("calibrate", run)
    assert "stacks calibrate" in told.refuses("stacks", "score", run, SAMPLES / "test", "--out", tmp_path / "x")
    assert told("stacks", "calibrate", run)[0] == 0

    results = ("stacks", "score", run, SAMPLES / "test", "--out", tmp_path / "results")
    assert told(*results)[0] in (0, 1)
    with open(tmp_path / "results/results.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["good/000.tif", "void/000.tif", "void/001.tif"]
    assert all(row["verdict"] in ("accept", "review", "reject") and row["depth"] == "48" for row in rows)
    found = read_map(tmp_path / "results/maps/void/000.tif.tif")
    assert found.shape == (48, 64, 64) and found.std() > 0
    assert cv2.imread(str(tmp_path / "results/overlays/void/000.tif.jpg")).shape == (64, 64, 3)
    before = (tmp_path / "results/maps/void/000.tif.tif").stat().st_mtime_ns
    (tmp_path / "results/maps/void/001.tif.tif").unlink()
    told(*results)
    assert (tmp_path / "results/maps/void/001.tif.tif").exists()
    assert (tmp_path / "results/maps/void/000.tif.tif").stat().st_mtime_ns == before

    code, out, errors = told("stacks", "evaluate", run, SAMPLES)
    assert code == 0 and "pixel AUROC" in out, errors
    assert cv2.imread(str(run / "evaluation/volumes/worst.png")) is not None
