"""What the speed benchmark measures, each in a process of its own: `python -m anomalib_gan.speed_tasks TASK ARGS`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.machine import GIB, gpu_memory, peak_memory
from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.calls import Node
from anomalib_gan.runtime.graphs import Graph
from anomalib_gan.runtime.inspection import Backend
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.shapes import Program
from anomalib_gan.runtime.tiling import Grid
from anomalib_gan.speed_images import (
    Size,
)

Told = dict[str, Any]

LEAST, MOST = 3, 1000  # calls of a row


class SpeedError(ValueError):
    """Something could not be measured."""


def fresh(task: str, *, threads: int = 0, **arguments: Any) -> Told:
    """The answer of a task of TASKS from a new process, in which all libraries use `threads` threads.

    SpeedError: it failed, with the reason in a line.
    """
    environment = dict(os.environ)
    if threads:
        told = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment.update(told)
        arguments["threads"] = threads
    command = [sys.executable, "-m", "anomalib_gan.speed_tasks", task, json.dumps(arguments)]
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
