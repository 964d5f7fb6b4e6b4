"""A bundle at work: the same maps whatever the batch, the tile, the thread and the way in; else clear words."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import bundles
import cv2
import numpy as np
import pytest
from scipy import ndimage

from anomalib_gan.opening import card_folder, is_bundle, open_inspector, store_calibration
from anomalib_gan.runtime import BundleError, Inspection, Inspector, InvalidImage, calls, open_image, session, shapes
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.session import OnnxBackend, OnnxGraph

ROOT = Path(__file__).parents[1]
FROZEN = Path(__file__).with_name("frozen") / "v1.bundle"
plain = partial(open_image, info_bar=0)


def grey(seed: int, height: int, width: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


def mean_of_nine(image: np.ndarray, white: float) -> np.ndarray:
    return ndimage.uniform_filter(image / np.float64(white), 3, mode="constant")


def backend(**options: Any) -> OnnxBackend:
    manifest = bundles.manifest()
    return OnnxBackend(check_graph(bundles.mean_of_nine().SerializeToString(), manifest), manifest, **options)


@pytest.fixture
def nine(tmp_path: Path) -> Path:
    """A detector whose map is the mean of 3 x 3 pixels."""
    return bundles.write(tmp_path / "nine.bundle", bundles.mean_of_nine())


def load(path: Path, **options: Any) -> Inspector:
    return Inspector.load(path, "cpu", opener=plain, **options)


def test_a_bundle_judges_arrays_paths_and_bytes_alike(nine: Path, tmp_path: Path) -> None:
    inspector, image = load(nine), grey(0, 72, 52)
    data = cv2.imencode(".png", image)[1].tobytes()
    (tmp_path / "bild.png").write_bytes(data)
    results = [inspector(source) for source in (image, data, tmp_path / "bild.png", str(tmp_path / "bild.png"))]
    for result in results:
        np.testing.assert_allclose(result.map, mean_of_nine(image, 255), atol=1e-6)
        assert (result.score, result.verdict, result.defects) == (results[0].score, "reject", results[0].defects)
        assert result.model == bundles.HASH
    thresholds = bundles.calibration()
    assert inspector.calibration == thresholds and results[0].score > thresholds.reject
    assert load(bundles.write(tmp_path / "bare", bundles.mean_of_nine(), calibration=None))(image).verdict is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_follows_the_type_or_what_is_told(nine: Path, dtype: Any) -> None:
    image = grey(1, 40, 32, dtype)
    expected = mean_of_nine(image, np.iinfo(dtype).max)
    np.testing.assert_allclose(load(nine)(image).map, expected, atol=1e-6)
    if dtype == np.uint16:
        inspector = Inspector.load(nine, "cpu", opener=partial(open_image, info_bar=0, bits=12))
        np.testing.assert_allclose(inspector(image // 16).map, mean_of_nine(image // 16, 4095), atol=1e-6)


@pytest.mark.parametrize(("height", "width", "tile"), [(16, 500, 16), (387, 402, 64), (90, 601, 256), (512, 512, 400)])
def test_a_tiled_map_is_the_whole_one(height: int, width: int, tile: int) -> None:
    """Of a trained detector, to 1e-5 of the normal map's scale at every pixel."""
    image = cv2.resize(cv2.imread(str(ROOT / "data_samples/test/dust/000.png"), 0), (width, height))
    tiled, whole = load(FROZEN, tile=tile)(image), load(FROZEN)(image)
    low, high = load(FROZEN).backend.scale
    np.testing.assert_allclose(tiled.map, whole.map, rtol=0, atol=1e-5 * (high - low))
    assert (tiled.verdict, tiled.defect_count) == (whole.verdict, whole.defect_count)


def test_several_images_at_once_are_the_same_images_one_by_one() -> None:
    manifest = bundles.manifest()
    for graph in (bundles.mean_of_nine(), bundles.tour()):
        run = OnnxBackend(check_graph(graph.SerializeToString(), manifest), manifest, device="cpu", threads=1)
        images = np.stack([grey(i, 24, 36) for i in range(5)])[:, None].astype(np.float32)
        alone = np.concatenate([run(image[None], 255.0) for image in images])
        np.testing.assert_allclose(run(images, 255.0), alone, rtol=0, atol=1e-5 * 4.5)
        assert alone.shape == (5, 1, 24, 36) and alone.dtype == np.float32


