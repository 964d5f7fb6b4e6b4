"""How fast a detector is on this machine and what it needs: what `anomalib-gan benchmark speed` measures.

Every figure comes from a fresh process, a task of `speed_tasks`, so that peak memory is that of one measurement and
threads are as they should be. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

from anomalib_gan.machine import GIB, free_memory, machine, processors
from anomalib_gan.opening import is_bundle, open_inspector
from anomalib_gan.runtime.bundle import Manifest, Precision, load, read_manifest
from anomalib_gan.runtime.files import write_bytes
from anomalib_gan.runtime.graphs import Graph, check_graph
from anomalib_gan.speed_images import Image, Size, adapted, images_for, write_large
from anomalib_gan.speed_tasks import LEAST, SpeedError, fresh

Say = Callable[[str], None]
Told = dict[str, Any]

EAGER = "PyTorch eager"
STARTUP = 2.0  # seconds that a process takes before it measures, about
SCORED: Size = (696, 1024)
LARGE = 20_000


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
    folder = images_for(path, plan.images, plan.scored, pictures, scratch)
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
    image = min(images_for(path, plan.images, plan.scored, pictures, scratch).iterdir())
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
