"""How fast a detector is on this machine and what it needs: what `anomalib-gan benchmark speed` measures.

Every figure comes from a fresh process, `python -m anomalib_gan.speed TASK ARGUMENTS`, so that peak memory is that of
one measurement and threads are as they should be. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from anomalib_gan.opening import is_bundle, open_inspector
from anomalib_gan.runtime.bundle import Graph, Manifest, Precision, check_graph, load, read_manifest
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.image import Picture
from anomalib_gan.runtime.inspector import Backend, Inspector
from anomalib_gan.runtime.shapes import Node, Program
from anomalib_gan.runtime.tiling import Grid

Size = tuple[int, int]
"""Height and width in px."""
Image = NDArray[np.uint8]
"""(height, width, channels), white = 255."""
Say = Callable[[str], None]
Told = dict[str, Any]

GIB = 2**30
EAGER = "PyTorch eager"
LEAST, MOST = 3, 1000  # calls of a row
STARTUP = 2.0  # seconds that a process takes before it measures, about
SCORED: Size = (696, 1024)
LARGE = 20_000
TILE = 256
PICTURES = 8


class SpeedError(ValueError):
    """Something could not be measured."""


@dataclass(frozen=True)
class Plan:
    """What to measure. minutes: for the table of rows, about · memory: bytes that a row may take, half of what is free
    by default · gemm: side of the matrices that the machine's peak is taken with · images: how many `score` goes
    through, of size `scored` · large: of the TIFF that `score` gets by itself, None for none.
    """

    minutes: float = 5.0
    sizes: tuple[Size, ...] = ((256, 256), (512, 512), SCORED, (4096, 4096))
    batches: tuple[int, ...] = (1, 4, 16)
    gpu_batches: tuple[int, ...] = (1, 4, 16, 64)
    threads: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    memory: float | None = None
    gemm: int = 3072
    images: int = 200
    scored: Size = SCORED
    large: Size | None = (LARGE, LARGE)

    def settled(self) -> Plan:
        """With whatever is left open taken from the machine: one and all threads, all devices, the memory."""
        plan = self
        if not plan.threads:
            plan = replace(plan, threads=tuple(sorted({1, processors()})))
        if not plan.devices:
            plan = replace(plan, devices=tuple(fresh("places")["places"]))
        return replace(plan, memory=plan.memory or free_memory() / 2)


QUICK = Plan(
    0.0, ((128, 128), (192, 256)), (1, 2), (1, 2), threads=(1,), devices=("cpu",), gemm=256, images=4,
    scored=(192, 256), large=(1100, 600),
)  # fmt: skip
"""Takes seconds and gives no figure that is worth anything."""


class Row(NamedTuple):
    """What one row of the table is about; `batch` 0: one image through the Inspector, in tiles."""

    path: Path
    device: str
    threads: int
    batch: int
    size: Size

    @property
    def pixels(self) -> int:
        return max(self.batch, 1) * self.size[0] * self.size[1]

    def told(self) -> Told:
        return {
            "path": str(self.path),
            "device": self.device,
            "threads": self.threads,
            "batch": self.batch,
            "size": list(self.size),
        }


# --- what is measured ------------------------------------------------------------------------------------------------


def measure(
    paths: Sequence[Path],
    plan: Plan,
    pictures: Sequence[Image],
    scratch: Path,
    command: Sequence[str],
    say: Say = print,
) -> Told:
    """All that `speed_report.text` tells. `paths` are runs and bundles; `score` is measured with bundles.

    pictures: of the material; what is scored is made of them · scratch: a folder for images and results · command: what
    starts `anomalib-gan` here. What could not be measured stands with its reason under "left_out".
    """
    plan, left_out = plan.settled(), list[str]()

    def tried(name: str, task: Callable[[], Told]) -> list[Told]:
        say(name)
        try:
            return [task()]
        except SpeedError as error:
            left_out.append(f"{name}: {error}")
            say(left_out[-1])
            return []

    def peaks() -> dict[str, Told]:
        return {
            where: told
            for where, asked in peaks_wanted(plan).items()
            for told in tried(f"peak of {where}", partial(fresh, "peak", **asked))
        }

    before = peaks()
    found, more = rows(paths, plan, say)
    after = peaks()
    left_out = [*dict.fromkeys(left_out), *more]
    scored, alone, huge = list[Told](), list[Told](), list[Told]()
    ready, reasons = scorable(paths, pictures)
    left_out += reasons
    for path, device in product(ready, plan.devices):
        name = f"{path.name}, {device}"
        scored += tried(f"score, {name}", partial(scoring, path, device, plan, pictures, scratch))
        alone += tried(f"one image, {name}", partial(single, path, device, plan, pictures, scratch, command))
        if plan.large and (path, device) == (ready[0], plan.devices[0]):
            huge += tried(f"large TIFF, {name}", partial(large, path, device, plan, pictures, scratch))
    return {
        "machine": machine(),
        "detectors": {str(path): read_manifest(path).precision if is_bundle(path) else EAGER for path in paths},
        "peaks": [before, after],
        "rows": found,
        "scored": scored,
        "single": alone,
        "large": huge,
        "left_out": left_out,
    }


def scorable(paths: Sequence[Path], pictures: Sequence[Image]) -> tuple[list[Path], list[str]]:
    """(those that `score` can be measured with, why the others cannot)."""
    if not pictures:
        return [], ["score: no image of the material is at hand: give a folder of some with --images"]
    ready = [path for path in paths if open_inspector(path, device="cpu").calibration is not None]
    bare = [path for path in paths if path not in ready]
    return ready, [
        f"score, {path.name}: it has no thresholds: anomalib-gan calibrate {path} --good DIR" for path in bare
    ]


def rows(paths: Sequence[Path], plan: Plan, say: Say = print) -> tuple[list[Told], list[str]]:
    """(the rows of the table, what was left out and why). `paths` are runs and bundles; see `row` for what is in a row.

    "label" is the precision of a bundle or EAGER; "gflop" what a call takes, counted from the graph of the bundle or,
    for a run, of a bundle of the same model, else None.
    """
    assert plan.memory is not None  # it is settled
    graphs = {path: graph_of(path) for path in paths if is_bundle(path)}
    origin = {manifest.hash: graph for manifest, graph in graphs.values()}
    asked = list(wanted(paths, plan))
    found: list[Told] = []
    left_out: list[str] = []
    end = time.monotonic() + 60 * plan.minutes
    for number, one in enumerate(asked):
        # Of the same detector in the same place, from the fewest pixels on: they tell what more will take.
        before = [
            each for each in found if (each["path"], each["device"], each["threads"]) == (str(one.path), *one[1:3])
        ]
        name = title(one)
        if reason := unaffordable(one, before, plan):
            left_out.append(f"{name}: {reason}")
            say(f"{left_out[-1]}: left out")
            continue
        seconds = max(0.0, (end - time.monotonic()) / (len(asked) - number) - STARTUP) * 0.8
        try:
            told = fresh("row", **one.told(), seconds=seconds)
        except SpeedError as error:
            left_out.append(f"{name}: {error}")
            say(left_out[-1])
            continue
        graph = graphs[one.path][1] if one.path in graphs else match(origin, told["hash"])
        macs = graph.cost((one.batch, graph.shape[1] or 1, *told["padded"])).macs if graph and one.batch else None
        pixels = one.pixels / told["median_s"]
        found.append(
            {
                **one.told(),
                "label": graphs[one.path][0].precision if one.path in graphs else EAGER,
                **told,
                "images_per_s": max(one.batch, 1) / told["median_s"],
                "mpx_per_s": pixels / 1e6,
                "gflop": None if macs is None else 2 * macs / 1e9,
                "gflop_per_s": None if macs is None else 2 * macs / 1e9 / told["median_s"],
            }
        )
        say(f"{name}: {1000 * told['median_s']:.1f} ms")
    return found, left_out


def wanted(paths: Sequence[Path], plan: Plan) -> Iterator[Row]:
    """All rows, those of one detector in one place by rising number of pixels."""
    for path, device in product(paths, plan.devices):
        on_gpu = device != "cpu"
        for threads in plan.threads[-1:] if on_gpu else plan.threads:
            each = [
                Row(path, device, threads, batch, size)
                for batch, size in product(plan.gpu_batches if on_gpu else plan.batches, plan.sizes)
            ]
            yield from sorted(each, key=lambda one: one.pixels)
            if threads == plan.threads[-1] and is_bundle(path):
                yield Row(path, device, threads, 0, max(plan.sizes))


def unaffordable(one: Row, before: Sequence[Told], plan: Plan) -> str | None:
    """Why a row should not even be tried, as far as rows with fewer pixels tell."""
    known = [(each["pixels"], each["peak_bytes"], each["median_s"]) for each in before if each["batch"]]
    if not known or not one.batch:
        return None
    (fewest, least, _), (most, peak, median) = known[0], known[-1]
    limit = max(15.0, 3 * plan.minutes)
    if (LEAST + 1) * median * one.pixels / most > limit:
        return f"{LEAST + 1} calls would take more than {limit:.0f} s"
    if one.device == "cpu" and most > fewest and peak is not None and plan.memory is not None:
        needed = peak + max(0.0, (peak - least) / (most - fewest)) * (one.pixels - most)
        if needed > plan.memory:
            return f"it would take about {needed / GIB:.1f} GiB, more than {plan.memory / GIB:.1f}"
    return None


def title(one: Row) -> str:
    height, width = one.size
    how = f"batch {one.batch}" if one.batch else "in tiles"
    return f"{one.path.name}, {width}x{height}, {how}, {place(one.device, one.threads)}"


def place(device: str, threads: int) -> str:
    """Where it is computed, in words: "1 thread", "2 threads", ..., "cuda"."""
    return device if device != "cpu" else f"{threads} thread{'s' * (threads != 1)}"


def peaks_wanted(plan: Plan) -> dict[str, Told]:
    """What `peak` is asked, by place."""
    found: dict[str, Told] = {}
    for device in plan.devices:
        on_gpu = device != "cpu"
        for threads in plan.threads[-1:] if on_gpu else plan.threads:
            side = max(plan.gemm, 8192) if on_gpu else plan.gemm
            found[place(device, threads)] = {"threads": threads, "device": device, "side": side}
    return found


def scoring(path: Path, device: str, plan: Plan, pictures: Sequence[Image], scratch: Path) -> Told:
    """`score` on `plan.images` images that differ: see `score`."""
    folder = images_for(path, plan, pictures, scratch)
    return run_score(path, device, plan, folder, scratch, min(3.0, 60 * plan.minutes)) | {"size": plan.scored}


def large(path: Path, device: str, plan: Plan, pictures: Sequence[Image], scratch: Path) -> Told:
    """`score` on one huge TIFF, written for it: see `score`."""
    assert plan.large is not None
    write_large(adapted(pictures[0], path), scratch / "large" / "large.tif", plan.large)
    return run_score(path, device, plan, scratch / "large", scratch, 0.0) | {"size": plan.large}


def run_score(path: Path, device: str, plan: Plan, folder: Path, scratch: Path, seconds: float) -> Told:
    out = tempfile.mkdtemp(prefix="results-", dir=scratch)
    here: Told = {"path": str(path), "device": device, "threads": plan.threads[-1]}
    return here | fresh("score", **here, folder=str(folder), out=out, size=plan.scored, seconds=seconds)


def single(
    path: Path, device: str, plan: Plan, pictures: Sequence[Image], scratch: Path, command: Sequence[str]
) -> Told:
    """One image from the bytes of its file to verdict and defects: in a warm process and as a cold command."""
    image = min(images_for(path, plan, pictures, scratch).iterdir())
    here: Told = {"path": str(path), "device": device, "threads": plan.threads[-1]}
    warm = fresh("warm", **here, image=str(image), seconds=min(3.0, 60 * plan.minutes))
    new = Path(tempfile.mkdtemp(prefix="new-", dir=scratch))
    write_bytes(new / image.name, image.read_bytes())
    options = ("--out", f"{new}-results", "--device", device, "--threads", str(plan.threads[-1]))
    begin = time.perf_counter()
    cold = subprocess.run([*command, "score", str(path), str(new), *options], capture_output=True, text=True)
    spent = time.perf_counter() - begin
    if cold.returncode not in (0, 1):
        raise SpeedError(f"the cold command failed ({cold.stderr.strip()[-300:]})")
    return {**here, **warm, "cold_s": spent, "size": plan.scored}


def graph_of(path: Path) -> tuple[Manifest, Graph]:
    found = load(path)
    return found.manifest, check_graph(found.model, found.manifest)


def match(origin: dict[str, Graph], run: str) -> Graph | None:
    """The graph of a bundle that was exported from the run whose model has this hash."""
    names = [run, *(sha256(f"{run} {precision}".encode()).hexdigest() for precision in get_args(Precision))]
    return next((origin[name] for name in names if name in origin), None)


# --- the machine -----------------------------------------------------------------------------------------------------


def machine() -> Told:
    """What the figures were taken on."""
    gpu = run_tool("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "processor": processor(),
        "cores": processors(),
        "gpu": gpu.splitlines()[0] if gpu else None,
        "system": platform.system(),
        "date": str(datetime.now(UTC).date()),
    }


def processor() -> str:
    with_names = Path("/proc/cpuinfo")
    names = (
        [line for line in with_names.read_text().splitlines() if line.startswith("model name")]
        if with_names.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes; a guess where the system does not tell."""
    told = Path("/proc/meminfo")
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return 8.0 * GIB


