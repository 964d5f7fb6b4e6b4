"""Networks applied to images and folders: by tiles as to the whole, and in files that know what they were made of."""

from __future__ import annotations

import io
from functools import partial

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from anomalib_gan.applying import INVALID, KEPT, MADE, Operator, apply, mark_of, png, targets
from anomalib_gan.runtime.image import ImageError, open_image


def larger(x):
    """Means of 3 x 3 pixels, twice as large: reaches 1 px, and sees where the image ends."""
    return interpolate(avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False), scale_factor=2.0)


def twice(**options):
    return Operator(**{"net": larger, "channels": 1, "halo": 1, "factor": 2, "mark": {"model": "a"}, **options})


def picture(height, width, kind=np.uint8, channels=1, seed=0):
    top = 1.0 if np.dtype(kind).kind == "f" else np.iinfo(kind).max
    drawn = np.random.default_rng(seed).uniform(0, top, (height, width, channels))
    return drawn.astype(kind)


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 16), st.sampled_from([1, 2, 4]), st.booleans())
def test_an_image_by_tiles_equals_the_whole(height, width, tile, stride, colour):
    image = picture(height, width, channels=3 if colour else 1)
    made = [twice(tile=one, stride=stride, channels=image.shape[2])(image, 255.0) for one in (max(tile, stride), 4096)]
    assert made[0].shape == (2 * height, 2 * width, image.shape[2]) and made[0].dtype == np.uint8
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1  # where the mean of nine lies between two levels
    assert (made[0] == made[1]).mean() > 0.99


@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255.0), (np.uint16, 65535.0), (np.uint16, 4095.0)])
def test_levels_come_back_as_they_were_and_never_above_white(kind, white):
    image = (picture(6, 7, np.float64) * white).round().astype(kind)
    same = twice(net=lambda x: x, factor=1)
    assert np.array_equal(same(image, white), image) and same(image, white).dtype == kind
    bright = twice(net=lambda x: 3 * x, factor=1)(image, white)
    assert bright.max() == white and bright.min() == 0


def test_floats_become_sixteen_bits():
    image = picture(5, 5, np.float32)
    made = twice(net=lambda x: x, factor=1)(image, 1.0)
    assert made.dtype == np.uint16 and np.abs(made / 65535 - image).max() < 1e-5


def test_grey_and_colour_go_through_a_net_as_far_as_they_mean_the_same():
    grey = picture(6, 6)
    colours = np.repeat(grey, 3, axis=2)
    same = twice(net=lambda x: x, factor=1)
    assert np.array_equal(same(colours, 255.0), grey)
    assert np.array_equal(twice(net=lambda x: x, factor=1, channels=3)(grey, 255.0), grey)
    with pytest.raises(ImageError, match=r"a\.png: the image has colours but the model was trained on grey"):
        same(picture(6, 6, channels=3), 255.0, "a.png")


