"""Laws of the scoring path, with detectors made of numpy: tiled equals whole, and no bad image stops a stream."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anomalib_gan.runtime import inspector as inspector_module
from anomalib_gan.runtime import tiling
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.defects import find_defects
from anomalib_gan.runtime.image import ImageError, Picture, open_image
from anomalib_gan.runtime.inspection import Inspection, InvalidImage
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.scores import image_score
from anomalib_gan.runtime.tiling import Grid

RADIUS = 3


class Net:
    """A small network in numpy: blocks of `stride` pixels are pooled, convolved with zero padding and spread again,
    added to a zero-padded full-resolution convolution, and weighted by the place within the block: equivariant at
    multiples of the stride only."""

    scale = (0.0, 1.0)
    hash = "0" * 64
    device = "cpu"

    def __init__(self, stride: int = 4, channels: int = 1, pixel_size: float | None = None, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.stride, self.channels, self.pixel_size = stride, channels, pixel_size
        self.halo, self.smallest = max(RADIUS, 2 * stride - 1), stride
        self.fine = rng.normal(size=(channels, 2 * RADIUS + 1, 2 * RADIUS + 1))
        self.coarse = rng.normal(size=(3, 3))
        self.place = rng.random((stride, stride)) + 0.5
        self.seen: list[tuple[np.ndarray, float]] = []

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        self.seen.append((image, white))
        assert image.dtype == np.float32 and image.flags.c_contiguous
        return np.stack([self.one(one / white)[None] for one in image]).astype(np.float32)

    def one(self, image: np.ndarray) -> np.ndarray:
        _, height, width = image.shape
        blocks = (
            image.mean(0).reshape(height // self.stride, self.stride, width // self.stride, self.stride).mean((1, 3))
        )
        coarse = np.tanh(ndimage.convolve(blocks, self.coarse, mode="constant"))
        fine = sum(ndimage.convolve(c, k, mode="constant") for c, k in zip(image, self.fine, strict=True))
        place = np.tile(self.place, (height // self.stride, width // self.stride))
        return (np.kron(coarse, np.ones((self.stride, self.stride))) + fine) * place


def grey(seed: int, height: int, width: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


plain = partial(open_image, info_bar=0)


def inspect(net: Any, image: Any, **options: Any) -> Inspection:
    return Inspector(net, opener=plain, **options)(image)


def whole(net: Net, image: np.ndarray, white: float) -> np.ndarray:
    """The map of the whole image in one call: what tiles must equal."""
    height, width = image.shape
    padded = np.pad(image, ((0, -height % net.stride), (0, -width % net.stride)), mode="edge")
    return net(padded[None, None].astype(np.float32), white)[0, 0, :height, :width]


sizes = st.integers(8, 130)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, st.sampled_from([1, 2, 4, 8]), st.integers(8, 140), st.sampled_from([np.uint8, np.uint16]))
def test_a_tiled_map_equals_the_whole_map(height: int, width: int, stride: int, tile: int, dtype: Any) -> None:
    net, image = Net(stride), grey(height * width, height, width, dtype)
    expected = whole(net, image, np.iinfo(dtype).max)
    result = inspect(net, image, tile=tile)
    assert result.map is not None and result.map.dtype == np.float32
    np.testing.assert_allclose(result.map, expected, rtol=0, atol=1e-5 * np.ptp(expected))
    assert result.score == image_score(result.map)
    assert result.peak == result.map.max()
    assert all(white == np.iinfo(dtype).max for _, white in net.seen)


def test_the_law_of_tiles_can_fail() -> None:
    # With a halo that is too small, or windows off the stride's lattice, tiles differ from the whole.
    net, image = Net(4), grey(1, 64, 64)
    expected = whole(net, image, 255)
    net.halo = 0
    assert np.abs(inspect(net, image, tile=16).map - expected).max() > 0.1
    shifted = net(np.roll(image, 1, axis=1)[None, None].astype(np.float32), 255)[0, 0]
    assert np.abs(np.roll(shifted, -1, axis=1) - expected)[8:-8, 8:-8].max() > 0.1


def test_an_image_that_fits_in_a_tile_is_one_tile_and_raw_grey_levels_are_handed_over() -> None:
    net, image = Net(4), grey(2, 62, 33, np.uint16)
    inspect(net, image, tile=64)
    assert len(net.seen) == 1
    given_image, white = net.seen[0]
    assert given_image.shape == (1, 1, 64, 36) and white == 65535
    assert (given_image[0, 0, :62, :33] == image).all()
    assert (given_image[0, 0, 62:, :33] == image[-1]).all() and (given_image[0, 0, :62, 33:] == image[:, -1:]).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(64, 1500), st.integers(0, 300), st.sampled_from([1, 32]))
def test_cores_partition_the_image_and_windows_hold_the_halo(
    height: int, width: int, tile: int, halo: int, stride: int
) -> None:
    grid = Grid(tile, halo, stride)
    tall, wide = grid.padded(height, width)
    assert 0 <= tall - height < stride and 0 <= wide - width < stride
    split = grid.split(height, width)
    assert sum((c.bottom - c.top) * (c.right - c.left) for c, _ in split) == tall * wide
    assert len({(c.top, c.left) for c, _ in split}) == len(split)
    for core, window in split:
        assert all(edge % stride == 0 for edge in (*core, *window))
        assert max(core.bottom - core.top, core.right - core.left) <= grid.tile
        assert 0 <= window.top <= max(core.top - halo, 0) and min(core.bottom + halo, tall) <= window.bottom <= tall
        assert 0 <= window.left <= max(core.left - halo, 0) and min(core.right + halo, wide) <= window.right <= wide
        assert core.top - window.top < halo + stride and window.bottom - core.bottom < halo + stride
    if max(tall, wide) <= tile:
        assert len(split) == 1


def test_bands_of_a_very_wide_image_are_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "BAND_PIXELS", 2000)
    bands = Grid(tile=64, halo=7, stride=4).bands(200, 100)
    assert all(band[0].core.bottom - band[0].core.top <= 20 for band in bands)
    net, image = Net(4), grey(3, 90, 100)
    expected = whole(net, image, 255)
    np.testing.assert_allclose(inspect(net, image, tile=64).map, expected, atol=1e-5 * np.ptp(expected))


def test_a_tile_below_the_stride_and_an_image_below_it_are_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="raise the tile size"):
        Inspector(Net(8), tile=4)
    with pytest.raises(ImageError, match=r"7x30 is smaller than the model's smallest image, 8x8 px: pad or enlarge"):
        inspect(Net(8), grey(0, 7, 30))


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 300)] * 2, st.integers(8, 96), st.integers(0, 60), st.integers(1, 8))
def test_no_window_is_smaller_than_the_models_smallest_image(
    height: int, width: int, tile: int, halo: int, strides: int
) -> None:
    net = Level()
    net.stride, net.halo, net.smallest = 8, halo, 8 * strides  # type: ignore[misc]
    image = grey(0, height, width)
    if min(height, width) < net.smallest:
        with pytest.raises(ImageError, match=f"smallest image, {net.smallest}x{net.smallest} px: pad or enlarge"):
            inspect(net, image, tile=tile)
        assert not net.sizes
    else:
        np.testing.assert_array_equal(inspect(net, image, tile=tile).map, image)
        assert min(side for size in net.sizes for side in size[2:]) >= net.smallest


def test_rows_are_asked_for_once_and_in_order() -> None:
    asked: list[tuple[int, int]] = []

    def opener(source: np.ndarray) -> Picture:
        picture = plain(source)
        rows = picture.rows
        picture.rows = lambda top, bottom: asked.append((top, bottom)) or rows(top, bottom)  # type: ignore
        return picture

    Inspector(Net(4), tile=16, opener=opener)(grey(4, 101, 20))
    assert asked[0][0] == 0 and asked[-1][1] == 101
    assert all(before[1] == after[0] for before, after in pairwise(asked))
    assert max(bottom - top for top, bottom in asked) <= 16 + 8


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 400), st.integers(20, 300), st.integers(0, 40), st.integers(8, 150))
def test_a_sink_gets_the_same_map_and_the_info_bar_changes_nothing(
    height: int, width: int, bar: int, tile: int
) -> None:
    image = grey(height, height, width)
    with_bar = np.concatenate([image, np.full((bar, width), 255, np.uint8)])
    net = Net(4)
    normal = inspect(net, image).map
    calibration = Calibration.fit([0.0], [float(np.quantile(normal, 0.98))])
    alone = inspect(net, image, tile=tile, calibration=calibration)

    inspector = Inspector(net, tile=tile, calibration=calibration)
    picture = open_image(with_bar, info_bar=bar)
    received: list[np.ndarray] = []

    def sink(top: int, rows: np.ndarray) -> None:
        assert top == sum(map(len, received))
        received.append(rows)

    streamed, kept = inspector(picture, sink), inspector(picture)
    assert streamed.map is None and kept.map is not None
    np.testing.assert_array_equal(np.concatenate(received), kept.map)
    assert np.isnan(kept.map[height:]).all() and kept.map.shape == (height + bar, width)
    np.testing.assert_array_equal(kept.map[:height], alone.map)
    for one in (streamed, kept):
        assert (one.score, one.peak, one.defects, one.verdict) == (
            alone.score,
            alone.peak,
            alone.defects,
            alone.verdict,
        )
        assert (one.height, one.content) == (height + bar, height)
    assert image_score(kept.map) == kept.score
    assert list(kept.defects) == find_defects(kept.map, calibration.pixel)
    assert (kept.peak > calibration.pixel) == (kept.defect_count > 0)


def test_the_verdict_follows_score_and_defects_and_the_repr_tells_it() -> None:
    net, image = Net(), grey(5, 40, 50)
    bare = inspect(net, image)
    assert bare.verdict is None and bare.defects == () and "not calibrated" in repr(bare)
    high = Calibration.fit([bare.score + 1], [bare.peak + 1])
    for calibration, verdict in (
        (high, "accept"),
        (replace(high, pixel=np.nextafter(bare.peak, -np.inf)), "review"),
        (replace(high, review=bare.score - 1), "review"),
        (replace(high, review=bare.score - 2, reject=bare.score - 1), "reject"),
    ):
        result = inspect(net, image, calibration=calibration)
        assert result.verdict == verdict
        assert verdict in repr(result) and "<array>" in repr(result) and "50x40" in repr(result)
    assert set(bare.timing) == {"decode", "inference", "post"}
    assert min(bare.timing.values()) >= 0 and bare.timing["inference"] > 0


def test_a_calibration_of_another_model_is_refused() -> None:
    calibration = Calibration.fit([1], [1], model="f" * 64)
    with pytest.raises(ValueError, match="calibrate again"):
        Inspector(Net(), calibration=calibration)


def test_channels_are_adapted_only_where_nothing_is_lost() -> None:
    image = grey(6, 33, 41)
    alike = np.repeat(image[..., None], 3, axis=-1)
    np.testing.assert_array_equal(inspect(Net(), alike).map, inspect(Net(), image).map)
    np.testing.assert_array_equal(inspect(Net(channels=3), alike).map, inspect(Net(channels=3), image).map)
    coloured = alike.copy()
    coloured[-1, -1, 2] ^= 1
    with pytest.raises(ImageError, match="trained on grey"):
        inspect(Net(), coloured, tile=16)
    assert not np.array_equal(inspect(Net(channels=3), coloured).map, inspect(Net(channels=3), alike).map)


class Level:
    """A detector whose map is the grey level, for what is done around it."""

    channels, stride, halo, smallest, scale, hash, device = 1, 1, 0, 1, (0.0, 1.0), "1" * 64, "cpu"

    def __init__(self, pixel_size: float | None = None, action: Callable[[], Any] = lambda: None) -> None:
        self.pixel_size, self.action, self.sizes = pixel_size, action, list[tuple[int, ...]]()

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        self.sizes.append(image.shape)
        self.action()
        return image.copy()


def sized(image: np.ndarray, pixel_size: float, bar: int = 0) -> Picture:
    picture = open_image(image, info_bar=bar)
    picture.pixel_size = pixel_size
    return picture


@pytest.mark.parametrize(("pixel_size", "size"), [(2.0, (200, 160)), (0.5, (50, 40))])
def test_rescale_brings_the_image_to_the_training_scale_and_the_map_back(
    pixel_size: float, size: tuple[int, int]
) -> None:
    smooth = (ndimage.gaussian_filter(np.random.default_rng(7).random((100, 80)), 6) * 255).astype(np.uint8)
    image = np.concatenate([smooth, np.full((9, 80), 255, np.uint8)])
    net = Level(pixel_size=1.0)
    result = Inspector(net, tile=64, rescale=True)(sized(image, pixel_size, 9))
    assert result.map.shape == (109, 80) and np.isnan(result.map[100:]).all()
    assert max(shape[2] for shape in net.sizes) <= 64
    assert sum(shape[2] * shape[3] for shape in net.sizes) == size[0] * size[1]
    np.testing.assert_allclose(result.map[:100], smooth, atol=3)
    assert result.scale_warning is None and "resampled" in result.notes[-1]


def test_without_rescale_a_differing_pixel_size_is_told_and_a_small_difference_is_not() -> None:
    image = grey(8, 20, 30)
    result = Inspector(Level(pixel_size=1.0))(sized(image, 1.5))
    assert result.scale_warning in result.notes and "+50%" in result.scale_warning
    np.testing.assert_array_equal(result.map, image)
    for one in (1.0, 1.09, 0.91):
        assert Inspector(Level(pixel_size=1.0), rescale=True)(sized(image, one)).notes == ()
    assert inspect(Level(pixel_size=1.0), image, rescale=True).scale_warning is None


def test_an_image_too_large_to_resample_is_refused_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector_module, "RESCALE_PIXELS", 1000)
    with pytest.raises(ImageError, match="40x60 exceeds 1000 px: crop it or inspect it without rescale"):
        Inspector(Level(pixel_size=1.0), rescale=True)(sized(grey(9, 20, 30), 2.0))


def test_areas_are_in_square_micrometres_of_the_picture() -> None:
    image = np.zeros((20, 20), np.uint8)
    image[3:6, 4:8] = 200
    result = Inspector(Level(), calibration=Calibration.fit([0], [100]))(sized(image, 0.5))
    (defect,) = result.defects
    assert (defect.top, defect.left, defect.bottom, defect.right) == (3, 4, 6, 8)
    assert (defect.area, defect.area_um2, defect.peak, defect.row, defect.col) == (12, 3.0, 200.0, 4.0, 5.5)


def test_a_map_that_is_not_finite_or_of_another_shape_is_an_error() -> None:
    class Broken(Level):
        def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
            map = image.copy()
            map[0, 0, 3, 3] = np.nan
            return map

    class Small(Level):
        def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
            return image[..., ::2, ::2]

    with pytest.raises(ImageError, match="not finite in rows 0 to 20"):
        inspect(Broken(), grey(0, 20, 20))
    with pytest.raises(ValueError, match="shape"):
        inspect(Small(), grey(0, 20, 20))


def test_memory_does_not_grow_with_the_height_of_the_image() -> None:
    def peak(height: int) -> int:
        strip = grey(0, 64, 256)[..., None]
        picture = open_image(strip, info_bar=0)
        picture.height = picture.content = height
        picture.rows = lambda top, bottom: np.take(strip, range(top, bottom), axis=0, mode="wrap")  # type: ignore
        inspector = Inspector(Level(), tile=128, calibration=Calibration.fit([0], [254]))
        tracemalloc.start()
        result = inspector(picture, lambda top, rows: None)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert result.defect_count > height // 64  # many more than are kept
        return used

    assert peak(30_000) < peak(12_000) + 2**19 < 30_000 * 256


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        ok, data = cv2.imencode(".png", grey(index, 40 + index, 50))
        assert ok
        (tmp_path / f"bild_{index}_ä.png").write_bytes(data.tobytes())
    return tmp_path


def no_decoders() -> bool:
    return not any(thread.name.startswith("decode") for thread in threading.enumerate())


def test_a_stream_keeps_the_order_and_no_bad_image_stops_it(folder: Path) -> None:
    paths: list[Any] = sorted(folder.iterdir())
    (folder / "bild_2_ä.png").write_bytes(b"")
    (folder / "bild_4_ä.png").write_bytes(paths[4].read_bytes()[:900])
    paths.insert(1, folder / "missing.png")
    paths += [grey(9, 5, 50), np.zeros((3, 3), np.complex64)]
    inspector = Inspector(Net(8), opener=plain)
    results = list(inspector.stream(iter(paths), workers=3, prefetch=2))
    good, bad = Inspection, InvalidImage
    assert [type(one) for one in results] == [good, bad, good, bad, good, bad, good, bad, bad]
    for path, result in zip(paths, results, strict=True):
        if isinstance(path, Path):
            assert result.name == str(path)
        if isinstance(result, InvalidImage):
            assert len(result.reason) > 10
        else:
            alone = inspector(path)
            np.testing.assert_array_equal(result.map, alone.map)
            assert (result.score, result.sha256) == (alone.score, alone.sha256) and result.sha256
    assert no_decoders()


def test_decoding_of_the_next_image_overlaps_the_inference_of_this_one() -> None:
    decoded = [threading.Event() for _ in range(3)]

    def opener(index: int) -> Picture:
        picture = open_image(grey(index, 20, 20), info_bar=0)
        rows = picture.rows
        picture.rows = lambda top, bottom: (rows(top, bottom), decoded[index].set())[0]  # type: ignore
        return picture

    net = Level()
    net.action = lambda: overlaps.append(decoded[min(len(overlaps) + 1, 2)].wait(timeout=20))
    overlaps: list[bool] = []
    assert len(list(Inspector(net, opener=opener).stream(range(3), workers=1, prefetch=2))) == 3
    assert overlaps == [True] * 3


def test_no_more_than_the_prefetch_is_opened_ahead_and_all_of_it_is_closed() -> None:
    taken, closed = [], []

    def opener(index: int) -> Picture:
        picture = open_image(grey(index, 20, 20), info_bar=0)
        close = picture.close
        picture.close = lambda: (closed.append(index), close())  # type: ignore
        return picture

    def sources() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    stream = Inspector(Level(), opener=opener).stream(sources(), workers=2, prefetch=3)
    for index in range(5):
        next(stream)
        assert len(taken) <= index + 1 + 3
    stream.close()  # type: ignore
    assert no_decoders()
    assert set(closed) >= set(range(5)) and set(closed) <= set(taken)
    assert len(taken) < 10


def test_every_picture_that_was_opened_is_closed_when_the_consumer_is_interrupted() -> None:
    opened, closed = [], []

    def opener(index: int) -> Picture:
        picture = open_image(grey(index, 20, 20), info_bar=0)
        opened.append(index)
        picture.close = lambda: closed.append(index)  # type: ignore
        return picture

    def interrupt() -> None:
        time.sleep(0.05)  # lets the decoders run ahead
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Inspector(Level(action=interrupt), opener=opener).stream(range(10), prefetch=4))
    assert set(closed) == set(opened) and len(opened) >= 2
    assert no_decoders()


def test_too_little_memory_for_one_image_does_not_stop_the_others() -> None:
    def full() -> None:
        if len(net.sizes) == 2:
            raise MemoryError

    net = Level(action=full)
    results = list(Inspector(net, opener=plain).stream([grey(i, 20, 20) for i in range(3)]))
    assert [type(one) for one in results] == [Inspection, InvalidImage, Inspection]
    assert "memory" in results[1].reason


def test_a_fault_of_the_backend_or_the_sink_or_the_sources_is_not_taken_for_a_bad_image() -> None:
    def fail() -> None:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        list(Inspector(Level(action=fail), opener=plain).stream([grey(0, 20, 20)]))

    def sink(top: int, rows: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    inspector = Inspector(Level(), opener=plain)
    with pytest.raises(OSError, match="No space left"):
        list(inspector.stream([grey(0, 20, 20)], sink_factory=lambda picture: sink))
    with pytest.raises(OSError, match="No space left"):
        inspector(grey(0, 20, 20), sink)

    def sources() -> Iterator[np.ndarray]:
        yield grey(0, 20, 20)
        raise LookupError("the list ended badly")

    with pytest.raises(LookupError, match="ended badly"):
        list(inspector.stream(sources()))
    with pytest.raises(ValueError, match="at least 1"):
        inspector.stream([], prefetch=0)
    assert no_decoders()


def test_a_sink_is_made_for_the_pictures_that_want_one() -> None:
    rows: dict[int, list[np.ndarray]] = {}

    def factory(picture: Picture) -> Any:
        if picture.height < 100:
            return None
        strips = rows.setdefault(picture.height, [])
        return lambda top, strip: strips.append(strip)

    images = [grey(0, 50, 20), grey(1, 150, 20), grey(2, 99, 20), grey(3, 200, 20)]
    results = list(Inspector(Level(), tile=64, opener=plain).stream(images, sink_factory=factory))
    assert [result.map is None for result in results] == [False, True, False, True]
    np.testing.assert_array_equal(np.concatenate(rows[150]), images[1])
    np.testing.assert_array_equal(np.concatenate(rows[200]), images[3])


def test_a_file_that_changes_while_it_is_read_is_invalid(folder: Path) -> None:
    paths = sorted(folder.iterdir())

    def grow() -> None:
        if len(net.sizes) == 2:
            with open(paths[1], "ab") as file:
                file.write(b"more")

    net = Level(action=grow)
    results = list(Inspector(net, opener=plain).stream(paths[:3]))
    assert [type(one) for one in results] == [Inspection, InvalidImage, Inspection]
    assert "changed while it was read" in results[1].reason


def test_a_given_picture_stays_open_and_an_opened_one_is_closed() -> None:
    made: list[Picture] = []

    def opener(source: Any) -> Picture:
        made.append(plain(source))
        return made[-1]

    inspector = Inspector(Level(), opener=opener)
    picture = plain(grey(0, 20, 20))
    first = inspector(picture)
    np.testing.assert_array_equal(inspector(picture).map, first.map)
    next(iter(inspector.stream([picture])))
    assert picture.rows(0, 1).shape == (1, 20, 1)
    inspector(grey(0, 20, 20))
    with pytest.raises(ValueError, match="closed"):
        made[0].rows(0, 1)


def test_threads_that_share_an_inspector_get_what_each_asked_for() -> None:
    inspector = Inspector(Net(4), tile=32, opener=plain)
    images = [grey(index, 50 + index, 60) for index in range(8)]
    alone = [inspector(image) for image in images]
    together: dict[int, Inspection] = {}
    threads = [
        threading.Thread(target=lambda i=index: together.__setitem__(i, inspector(images[i]))) for index in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(8):
        np.testing.assert_array_equal(together[index].map, alone[index].map)
        assert together[index].score == alone[index].score
