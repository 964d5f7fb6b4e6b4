"""What a bundle's graphs may hold: looked into before anything runs them, and built anew from what was seen.

Whoever wrote a graph is not trusted: see `check_graph`. What a graph costs, `runtime.shapes` works out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.calls import ELEMENTS, KNOWN, RANK, Node, ShapeError, Tensor
from anomalib_gan.runtime.files import short
from anomalib_gan.runtime.manifest import GRAPH_BYTES, BundleError, Manifest
from anomalib_gan.runtime.operators import CASTS
from anomalib_gan.runtime.shapes import Cost, Program

Kind = Literal["model", "parts", "generator", "prior", "types"]

OPSETS = range(18, 29)  # those that the rules of `runtime.operators` were written for
OTHER_BYTES = 4 * 2**20  # of a graph without its weights: parsed, an empty message takes fifty times its two bytes
NODES = 4096

INPUTS: dict[Kind, tuple[str, ...]] = {
    "model": ("image", "white"),
    "parts": ("image", "white"),
    "generator": ("z",),
    "prior": ("z",),
    "types": ("features",),
}
OUTPUTS: dict[Kind, set[str]] = {
    "model": {"anomaly_map"},
    "parts": {"reconstruction", "code"},  # and the components
    "generator": {"image"},
    "prior": {"code"},
    "types": {"probabilities", "distances"},
}


@dataclass(frozen=True)
class Graph:
    """A graph that was looked into: `data` is ONNX that holds what was seen and nothing else."""

    kind: Kind
    data: bytes = field(repr=False)
    program: Program = field(repr=False)
    shape: tuple[int | None, ...]  # of the first input, None where it is free
    outputs: tuple[str, ...]
    stride: int

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """What one run takes on an image of shape (N, C, H, W), on z of (N, code, h, w), or on features (N, F).

        BundleError: it is more than a detector needs, or the sizes within the graph do not fit together.
        """
        return self.trace(shape)[1]

    def trace(self, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], Cost]:
        """(every tensor of the graph by name, the cost) for one input of this shape."""
        inputs = {INPUTS[self.kind][0]: Tensor("float32", shape)}
        pixels = shape[0] * math.prod(shape[2:])
        if "white" in INPUTS[self.kind]:
            inputs["white"] = Tensor("float32", ())
        else:  # of a code, or of a defect, which has one at least
            pixels *= self.stride**2
        try:
            return self.program.trace(inputs, pixels)
        except ShapeError as error:
            raise BundleError(f"{self.kind}.onnx, for an input of {list(shape)}: {error}") from error


def check_graph(data: bytes, manifest: Manifest, kind: Kind = "model") -> Graph:
    """Looks into an ONNX graph before anything runs it; a BundleError says what is not allowed.

    Allowed are the operators of `runtime.operators` in one graph, without subgraphs, functions, foreign domains or data
    outside the file, with the inputs and outputs that the manifest calls for, at a cost in proportion to the image.
    """
    try:
        graph = _parse_graph(data, manifest, kind)
    except UnicodeDecodeError as error:
        raise BundleError(f"{kind}.onnx: holds a name that is no text") from error
    except BundleError as error:
        raise BundleError(f"{kind}.onnx: {error}") from error
    for size in _sizes(graph, manifest):
        tensors, _ = graph.trace(size)
        for name in graph.outputs:
            _check_output(graph, name, tensors.get(name), size, manifest.channels)
    return graph


def _sizes(graph: Graph, manifest: Manifest) -> list[tuple[int, ...]]:
    """Inputs to try: small and large, square and not, one and several."""
    channels, stride, least = graph.shape[1], manifest.stride, manifest.smallest
    assert channels is not None
    if graph.kind == "types":
        return [(1, channels), (3, channels), (1000, channels)]
    if graph.kind == "generator":
        return [(1, channels, 1, 1), (3, channels, 7, 5), (1, channels, 64, 48)]
    if graph.kind == "prior":
        return [(1, channels, 16, 16), (3, channels, 23, 20), (1, channels, 64, 48)]
    far = 2048 // stride
    steps = ((1, 0, 0), (3, 2, 1), (1, far, far + 1))
    return [(n, channels, least + stride * down, least + stride * right) for n, down, right in steps]


def _check_output(graph: Graph, name: str, found: Tensor | None, size: tuple[int, ...], channels: int) -> None:
    n, given, *sides = size
    wanted: tuple[int | None, ...] = (n, 1, *sides)
    if graph.kind == "types":
        wanted = (n, None)
    elif graph.kind == "generator":
        wanted = (n, channels, None, None)
    elif graph.kind == "prior":
        wanted = (n, given, None, None)
    elif name == "reconstruction":
        wanted = (n, channels, *sides)
    elif name == "code":
        wanted = (n, None, None, None)
    if found is None:
        raise BundleError(f"{graph.kind}.onnx: no node makes the output {name!r}")
    fits = len(found.shape) == len(wanted) and all(w in (None, f) for w, f in zip(wanted, found.shape, strict=True))
    if found.type != "float32" or not fits:
        raise BundleError(
            f"{graph.kind}.onnx: output {name!r} is {found.type} of {list(found.shape)} for an input of {list(size)}"
        )


def _parse_graph(data: bytes, manifest: Manifest, kind: Kind) -> Graph:
    """The graph in an ONNX file, built anew from those fields that are known here."""
    if len(data) > GRAPH_BYTES:
        raise BundleError(f"has {len(data)} bytes, more than {GRAPH_BYTES}")
    _besides(memoryview(data), 0, len(data), WEIGHTS, OTHER_BYTES)
    import onnx  # a third of a second that reading a manifest does not need

    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own type, which is no part of what onnx exports
        raise BundleError("is no ONNX file") from error
    source = model.graph
    opsets = [(one.domain, one.version) for one in model.opset_import]
    if len(opsets) != 1 or opsets[0][0] not in DOMAINS or opsets[0][1] not in OPSETS:
        wanted = f"one of {OPSETS[0]} to {OPSETS[-1]} without a domain"
        raise BundleError(f"has the operator sets {short(opsets)}, not {wanted}: a newer version may read it")
    if model.functions or model.training_info or source.sparse_initializer or source.quantization_annotation:
        raise BundleError("holds functions, training, sparse weights or annotations, which are not allowed")
    if len(source.node) > NODES or max(map(len, (source.initializer, source.input, source.output))) > NODES:
        raise BundleError(f"has more than {NODES} nodes, weights, inputs or outputs")

    shape = _check_inputs(source.input, manifest, kind)
    outputs = _check_outputs([output.name for output in source.output], kind)
    constants: dict[str, Tensor] = {}
    weights = []
    for proto in source.initializer:
        if not proto.name or proto.name in constants or proto.name in INPUTS[kind]:
            raise BundleError(f"a weight has no name or that of another: {short(proto.name)}")
        constants[proto.name], clean = _parse_tensor(proto)
        weights.append(clean)
    nodes, clean_nodes = [], []
    for place, proto in enumerate(source.node):
        try:
            node, clean = _parse_node(proto)
        except BundleError as error:
            raise BundleError(f"node {place}, {short(proto.op_type)}: {error}") from error
        nodes.append(node)
        clean_nodes.append(clean)

    info, kept = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    sides = {
        "image": ("N", shape[1], "H", "W"), "z": ("N", shape[1], "h", "w"), "features": ("N", shape[1]), "white": (),
    }  # fmt: skip
    graph = onnx.GraphProto(
        name="detector",
        node=clean_nodes,
        initializer=weights,
        input=[info(name, kept, sides[name]) for name in INPUTS[kind]],
        output=[info(name, kept, None) for name in outputs],
    )
    rebuilt = onnx.ModelProto(ir_version=min(model.ir_version, onnx.IR_VERSION), graph=graph)
    rebuilt.opset_import.add(domain="", version=opsets[0][1])
    return Graph(kind, rebuilt.SerializeToString(), Program(tuple(nodes), constants), shape, outputs, manifest.stride)


def head_graph(
    mean: NDArray[Any],
    spread: NDArray[Any],
    weights: NDArray[Any],
    bias: NDArray[Any],
    whitening: NDArray[Any],
    centres: NDArray[Any],
) -> bytes:
    """types.onnx of a bundle: features (N, F) -> probabilities (N, K) and distances (N, K).

    z = (features - mean) / spread; probabilities = softmax(z weights + bias); distances are those of z whitening from
    the K rows of `centres`. mean and spread (F,), weights (F, K), bias (K,), whitening (F, F), centres (K, F).
    """
    import onnx

    node, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        node("Sub", ["features", "mean"], ["centred"]),
        node("Div", ["centred", "spread"], ["z"]),
        node("MatMul", ["z", "weights"], ["evidence"]),
        node("Add", ["evidence", "bias"], ["odds"]),
        node("Softmax", ["odds"], ["probabilities"], axis=-1),
        node("MatMul", ["z", "whitening"], ["white"]),
        node("Unsqueeze", ["white", "middle"], ["each"]),
        node("Sub", ["each", "centres"], ["apart"]),
        node("Mul", ["apart", "apart"], ["squares"]),
        node("ReduceSum", ["squares", "last"], ["squared"], keepdims=0),
        node("Sqrt", ["squared"], ["distances"]),
    ]
    arrays = {
        "mean": mean, "spread": spread, "weights": weights, "bias": bias, "whitening": whitening, "centres": centres,
    }  # fmt: skip
    constants = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    constants |= {"middle": np.array([1]), "last": np.array([2])}
    graph = onnx.helper.make_graph(
        nodes,
        "types",
        [onnx.helper.make_tensor_value_info("features", kind, ("N", len(mean)))],
        [onnx.helper.make_tensor_value_info(name, kind, ("N", len(bias))) for name in ("probabilities", "distances")],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", OPSETS[0])
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString(deterministic=True)


DOMAINS = ("", "ai.onnx")
WEIGHTS = (7, 5, 9)  # fields ModelProto.graph, GraphProto.initializer, TensorProto.raw_data
TYPED = {"float32": "float_data", "int64": "int64_data"}  # where TensorProto holds numbers; the others in int32_data


def _besides(data: memoryview, begin: int, end: int, path: tuple[int, ...], most: int) -> int:
    """How many bytes of a protobuf message do not lie in the field at `path`; a BundleError for more than `most`.

    It walks over the encoding and makes nothing of it, so that no parser sees a file that unfolds to gigabytes.
    """
    count, place = 0, begin
    while place < end:
        key, after = _varint(data, place)
        field_number, wire = key >> 3, key & 7
        inside = 0
        if wire == 0:
            _, after = _varint(data, after)
        elif wire == 2:
            length, after = _varint(data, after)
            if field_number == path[0]:
                inside = length
                if len(path) > 1 and after + length <= end:
                    count += _besides(data, after, after + length, path[1:], most - count)
            after += length
        elif wire in (1, 5):
            after += 8 if wire == 1 else 4
        else:
            raise BundleError("is no ONNX file")
        if after > end:
            raise BundleError("is no ONNX file, or is truncated")
        count += after - place - inside
        place = after
        if count > most:
            raise BundleError(f"has more than {OTHER_BYTES} bytes beside its weights")
    return count


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """(the number, where it ends)."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise BundleError("is no ONNX file, or is truncated")