def test_what_cannot_be_is_an_error_that_names_the_image():
    with pytest.raises(ImageError, match=r"b\.png: image 6x7 is smaller than the model's smallest image, 8x8"):
        twice(smallest=8)(picture(6, 7), 255.0, "b.png")
    with pytest.raises(ImageError, match=r"c\.png: what the model makes of it is not finite"):
        twice(net=lambda x: x / 0, factor=1)(picture(6, 7), 255.0, "c.png")

    def full(x):
        raise torch.OutOfMemoryError

    with pytest.raises(MemoryError, match="cpu cannot hold a window of 6x7 px: lower --tile"):
        twice(net=full)(picture(6, 7), 255.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_result_holds_its_pixels_its_mark_and_its_pixel_size(tmp_path, kind, channels):
    image = picture(9, 11, kind, channels)
    data = png(image, {"model": "ä", "factor": 2}, pixel_size=0.025)
    (tmp_path / "a.png").write_bytes(data)
    with open_image(tmp_path / "a.png", info_bar=0) as opened:
        assert np.array_equal(opened.rows(0, 9), image) and opened.dtype == kind
    assert mark_of(tmp_path / "a.png") == {"model": "ä", "factor": 2}
    with Image.open(io.BytesIO(data)) as opened:
        dots = opened.info["dpi"][0]
    assert 0.0254 / dots * 1e6 == pytest.approx(0.025)
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    assert mark_of(tmp_path / "b.png") is None
    (tmp_path / "c.png").write_bytes(data[:40])
    assert mark_of(tmp_path / "c.png") is None


@pytest.fixture
def folder(tmp_path):
    """Images of all kinds, and files that are none."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for path, image in {"a.png": picture(20, 30), "sub/b.png": picture(16, 16, np.uint16)}.items():
        (root / path).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    tifffile.imwrite(root / "sub/c.tif", picture(12, 14)[..., 0], resolution=(4e5, 4e5), resolutionunit=3)
    tifffile.imwrite(root / "sub/b.tif", picture(12, 14)[..., 0])
    (root / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (root / "colour.png").write_bytes(cv2.imencode(".png", picture(8, 8, channels=3))[1].tobytes())
    (root / "read me.txt").write_text("no image")
    return root


OPENER = partial(open_image, info_bar=0)


def test_a_folder_becomes_files_of_the_same_names_and_bad_images_do_not_stop_it(folder, tmp_path):
    out = tmp_path / "out"
    outcome = apply(twice(pixel_size=0.05), folder, out, opener=OPENER)
    assert outcome.counts == {MADE: 4, INVALID: 2}
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert made == ["a.png", "sub/b.png", "sub/b.tif.png", "sub/c.png"]
    assert "d.png" in outcome.invalid["d.png"] and "colours" in outcome.invalid["colour.png"]
    with open_image(out / "sub/b.png", info_bar=0) as opened:
        assert (opened.height, opened.width, opened.dtype) == (32, 32, np.uint16)
    assert outcome.unlike == {"sub/c.tif": pytest.approx(0.025)}  # um: 4e5 px per cm
    with Image.open(out / "sub/c.png") as opened:
        assert 0.0254 / opened.info["dpi"][0] * 1e6 == pytest.approx(0.0125)


def test_what_is_there_is_kept_unless_image_or_operator_changed(folder, tmp_path):
    out = tmp_path / "out"
    apply(twice(), folder, out, opener=OPENER)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (out / ".tmp-0.part").write_bytes(b"torn")
    again = apply(twice(), folder, out, opener=OPENER)
    assert again.counts == {KEPT: 4, INVALID: 2} and not list(out.glob(".tmp*"))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    (folder / "a.png").write_bytes(cv2.imencode(".png", picture(20, 30, seed=1))[1].tobytes())
    assert apply(twice(), folder, out, opener=OPENER).counts == {MADE: 1, KEPT: 3, INVALID: 2}
    assert apply(twice(mark={"model": "b"}), folder, out, opener=OPENER).counts == {MADE: 4, INVALID: 2}


def test_a_file_that_is_no_result_is_left_alone(folder, tmp_path):
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "a.png").write_bytes((folder / "a.png").read_bytes())
    (out / "sub/b.png").mkdir()
    outcome = apply(twice(), folder, out, opener=OPENER)
    assert outcome.counts == {MADE: 2, INVALID: 4}
    for name in ("a.png", "sub/b.png"):
        assert f"{name} is there and no result: choose another --out" in outcome.invalid[name]
    assert (out / "a.png").read_bytes() == (folder / "a.png").read_bytes()


def test_a_job_that_was_stopped_goes_on(folder, tmp_path):
    out, calls = tmp_path / "out", []

    def stopping(x):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return larger(x)

    with pytest.raises(KeyboardInterrupt):
        apply(twice(net=stopping), folder, out, opener=OPENER)
    assert len(list(out.rglob("*"))) > 0 and not list(out.rglob(".tmp*"))
    assert apply(twice(), folder, out, opener=OPENER).counts == {MADE: 2, KEPT: 2, INVALID: 2}


def test_results_within_the_folder_are_no_images_of_it(folder):
    for _ in range(2):
        outcome = apply(twice(), folder, folder / "out", opener=OPENER)
    assert outcome.counts == {KEPT: 4, INVALID: 2}
    with pytest.raises(ValueError, match="choose another --out"):
        targets(folder, folder)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image"):
        targets(folder / "empty", folder / "out")