def test_the_backend_says_what_the_manifest_says_and_where_it_runs() -> None:
    run, manifest = backend(), bundles.manifest()
    assert (run.channels, run.stride, run.halo, run.smallest) == (1, 4, 40, 8)
    assert (run.hash, run.scale, run.pixel_size) == (manifest.hash, (-1.0, 3.5), 0.25)
    assert run.device == f"cpu (ONNX Runtime {session.onnxruntime.__version__})"
    assert run.concurrent
    for device in ("tpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(ValueError, match="none of auto, cpu, cuda, cuda:1"):
            backend(device=device)


def test_parts_and_generator_run_by_name() -> None:
    model = bundles.model(
        [bundles.node("Resize", "z _ s", "image")], {"s": bundles.f32(1, 1, 4, 4)}, {"z": ("N", 2, "h", "w")}, ["image"]
    )
    with pytest.raises(
        BundleError, match=r"output 'image' is float32 of \[1, 2, 4, 4\] for an input of \[1, 2, 1, 1\]"
    ):
        check_graph(model.SerializeToString(), bundles.manifest(), "generator")
    nodes = [
        bundles.node("AveragePool", "image", "code", kernel_shape=[4, 4], strides=[4, 4]),
        bundles.node("Resize", "code _ s", "reconstruction", mode="nearest"),
    ]
    model = bundles.model(nodes, {"s": bundles.f32(1, 1, 4, 4)}, outputs=["code", "reconstruction"])
    parts = OnnxGraph(check_graph(model.SerializeToString(), bundles.manifest(), "parts"), threads=1)
    image = grey(0, 16, 24).astype(np.float32)[None, None]
    found = parts(image=image, white=np.array(255, np.float32))
    blocks = image.reshape(4, 4, 6, 4).mean((1, 3))
    np.testing.assert_allclose(found["code"][0, 0], blocks, rtol=1e-6)
    np.testing.assert_allclose(found["reconstruction"][0, 0], np.kron(blocks, np.ones((4, 4))), rtol=1e-6)


# --- devices, threads, memory --------------------------------------------------------------------------------------


def test_a_gpu_that_cannot_be_used_is_an_error_where_it_was_asked_for_and_a_warning_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver is claimed to be there; its libraries, or the GPU behind them, are not."""
    if (run := backend()).device.startswith("cuda"):
        pytest.fail(f"{run.device}: this test wants a machine without a GPU")
    with pytest.raises(ValueError, match=r"device 'cuda:1' cannot be used .*: choose another, such as --device cpu"):
        backend(device="cuda:1")
    driver = types.SimpleNamespace(cuInit=lambda flags: 0)
    monkeypatch.setattr(session, "ctypes", types.SimpleNamespace(CDLL=lambda name: driver))
    with pytest.warns(RuntimeWarning, match="CUDA cannot be used .*: computing on the processor"):
        run = backend()
    assert run.device.startswith("cpu") and run(np.zeros((1, 1, 8, 8), np.float32), 1.0).shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"'cuda' cannot be used .*pip install 'anomalib_gan\[gpu\]'"):
        backend(device="cuda")


def test_threads_are_those_asked_for_else_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [session._options(threads, True).intra_op_num_threads for threads in (None, 2)] == [3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert session._options(None, False).intra_op_num_threads == 0


def test_threads_that_share_an_inspector_get_what_each_asked_for(nine: Path) -> None:
    inspector = load(nine, tile=16)
    images = [grey(index, 50 + index, 60) for index in range(6)]
    together: dict[int, Inspection] = {}
    threads = [
        threading.Thread(target=lambda i=index: together.__setitem__(i, inspector(images[i]))) for index in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, image in enumerate(images):
        np.testing.assert_array_equal(together[index].map, inspector(image).map)


def test_only_a_backend_that_says_so_runs_twice_at_a_time() -> None:
    """Two inferences meet at a barrier, or wait for each other in vain."""

    class Meeting:
        channels, stride, halo, smallest, scale, hash, device = 1, 1, 0, 1, (0.0, 1.0), "1" * 64, "cpu"
        pixel_size = None

        def __init__(self, concurrent: bool) -> None:
            self.concurrent, self.barrier, self.met = concurrent, threading.Barrier(2), 0

        def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
            with suppress(threading.BrokenBarrierError):
                self.barrier.wait(10 if self.concurrent else 0.3)
                self.met += 1
            return image

    for concurrent in (True, False):
        meeting = Meeting(concurrent)
        inspector = Inspector(meeting, opener=plain)
        pair = [threading.Thread(target=inspector, args=(grey(0, 9, 9),)) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        assert meeting.met == 2 * concurrent


LIMITED = """
import resource, sys
sys.path[:0] = [{tests!r}]
import bundles, numpy as np
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.session import OnnxBackend
graph = check_graph(bundles.tour().SerializeToString(), bundles.manifest())
run = OnnxBackend(graph, bundles.manifest(), device="cpu", threads=1)
image = np.zeros((1, 1, 6000, 6000), np.float32)
resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
try:
    run(image, 255.0)
except MemoryError as error:
    print(error)
print(run(image[..., :64, :64], 255.0).shape)
"""


def test_an_image_beyond_the_memory_is_an_error_with_the_mend_and_not_the_end() -> None:
    program = LIMITED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "cpu cannot hold a window of 6000x6000 px: lower --tile\n(1, 1, 64, 64)\n", done.stderr


def test_what_onnx_runtime_says_of_memory_is_a_memory_error_and_the_rest_names_the_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, image = backend(), np.zeros((1, 1, 16, 24), np.float32)
    for words, kind, told in (
        ("bfc_arena: Failed to allocate memory for requested buffer of size 9", MemoryError, "16x24 px: lower --tile"),
        ("CUDNN failure 5:\n out of memory", MemoryError, "16x24 px: lower --tile"),
        ("Non-zero status code returned", BundleError, r"model.onnx cannot be run on cpu \(Non-zero status code"),
    ):

        def fail(binding: Any, words: str = words) -> None:
            raise RuntimeError(words)

        monkeypatch.setattr(run._graph._session, "run_with_iobinding", fail)
        with pytest.raises(kind, match=told) as error:
            run(image, 255.0)
        assert "\n" not in str(error.value)


def test_a_size_at_which_the_graph_asks_for_too_much_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = backend()
    monkeypatch.setattr(shapes.Program, "trace", lambda *_: (_ for _ in ()).throw(calls.ShapeError("too much")))
    run(np.zeros((1, 1, 8, 8), np.float32), 255.0)  # was looked at before
    with pytest.raises(BundleError, match=r"for an input of \[1, 1, 12, 8\]: too much"):
        run(np.zeros((1, 1, 12, 8), np.float32), 255.0)


def test_what_onnx_runtime_does_not_take_is_an_error_of_the_bundle() -> None:
    manifest = bundles.manifest()
    graph = check_graph(bundles.mean_of_nine().SerializeToString(), manifest)
    # Its own format is recognised by these bytes, and would pass by the look into the graph.
    for data in (b"", b"\x00\x00\x00\x00ORTM" + b"\0" * 100, graph.data[:-9]):
        with pytest.raises(BundleError, match=r"ONNX Runtime \S+ does not take the graph"):
            OnnxBackend(replace(graph, data=data), manifest, device="cpu")


# --- streams and batches -------------------------------------------------------------------------------------------


class Counting:
    """A detector whose map is the share of white, and that remembers what it was given."""

    channels, stride, halo, smallest, scale, hash, device = 1, 4, 0, 8, (0.0, 1.0), "1" * 64, "cpu"
    pixel_size = 1.0

    def __init__(self, most: int = 99) -> None:
        self.most, self.sizes = most, list[tuple[int, ...]]()

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        if len(image) > self.most:
            raise MemoryError
        self.sizes.append(image.shape)
        return image / np.float32(white)


def mixed() -> list[Any]:
    colour = np.repeat(grey(5, 24, 36)[..., None], 3, axis=-1)
    colour[0, 0, 0] ^= 1
    return [
        *(grey(i, 24, 36) for i in range(5)),
        grey(5, 22, 36),
        b"no image",
        grey(6, 24, 36, np.uint16),
        colour,
        grey(7, 24, 36),
        grey(8, 60, 36),
        grey(9, 4, 36),
        np.repeat(grey(10, 24, 36)[..., None], 3, axis=-1),
        grey(11, 24, 36),
    ]


def test_a_batch_gives_what_each_image_gives_alone() -> None:
    alone = [(type(one), one) for one in Inspector(Counting(), tile=40, opener=plain).stream(mixed())]
    for size in (2, 3, 5, 14, 50):
        counting = Counting()
        inspector = Inspector(counting, tile=40, opener=plain)
        found = inspector.batch(mixed(), size)
        assert [type(one) for one in found] == [kind for kind, _ in alone]
        for one, (_, other) in zip(found, alone, strict=True):
            if isinstance(one, InvalidImage):
                assert one == other
            else:
                np.testing.assert_array_equal(one.map, other.map)
                assert (one.score, one.name, one.sha256) == (other.score, other.name, other.sha256)
                assert one.timing["inference"] > 0
        assert max(len_ for len_, *_ in counting.sizes) == min(size, 8 if size > 12 else 5)
        assert all(count == 1 for count, _, height, _ in counting.sizes if height != 24)


def test_a_batch_that_does_not_fit_into_memory_goes_one_by_one() -> None:
    counting = Counting(most=1)
    found = Inspector(counting, opener=plain).batch([grey(i, 24, 36) for i in range(4)], 4)
    assert [type(one) for one in found] == [Inspection] * 4 and counting.sizes == [(1, 1, 24, 36)] * 4


def test_images_that_are_resampled_go_alone() -> None:
    images = [plain(grey(i, 24, 36)) for i in range(3)]
    images[1].pixel_size = 2.0
    counting = Counting()
    found = Inspector(counting, rescale=True, opener=plain).batch(images)
    assert sorted(counting.sizes) == [(1, 1, 48, 72), (2, 1, 24, 36)]
    assert all(isinstance(one, Inspection) and one.map is not None and one.map.shape == (24, 36) for one in found)


def test_a_stream_in_batches_keeps_to_its_bounds_and_closes_what_it_opened() -> None:
    taken: list[int] = []
    opened, closed = [], []

    def opener(index: int) -> Any:
        picture = plain(grey(index, 24, 36))
        opened.append(index)
        picture.close = lambda: closed.append(index)  # type: ignore[method-assign]
        return picture

    stream = Inspector(Counting(), opener=opener).stream(
        (taken.append(i) or i for i in range(100)),
        prefetch=1,
        batch=3,  # type: ignore[func-returns-value]
    )
    for _ in range(7):
        next(stream)
    assert len(taken) <= 12
    stream.close()  # type: ignore[attr-defined]
    assert set(closed) == set(opened)
    with pytest.raises(ValueError, match="batch 0 must be at least 1"):
        Inspector(Counting()).stream([], batch=0)


# --- the commands' way in -------------------------------------------------------------------------------------------


def test_commands_open_a_bundle_as_they_open_a_run(nine: Path, tmp_path: Path) -> None:
    image = grey(0, 32, 40)
    inspector = open_inspector(nine, device="cpu", tile=64, threads=1)
    np.testing.assert_allclose(inspector(image).map, mean_of_nine(image, 255), atol=1e-6)
    assert inspector.calibration == bundles.calibration() and inspector.grid.tile == 64
    assert open_inspector(nine, device="cpu", calibrated=False).calibration is None
    new = bundles.calibration(scale=2)
    store_calibration(nine, new)
    assert open_inspector(nine, device="cpu").calibration == new
    assert is_bundle(nine) and card_folder(nine) == nine / "card"

    run = tmp_path / "run"
    run.mkdir()
    store_calibration(run, new)
    assert [path.name for path in run.iterdir()] == ["calibration.json"]
    assert not is_bundle(run) and card_folder(run) == run
    with pytest.raises(ValueError, match="neither a run's folder nor a bundle: train"):
        open_inspector(tmp_path / "nothing")


def test_the_package_is_cheap_to_import_and_tells_what_it_has() -> None:
    program = """
import sys, anomalib_gan.runtime as runtime
heavy = {"numpy", "cv2", "scipy", "onnx", "onnxruntime", "torch"} & set(sys.modules)
assert not heavy, heavy
for name in runtime.__all__:
    assert getattr(runtime, name).__name__ == name
assert not {"onnx", "onnxruntime", "torch"} & set(sys.modules)
try:
    runtime.Nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.stdout == "module 'anomalib_gan.runtime' has no attribute 'Nothing'\n", done.stderr