def _check_inputs(inputs: Any, manifest: Manifest, kind: Kind) -> tuple[int | None, ...]:
    """The shape of the first input, of which only the channels are fixed."""
    found = {}
    for one in inputs:
        kept = one.type.tensor_type
        if one.type.WhichOneof("value") != "tensor_type" or kept.elem_type != 1 or not kept.HasField("shape"):
            raise BundleError(f"input {short(one.name)} is no float32 tensor of known rank")
        found[one.name] = tuple(side.dim_value if side.HasField("dim_value") else None for side in kept.shape.dim)
    if set(found) != set(INPUTS[kind]) or len(inputs) != len(found):
        raise BundleError(f"has the inputs {short([one.name for one in inputs])}, not {', '.join(INPUTS[kind])}")
    if found.get("white", ()) != ():
        raise BundleError("input 'white' is no single number")
    shape = found[INPUTS[kind][0]]
    channels = shape[1] if len(shape) == (2 if kind == "types" else 4) else None
    if (
        channels is None
        or shape != (None, channels, *[None] * (len(shape) - 2))
        or not (channels == manifest.channels if "white" in INPUTS[kind] else 0 < channels <= 4096)
    ):
        raise BundleError(f"input {INPUTS[kind][0]!r} has the size {list(shape)}, which does not fit the manifest")
    return shape


