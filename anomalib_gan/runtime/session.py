"""A bundle's graph behind the protocol that every inspector speaks. The only importer of onnxruntime.

ONNX Runtime gets the graph as `check_graph` built it anew, as ONNX and not as its own format, which a file can claim to
be at the same time. No operators of others are registered, and nothing lies outside the bytes.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import warnings
from contextlib import redirect_stdout
from functools import lru_cache, partial
from threading import Timer
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from anomalib_gan.runtime.bundle import BundleError, Manifest
from anomalib_gan.runtime.graphs import INPUTS, Graph

LOAD_SECONDS = 120
"""A graph whose preparation takes longer is given up."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FULL = re.compile("failed to allocate|bad.alloc|out of memory", re.IGNORECASE)

onnxruntime.disable_telemetry_events()  # its Windows builds would report what they run


class OnnxGraph:
    """A graph that was looked into, ready to run. May be called from several threads.

    device: "cpu", "cuda", "cuda:1", ... or "auto": CUDA where it is there. threads: of the processor; by default what
    OMP_NUM_THREADS says, else as many as it has cores. spin: threads wait for the next image busily, which saves a
    little latency and takes processor time from others. `place` is where it really runs. ValueError: the device cannot
    be used. BundleError: ONNX Runtime does not take the graph.
    """

    def __init__(self, graph: Graph, *, device: str = "cpu", threads: int | None = None, spin: bool = True) -> None:
        self.name, self._inputs = f"{graph.kind}.onnx", INPUTS[graph.kind]
        # Sizes that were looked at need not be looked at again; one look takes milliseconds.
        self._sizes = lru_cache(256)(partial(_sizes, graph))
        self._session, self.place = _session(graph.data, device, _options(threads, spin))

    def __call__(self, **inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs by name, for float32 inputs by name.

        MemoryError: the device's memory does not hold an image of this size. BundleError: the graph asks for too much
        at this size, or fails.
        """
        shape = inputs[self._inputs[0]].shape
        outputs = {name: np.empty(size, np.float32) for name, size in self._sizes(shape).items()}
        try:
            binding = self._session.io_binding()
            for name in self._inputs:
                binding.bind_cpu_input(name, np.ascontiguousarray(inputs[name]))
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except MemoryError:
            raise
        except Exception as error:  # its types are many, and private
            reason = _reason(error)
            if FULL.search(reason):
                size = "x".join(map(str, shape[2:]))
                raise MemoryError(f"{self.place} cannot hold a window of {size} px: lower --tile") from error
            raise BundleError(f"{self.name} cannot be run on {self.place} ({reason}): export it again") from error
        return outputs


class OnnxBackend:
    """A bundle's detector as the Inspector's backend. Attributes as in `runtime.inspector.Backend`, options as for
    OnnxGraph."""

    def __init__(
        self, graph: Graph, manifest: Manifest, *, device: str = "auto", threads: int | None = None, spin: bool = True
    ) -> None:
        self.channels, self.stride, self.halo = manifest.channels, manifest.stride, manifest.halo
        self.smallest, self.scale = manifest.smallest, manifest.map_scale
        self.hash, self.pixel_size = manifest.hash, manifest.pixel_size
        self._graph = OnnxGraph(graph, device=device, threads=threads, spin=spin)
        # On a GPU two inferences at once are no faster and may not fit into its memory.
        self.concurrent = self._graph.place == "cpu"
        self.device = f"{self._graph.place} (ONNX Runtime {onnxruntime.__version__})"
        self(np.zeros((1, self.channels, self.smallest, self.smallest), np.float32), 255.0)  # warms up

    def __call__(self, image: NDArray[np.float32], white: float) -> NDArray[np.float32]:
        """(N, C, H, W) float32 raw grey levels, H and W multiples of `stride` -> (N, 1, H, W) float32; errors as those
        of OnnxGraph. Safe in several threads.
        """
        return self._graph(image=image, white=np.array(white, np.float32))["anomaly_map"]


def _sizes(graph: Graph, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The sizes of the outputs for a first input of this shape."""
    tensors, _ = graph.trace(shape)
    return {name: tensors[name].shape for name in graph.outputs}


def _options(threads: int | None, spin: bool) -> Any:
    if threads is None and (told := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        threads = int(told)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads or 0
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what is wrong is raised, too
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # not while the image is decoded or written
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _session(data: bytes, device: str, options: Any) -> tuple[Any, str]:
    """(the session, where it really runs)."""
    kind, _, index = device.partition(":")
    if device not in ("auto", "cpu") and (kind != "cuda" or not (index or "0").isdecimal()):
        raise ValueError(f"device {device!r} is none of auto, cpu, cuda, cuda:1, ...")
    if kind != "cpu":
        try:
            return _on_cuda(data, int(index or 0), options), f"cuda:{index or 0}"
        except _NoCudaError as error:
            if device != "auto":
                raise ValueError(
                    f"device {device!r} cannot be used ({error}): choose another, such as --device cpu"
                ) from error
            if error.expected:
                warnings.warn(f"CUDA cannot be used ({error}): computing on the processor", RuntimeWarning, 2)
    return _prepared(data, options, [CPU]), "cpu"


class _NoCudaError(Exception):
    """CUDA cannot be used; `expected` where a GPU is there, so that one would think it could."""

    def __init__(self, reason: str, expected: bool) -> None:
        super().__init__(reason)
        self.expected = expected


def _on_cuda(data: bytes, index: int, options: Any) -> Any:
    if CUDA not in onnxruntime.get_available_providers():
        raise _NoCudaError("this ONNX Runtime was built without it: install onnxruntime-gpu", False)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        raise _NoCudaError("there is no driver of an NVIDIA GPU", False) from None
    if driver.cuInit(0) != 0:
        raise _NoCudaError("the driver finds no NVIDIA GPU", False)
    complaints = _preload()
    settings = {
        "device_id": index,
        "cudnn_conv_algo_search": "HEURISTIC",  # the same choice every time, unlike the default's timing
        "use_tf32": 0,  # its ten bits are not float32
        "arena_extend_strategy": "kSameAsRequested",
    }
    onnxruntime.set_default_logger_severity(4)  # it logs a library that it cannot load, and goes on without it
    try:
        session = _prepared(data, options, [(CUDA, settings), CPU])
    except BundleError as error:
        raise _NoCudaError(str(error), True) from error
    finally:
        onnxruntime.set_default_logger_severity(2)
    if session.get_providers()[0] != CUDA:
        reason = complaints or "its libraries cannot be loaded"
        raise _NoCudaError(f"{reason}; they come with pip install 'anomalib_gan[gpu]'", True)
    return session


@lru_cache(1)
def _preload() -> str:
    """Loads CUDA's libraries from their Python packages, once, before the first session; what it has to complain of."""
    said = io.StringIO()
    with redirect_stdout(said):
        onnxruntime.preload_dlls()
    return said.getvalue().strip().partition("\n")[0]


def _prepared(data: bytes, options: Any, providers: list[Any]) -> Any:
    watch = Timer(LOAD_SECONDS, options.set_load_cancellation_flag, (True,))
    watch.daemon = True
    watch.start()
    try:
        return onnxruntime.InferenceSession(data, options, providers, enable_fallback=False)
    except MemoryError:
        raise
    except Exception as error:  # its types are many, and private
        reason = _reason(error)
        if FULL.search(reason):
            raise MemoryError(f"the detector does not fit into memory ({reason})") from error
        raise BundleError(f"ONNX Runtime {onnxruntime.__version__} does not take the graph ({reason})") from error
    finally:
        watch.cancel()


def _reason(error: Exception) -> str:
    """The message of an error of ONNX Runtime, in one line."""
    return " ".join(str(error).split())[:300]
