"""Bundles for tests, built without torch: manifests, small graphs, and one graph that uses every allowed operator."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.bundle import Manifest
from anomalib_gan.runtime.calibration import Calibration

HASH = hashlib.sha256(b"a detector").hexdigest()


def manifest(**changes: Any) -> Manifest:
    return replace(
        Manifest(
            name="weave",
            created="2026-11-21T12:00:00+00:00",
            version="0.1.0",
            spec={"name": "fcbigan", "params": {"width": 8}},
            hash=HASH,
            precision="fp32",
            channels=1,
            stride=4,
            smallest=8,
            halo=40,
            map_scale=(-1.0, 3.5),
            pixel_size=0.25,
            white=255.0,
            bits=8,
            gates={"cpu": {"largest difference": 3e-6}},
            calibration=calibration(),
        ),
        **changes,
    )


def calibration(model: str = HASH, scale: float = 1.0) -> Calibration:
    scores = [scale * score for score in (0.1, 0.3, 0.2, 0.35)]
    return Calibration.fit(scores, [2 * score for score in scores], model=model, created="2026-11-21T12:00:00+00:00")


IMAGE: Mapping[str, Sequence[Any]] = MappingProxyType({"image": ("N", 1, "H", "W"), "white": ()})


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    inputs: Mapping[str, Sequence[Any]] = IMAGE,
    outputs: Sequence[str] = ("anomaly_map",),
    opset: int = 18,
) -> onnx.ModelProto:
    info, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "test",
        [info(name, kind, shape) for name, shape in inputs.items()],
        [info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Names are separated by blanks; _ stands for one that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def f32(*values: float) -> np.ndarray:
    """One number as a scalar, several as a list."""
    return np.array(values if len(values) > 1 else values[0], np.float32)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def mean_of_nine() -> onnx.ModelProto:
    """The mean of 3 x 3 pixels, as a share of white; beyond the image lies black."""
    nodes = [node("Div", "image white", "share"), node("Conv", "share w", "anomaly_map", pads=[1, 1, 1, 1])]
    return model(nodes, {"w": np.full((1, 1, 3, 3), 1 / 9, np.float32)})


def tour() -> onnx.ModelProto:
    """A detector of stride 4 that uses every operator that is allowed, and both ways of writing some."""
    rng = np.random.default_rng(0)

    def w(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    nodes = [
        node("Reciprocal", "white", "per_level"),
        node("Mul", "image per_level", "share"),
        node("Sub", "share half", "centred"),
        # sizes, in the ways that exporters write them
        node("Shape", "image", "n", start=0, end=1),
        node("Shape", "image", "sides"),
        node("Gather", "sides two", "height"),
        node("Slice", "sides three_ four_", "width_"),
        node("Squeeze", "width_", "width"),
        node("Div", "height stride", "rows"),
        node("Div", "width stride", "columns"),
        node("Constant", "", "minus", value_ints=[-1]),
        node("Reshape", "rows minus", "rows_"),
        node("Unsqueeze", "columns zero_", "columns_"),
        node("Mul", "rows_ four_", "tall"),
        node("Cast", "width_", "wide32", to=TensorProto.INT32),
        node("Cast", "wide32", "wide", to=TensorProto.INT64),
        # codes at stride 4
        node("SpaceToDepth", "centred", "deep", blocksize=2),
        node("AveragePool", "centred", "pooled", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", "deep pooled", "joined", axis=1),
        node("Conv", "joined w1 b1", "c1", kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1 gain b1 mean gain", "c2"),
        node("LeakyRelu", "c2", "c3", alpha=0.2),
        node("Conv", "c3 w2", "c4", group=2, dilations=[2, 2], pads=[2, 2, 2, 2]),
        node("Relu", "c4", "c5"),
        node("Add", "c3 c5", "code"),
        # quantised
        node("QuantizeLinear", "code step zero8", "q"),
        node("DequantizeLinear", "q step zero8", "dq"),
        node("DequantizeLinear", "w3 steps", "dw", axis=0),
        node("Conv", "dq dw", "c6", pads=[1, 1, 1, 1]),
        # half
        node("Cast", "c6", "h1", to=TensorProto.FLOAT16),
        node("Tanh", "h1", "h2"),
        node("Cast", "h2", "c7", to=TensorProto.FLOAT),
        # products
        node("Einsum", "mix c7", "c8", equation="cd,ndhw->nchw"),
        node("Concat", "n rows_ columns_ eight_", "size_flat", axis=0),
        node("Transpose", "c8", "last", perm=[0, 2, 3, 1]),
        node("Reshape", "last size_flat", "same"),
        node("MatMul", "same mix", "mixed"),
        node("Transpose", "mixed", "turned_back", perm=[0, 3, 1, 2]),
        node("Softmax", "turned_back", "shares", axis=1),
        node("Add", "turned_back shares", "c9"),
        # back to pixels
        node("ConvTranspose", "c9 w4", "up", kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("DepthToSpace", "up", "fine", blocksize=2, mode="CRD"),
        node(
            "Resize",
            "c9 _ doubled",
            "nearest",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Concat", "n eight_ tall wide", "size_full", axis=0),
        node("Resize", "nearest _ _ size_full", "linear", mode="linear"),
        node("Split", "linear", "left right", axis=1, num_outputs=2),
        node("Split", "left parts", "few many", axis=1),
        node("Pad", "few pads", "wider", mode="edge"),
        node("Conv", "wider w5", "smooth", kernel_shape=[1, 9]),
        node("Pad", "many pads_ _ spatial", "reflected", mode="reflect"),
        node("Slice", "reflected begin end spatial", "cut"),
        node("ReduceMean", "cut one_", "mean_"),
        node("Slice", "mean_ end_ begin_ spatial back", "turned"),
        node("Slice", "turned end_ begin_ spatial back", "average"),
        node("ReduceSum", "right one_", "total", keepdims=0),
        node("Unsqueeze", "total one_", "single"),
        node("Expand", "single wide_", "twice"),
        node("ReduceMean", "twice one_", "sum"),
        # one by one
        node("Abs", "fine", "a1"),
        node("Neg", "a1", "a2"),
        node("Exp", "a2", "a3"),
        node("Sigmoid", "a3", "a4"),
        node("Softplus", "a4", "a5"),
        node("Log", "a5", "a6"),
        node("Pow", "a6 square", "a7"),
        node("Clip", "a7 floor", "a8"),
        node("Sqrt", "a8", "a9"),
        node("Max", "a9 smooth", "a10"),
        node("Min", "a10 average sum", "a11"),
        node("Div", "a11 half", "a12"),
        node("Identity", "a12", "anomaly_map"),
    ]
    weights = {
        "end_": i64(-1, -1), "begin_": i64(-(2**63), -(2**63)), "back": i64(-1, -1),
        "half": f32(0.5), "square": f32(2.0), "floor": f32(1e-6),
        "two": np.array(2), "stride": np.array(4), "one_": i64(1), "zero_": i64(0), "three_": i64(3), "four_": i64(4),
        "eight_": i64(8), "doubled": f32(1, 1, 2, 2), "parts": i64(1, 3), "begin": i64(1, 2),
        "pads": i64(0, 0, 0, 4, 0, 0, 0, 4), "pads_": i64(1, 2, 1, 2), "spatial": i64(2, 3), "end": i64(-1, -2),
        "wide_": i64(2, 1, 1),
        "w1": w(8, 5, 4, 4), "b1": w(8), "gain": np.abs(w(8)) + 1, "mean": w(8), "w2": w(8, 4, 3, 3),
        "step": f32(0.05), "zero8": np.array(128, np.uint8), "steps": np.full(8, 0.01, np.float32),
        "w3": rng.integers(-127, 127, (8, 8, 3, 3), np.int8), "mix": w(8, 8), "w4": w(8, 4, 4, 4), "w5": w(1, 1, 1, 9),
    }  # fmt: skip
    return model(nodes, weights)


def seeing() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(model, parts) of a detector of stride 4 whose map is the distance from mid-grey, and whose code, for every 4 x 4
    px, is the mean grey and how much it changes along rows and along columns. The map has one component, `far`.
    """
    grey = [node("Div", "image white", "share"), node("Sub", "share half", "off")]
    weights = {"half": f32(0.5), "w": np.full((1, 1, 3, 3), 1 / 9, np.float32)}
    map = [node("Abs", "off", "far"), node("Conv", "far w", "anomaly_map", pads=[1, 1, 1, 1])]
    changes = np.zeros((2, 1, 3, 3), np.float32)
    changes[0, 0, 1, [0, 2]] = changes[1, 0, [0, 2], 1] = -1, 1
    code = [
        node("Identity", "image", "reconstruction"),
        node("Abs", "off", "far"),
        node("Conv", "off changes", "change", pads=[1, 1, 1, 1]),
        node("Abs", "change", "changed"),
        node("Concat", "off changed", "seen", axis=1),
        node("AveragePool", "seen", "code", kernel_shape=[4, 4], strides=[4, 4]),
    ]
    parts = model([*grey, *code], {"half": f32(0.5), "changes": changes}, outputs=("reconstruction", "code", "far"))
    return model([*grey, *map], weights), parts


def contents(graph: onnx.ModelProto | None = None) -> dict[str, bytes]:
    return {
        "model.onnx": (graph or tour()).SerializeToString(),
        "card/card.json": b"{}",
        "card/Prüfung.txt": b"ja",
    }


def write(path: Path, graph: onnx.ModelProto | None = None, **changes: Any) -> Path:
    """A bundle in a new folder."""
    bundle.write(path, manifest(**changes), contents(graph))
    return path