def _check_outputs(names: list[str], kind: Kind) -> tuple[str, ...]:
    fixed = OUTPUTS[kind]
    fits = fixed <= set(names) if kind == "parts" else fixed == set(names)
    if not fits or len(set(names)) != len(names) or len(names) > 32 or not all(name.isidentifier() for name in names):
        raise BundleError(f"has the outputs {short(names)}, not {', '.join(sorted(fixed))}")
    return tuple(names)


def _parse_tensor(proto: Any) -> tuple[Tensor, Any]:
    """(what is known of a constant, the same as an onnx.TensorProto of raw bytes)."""
    import onnx

    kind, shape = CASTS.get(proto.data_type), tuple(proto.dims)
    if kind is None or len(shape) > RANK or any(not 0 <= side <= ELEMENTS for side in shape):
        raise BundleError(f"constant {short(proto.name)} has a type or size that is not allowed: {list(shape)[:RANK]}")
    if proto.data_location or proto.external_data:
        raise BundleError(f"constant {short(proto.name)} lies outside the file, which is not allowed")
    count, place = math.prod(shape), np.dtype(kind).newbyteorder("<")
    raw = proto.raw_data
    if not raw and count:
        numbers = getattr(proto, str(TYPED.get(kind, "int32_data")))
        if len(numbers) != count:
            raise BundleError(f"constant {short(proto.name)} has {len(numbers)} values instead of {count}")
        bits = np.array(numbers, np.int64 if kind != "float32" else np.float32)
        raw = (bits.astype("<u2") if kind == "float16" else bits.astype(place)).tobytes()
    if len(raw) != count * place.itemsize:
        raise BundleError(f"constant {short(proto.name)} has {len(raw)} bytes for the size {list(shape)}")
    value = np.frombuffer(raw, place).reshape(shape) if count <= KNOWN else None
    clean = onnx.TensorProto(name=proto.name, data_type=proto.data_type, dims=shape, raw_data=raw)
    return Tensor(kind, shape, value), clean