def peak_memory() -> int | None:
    """The most bytes of memory that this process held at a time; None where the system does not tell."""
    told = Path("/proc/self/status")  # unlike getrusage it forgets what the process was started from
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu_memory(device: str) -> int | None:
    """Bytes in use on a GPU, by whomever."""
    index = device.partition(":")[2] or "0"
    told = run_tool("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={index}")
    return int(told.split()[0]) * 2**20 if told and told.split()[0].isdecimal() else None


def run_tool(*command: str) -> str | None:
    """What a program prints; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# --- images ----------------------------------------------------------------------------------------------------------


def read_pictures(files: Sequence[Path], opener: Callable[[Path], Picture]) -> list[Image]:
    """At most PICTURES of the files, evenly spread, in 8 bits."""
    found = []
    for index in sorted({round(k) for k in np.linspace(0, len(files) - 1, PICTURES)}) if files else ():
        with opener(files[index]) as picture:
            grey = picture.rows(0, picture.content).astype(np.float32) * (255 / picture.white)
        found.append(np.rint(grey.clip(0, 255)).astype(np.uint8))
    return found


@lru_cache
def channels_of(path: Path) -> int:
    return open_inspector(path, device="cpu").backend.channels


def adapted(image: Image, path: Path) -> Image:
    """The image as a detector takes it: grey, or with three channels."""
    channels = channels_of(path)
    return image.mean(-1, keepdims=True).astype(np.uint8) if channels == 1 else np.repeat(image, 3 // image.shape[2], 2)


def images_for(path: Path, plan: Plan, pictures: Sequence[Image], scratch: Path) -> Path:
    """A folder of `plan.images` 8-bit PNG images, each another piece of a picture continued by reflection."""
    folder = scratch / f"images-{channels_of(path)}"
    for number in range(0 if folder.exists() else plan.images):
        image = adapted(pictures[number % len(pictures)], path)
        piece = mirrored(image, 37 * number, 53 * number, *plan.scored)[:, :, ::-1]  # OpenCV's order of channels
        encoded, data = cv2.imencode(".png", np.ascontiguousarray(piece))
        assert encoded
        write_bytes(folder / f"{number:04}.png", data.tobytes())
    return folder


def write_large(image: Image, path: Path, size: Size) -> None:
    """An 8-bit TIFF in uncompressed tiles, written tile by tile."""
    height, width = size

    def tiles() -> Iterator[Image]:
        for top in range(0, height, TILE):
            band = mirrored(image, top, 0, TILE, width + TILE)
            for left in range(0, width, TILE):
                yield band[:, left : left + TILE].squeeze()

    path.parent.mkdir(parents=True, exist_ok=True)
    colour = image.shape[2] == 3
    tifffile.imwrite(
        path, tiles(), shape=(*size, 3) if colour else size, dtype=np.uint8, tile=(TILE, TILE), metadata=None,
        photometric="rgb" if colour else "minisblack",
    )  # fmt: skip


def mirrored(image: Image, top: int, left: int, height: int, width: int) -> Image:
    """A piece of the image continued by reflection in all directions."""

    def places(start: int, count: int, length: int) -> NDArray[np.int64]:
        place = np.arange(start, start + count) % (2 * length)
        return np.minimum(place, 2 * length - 1 - place)

    rows = image[places(top, height, image.shape[0])]
    return np.ascontiguousarray(rows[:, places(left, width, image.shape[1])])


# --- tasks, each in a process of its own -----------------------------------------------------------------------------


def fresh(task: str, *, threads: int = 0, **arguments: Any) -> Told:
    """The answer of a task of TASKS from a new process, in which all libraries use `threads` threads.

    SpeedError: it failed, with the reason in a line.
    """
    environment = dict(os.environ)
    if threads:
        told = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment.update(told)
        arguments["threads"] = threads
    command = [sys.executable, "-m", "anomalib_gan.speed", task, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        killed = ": killed, most likely for its memory" if done.returncode < 0 else ""
        raise SpeedError(f"could not be measured ({lines[-1][:300]}{killed})")
    answer: Told = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def timed(call: Callable[[], Any], seconds: float) -> list[float]:
    """How long each call took, after one or more that are not counted; LEAST calls, and more while there is time."""
    spent: list[float] = []
    warm = time.perf_counter() + seconds / 5
    call()
    while time.perf_counter() < warm:
        call()
    end = time.perf_counter() + seconds
    while len(spent) < LEAST or (time.perf_counter() < end and len(spent) < MOST):
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return spent


def row(*, path: str, device: str, threads: int, batch: int, size: Sequence[int], seconds: float) -> Told:
    """Inference alone, from an array of grey levels to the map: median and 95th percentile of the calls in seconds.

    With `batch` 0, one 8-bit image through the Inspector: tiles, score and all. "padded": the size that the network
    sees; "peak_bytes": of the process; "device_bytes": what was taken on the GPU, None elsewhere; "hash": the model's.
    """
    used = gpu_memory(device) if device != "cpu" else None
    backend = open_inspector(path, device=device, threads=threads, calibrated=False).backend
    height, width = size
    padded = padded_size(backend, height, width)
    drawn = np.random.default_rng(0).integers(0, 256, (max(batch, 1), backend.channels, *padded), dtype=np.uint8)
    if batch:
        images = drawn.astype(np.float32)
        spent = timed(lambda: backend(images, 255.0), seconds)
    else:
        inspector = Inspector(backend)
        image = np.ascontiguousarray(np.moveaxis(drawn[0, :, :height, :width], 0, -1))
        spent = timed(lambda: inspector(image), seconds)
    after = gpu_memory(device) if device != "cpu" else None
    return {
        **percentiles(spent),
        "pixels": max(batch, 1) * height * width,
        "padded": list(padded),
        "peak_bytes": peak_memory(),
        "device_bytes": None if used is None or after is None else after - used,
        "place": backend.device,
        "hash": backend.hash,
    }


def padded_size(backend: Backend, height: int, width: int) -> Size:
    """What the network is given for an image that fits into one tile."""
    tall, wide = Grid(max(height, width, backend.stride), 0, backend.stride).padded(height, width)
    return max(tall, backend.smallest), max(wide, backend.smallest)


def score(*, path: str, folder: str, out: str, device: str, threads: int, size: Sequence[int], seconds: float) -> Told:
    """A folder through `score_folder` with default outputs, and inference alone just before and after it."""
    from anomalib_gan.records.scoring import score_folder

    inspector = open_inspector(path, device=device, threads=threads, spin=False)  # as the command opens it
    backend = open_inspector(path, device=device, threads=threads).backend
    shape = (1, backend.channels, *padded_size(backend, size[0], size[1]))
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    pure = timed(lambda: backend(images, 255.0), seconds) if seconds else []
    begin = time.perf_counter()
    outcome = score_folder(inspector, folder, out)
    spent = time.perf_counter() - begin
    pure += timed(lambda: backend(images, 255.0), seconds) if seconds else []
    if invalid := outcome.counts["invalid"]:
        raise SpeedError(f"{invalid} of the images are invalid: see what `score` says of images like them")
    return {
        "images": sum(outcome.counts.values()),
        "seconds": spent,
        "parts_s": outcome.seconds,
        "pure_s": float(np.median(pure)) if pure else None,
        "peak_bytes": peak_memory(),
        "place": backend.device,
    }


def warm(*, path: str, image: str, device: str, threads: int, seconds: float) -> Told:
    """One image from the bytes of its file to verdict and defects, again and again: the times, and their parts."""
    inspector = open_inspector(path, device=device, threads=threads)
    data = Path(image).read_bytes()
    timing: list[dict[str, float]] = []
    spent = timed(lambda: timing.append(inspector(data).timing), seconds)
    parts = {part: float(np.median([one[part] for one in timing[-len(spent) :]])) for part in timing[0]}
    return {**percentiles(spent), "parts_s": parts, "place": inspector.backend.device}


def percentiles(spent: Sequence[float]) -> Told:
    return {"median_s": float(np.median(spent)), "p95_s": float(np.percentile(spent, 95)), "calls": len(spent)}


MATMUL = (  # as ONNX: image = z @ z, both (N, 1, n, n)
    b'\x08\x08\x12\x00:I\n\x15\n\x01z\n\x01z\x12\x05image"\x06MatMul\x12\x01gZ\x1e\n\x01z\x12\x19\n\x17\x08\x01\x12\x13'
    b"\n\x03\x12\x01N\n\x02\x08\x01\n\x03\x12\x01h\n\x03\x12\x01wb\r\n\x05image\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


def onnx_matmul(device: str, threads: int) -> Callable[[NDArray[np.float32]], Any]:
    """A product of matrices by what runs bundles."""
    from anomalib_gan.runtime.session import OnnxGraph

    program = Program((Node("MatMul", ("z", "z"), ("image",), {}),), {})
    graph = OnnxGraph(
        Graph("generator", MATMUL, program, (None, 1, None, None), ("image",), 1), device=device, threads=threads
    )
    return lambda matrix: graph(z=matrix[None, None])


def peak(*, device: str, threads: int, side: int, repeats: int = 5) -> dict[str, float]:
    """Best of `repeats` products of two square matrices, in GFLOP/s by library.

    On the processor in float32; on a GPU in float32 and float16 by torch, and "copy", the bandwidth of a copy within
    its memory in GB/s.
    """
    work = 2 * side**3 / 1e9

    def best(call: Callable[[], Any], loops: int = 1) -> float:
        call()
        spent = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            spent.append((time.perf_counter() - begin) / loops)
        return min(spent)

    if device != "cpu":
        return gpu_peak(device, side, work, best)
    a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    multiply = onnx_matmul(device, threads)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    found = {"ONNX Runtime": work / best(lambda: multiply(a)), f"numpy ({blas})": work / best(lambda: a @ a)}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        b = torch.from_numpy(a)
        found["torch"] = work / best(lambda: b @ b)
    return found


def gpu_peak(device: str, side: int, work: float, best: Callable[..., float]) -> dict[str, float]:
    if not importlib.util.find_spec("torch"):
        raise SpeedError("the peak of a GPU is measured with torch, which is not installed")
    import torch

    loops = 10
    found = {}

    def repeated(call: Callable[[], Any]) -> Callable[[], None]:
        def several() -> None:
            for _ in range(loops):
                call()
            torch.cuda.synchronize(device)

        return several

    for kind in (torch.float32, torch.float16):
        a = torch.randn(side, side, device=device, dtype=kind)
        found[f"torch {str(kind).partition('.')[2]}"] = work / best(repeated(lambda a=a: a @ a), loops)  # type: ignore[misc]
    source = torch.empty(GIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * GIB / 1e9 / best(repeated(lambda: target.copy_(source)), loops)
    return found


def places() -> dict[str, list[str]]:
    """The devices at hand: "cpu", and "cuda" where ONNX Runtime or torch can compute on it."""
    found = ["cpu"]
    try:
        onnx_matmul("cuda", 1)
    except ValueError:
        if importlib.util.find_spec("torch"):
            import torch

            found += ["cuda"] * torch.cuda.is_available()
    else:
        found.append("cuda")
    return {"places": found}


TASKS: dict[str, Callable[..., Told]] = {"row": row, "score": score, "warm": warm, "peak": peak, "places": places}


def main(task: str, arguments: str) -> None:
    try:
        answer = TASKS[task](**json.loads(arguments))
    except (ValueError, OSError, MemoryError) as error:
        sys.exit(str(error) or type(error).__name__)
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