def _parse_node(proto: Any) -> tuple[Node, Any]:
    """(a node, the same as an onnx.NodeProto without what is not known here)."""
    import onnx

    kinds = onnx.AttributeProto
    single = {kinds.INT: "i", kinds.FLOAT: "f", kinds.STRING: "s", kinds.TENSOR: "t"}
    several = {kinds.INTS: "ints", kinds.FLOATS: "floats"}
    if proto.domain not in DOMAINS or proto.overload:
        raise BundleError(f"comes from the domain {short(proto.domain)}, which is not allowed")
    attributes: dict[str, Any] = {}
    clean = onnx.NodeProto(op_type=proto.op_type, input=proto.input, output=proto.output)
    for one in proto.attribute:
        if one.name in attributes or one.ref_attr_name or one.type not in {**single, **several}:
            raise BundleError(f"attribute {short(one.name)} comes twice or is of a kind that is not allowed")
        kept = clean.attribute.add(name=one.name, type=one.type)
        if one.type in several:
            values = getattr(one, several[one.type])
            attributes[one.name] = tuple(values)
            getattr(kept, several[one.type]).extend(values)
        elif one.type == kinds.TENSOR:
            attributes[one.name], tensor = _parse_tensor(one.t)
            kept.t.CopyFrom(tensor)
        else:
            value = getattr(one, single[one.type])
            attributes[one.name] = value.decode("utf-8", "replace") if one.type == kinds.STRING else value
            setattr(kept, single[one.type], value)
    return Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes), clean
