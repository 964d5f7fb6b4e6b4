"""Hostile bundles, numbered: what attackers and accidents make of a good one. As a program it opens a range of them
under a memory limit and prints a line before and after each, so that a death has a number.

    python tests/bundle_fuzz.py mutants|bombs FOLDER FIRST END
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import bundles
import numpy as np
import onnx
from bundles import f32, i64, node
from onnx import TensorProto, helper

from anomalib_gan.runtime import BundleError, ImageError, Inspector, bundle, manifest
from anomalib_gan.runtime.operators import RULES

MEMORY = 3 * 2**29  # of address space; the libraries take a third
SECONDS = 20  # for one bundle
FROZEN = Path(__file__).with_name("frozen") / "v1.bundle"

Files = dict[str, bytes]
ODD = (0, 1, -1, 2, 3, 7, 64, 255, 4096, 10**6, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1, -(2**63))
ODD_REAL = (0.0, -1.0, 1e-30, 1e30, math.inf, -math.inf, math.nan, 0.5, 1e6)
ODD_JSON = (None, True, False, 0, -1, 1.5, 10**18, -0.0, 1e308, "", "x", "../x", [], {}, [[]], {"a": None}, "ä" * 2000)
FORBIDDEN = (
    "Tile",
    "ConstantOfShape",
    "Range",
    "Loop",
    "If",
    "NonZero",
    "Where",
    "Gemm",
    "GridSample",
    "Custom",
)


def read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- accidents: the manifest's hashes are left as they were ------------------------------------------------------


def flip(rng: random.Random, files: Files) -> None:
    name = rng.choice([name for name, data in files.items() if data])
    data = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)


def truncate(rng: random.Random, files: Files) -> None:
    name = rng.choice([name for name, data in files.items() if data])
    files[name] = files[name][: rng.randrange(len(files[name]))]


def extend(rng: random.Random, files: Files) -> None:
    name = rng.choice(list(files))
    files[name] += rng.randbytes(rng.choice((1, 100, 10000)))


def swap(rng: random.Random, files: Files) -> None:
    a, b = rng.sample(list(files), 2)
    files[a], files[b] = files[b], files[a]


def remove(rng: random.Random, files: Files) -> None:
    del files[rng.choice(list(files))]


# --- attackers: every hash is right ---------------------------------------------------------------------------------


def edit_manifest(rng: random.Random, files: Files) -> None:
    """Puts something odd in some place of the JSON, or takes an entry away, or adds one."""
    value = json.loads(files["manifest.json"])
    for _ in range(rng.choice((1, 1, 3))):
        place: Any = value
        key: Any = rng.choice(list(place))
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.6:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        action = rng.random()
        if action < 0.15:
            del place[key]
        elif action < 0.3 and isinstance(place, dict):
            place[rng.choice(("files", "x", "schema", "../../x", "card/con.txt"))] = rng.choice(ODD_JSON)
        else:
            place[key] = rng.choice((*ODD_JSON, *ODD, place[key]))
        if not value:
            break
    files["manifest.json"] = json.dumps(value).encode()


def numbers(rng: random.Random, graph: onnx.GraphProto) -> None:
    """One attribute gets other values."""
    found = [(n, a) for n in graph.node for a in n.attribute]
    owner, attribute = rng.choice(found)
    kind = helper.get_attribute_value(attribute)
    if rng.random() < 0.1:
        owner.attribute.remove(attribute)
    elif isinstance(kind, int):
        attribute.i = rng.choice(ODD)
    elif isinstance(kind, float):
        attribute.f = rng.choice(ODD_REAL)
    elif isinstance(kind, bytes):
        attribute.s = rng.choice(
            (b"", b"edge", b"SAME_UPPER", b"cd,ncdhw->nchw", b"a,b->ab", b"\xff\xfe", b"tf_crop_and_resize")
        )
    elif attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(ODD)
        if rng.random() < 0.2:
            attribute.ints.append(rng.choice(ODD))


def operator(rng: random.Random, graph: onnx.GraphProto) -> None:
    rng.choice(graph.node).op_type = rng.choice((*RULES, *FORBIDDEN))


def like_operator(rng: random.Random, graph: onnx.GraphProto) -> None:
    """An operator that is allowed and takes as many inputs."""
    one = rng.choice(graph.node)
    one.op_type = rng.choice([n.op_type for n in graph.node if len(n.input) == len(one.input)])
    if rng.random() < 0.5:
        del one.attribute[:]


def extra_attribute(rng: random.Random, graph: onnx.GraphProto) -> None:
    name = rng.choice([a.name for n in graph.node for a in n.attribute])
    value = rng.choice((*ODD, 0.5, "linear", [1, 1], [2.0]))
    rng.choice(graph.node).attribute.append(helper.make_attribute(name, value))


def wire(rng: random.Random, graph: onnx.GraphProto) -> None:
    """An input comes from somewhere else; sometimes from behind, from nowhere, or is left out."""
    one = rng.choice([n for n in graph.node if n.input])
    names = (
        [w.name for w in graph.initializer] + [o for n in graph.node for o in n.output] + ["image", "white", "", "?"]
    )
    one.input[rng.randrange(len(one.input))] = rng.choice(names)


def order(rng: random.Random, graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)
    a, b = rng.randrange(len(nodes)), rng.randrange(len(nodes))
    if rng.random() < 0.3:
        del nodes[a]
    elif rng.random() < 0.3:
        nodes.insert(b, nodes[a])
    else:
        nodes[a], nodes[b] = nodes[b], nodes[a]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def rename(rng: random.Random, graph: onnx.GraphProto) -> None:
    one = rng.choice(graph.node)
    one.output[rng.randrange(len(one.output))] = rng.choice(
        ("", "image", "anomaly_map", rng.choice(graph.node).output[0])
    )


def weight_size(rng: random.Random, graph: onnx.GraphProto) -> None:
    one = rng.choice(graph.initializer)
    if one.dims and rng.random() < 0.8:
        one.dims[rng.randrange(len(one.dims))] = rng.choice(ODD)
    elif rng.random() < 0.5:
        one.dims.append(rng.choice(ODD))
    else:
        dims = list(one.dims)
        rng.shuffle(dims)
        one.dims[:] = dims


def weight_type(rng: random.Random, graph: onnx.GraphProto) -> None:
    rng.choice(graph.initializer).data_type = rng.choice((*range(-1, 28), 1000))


def weight_values(rng: random.Random, graph: onnx.GraphProto) -> None:
    """Values that decide on sizes, or weights that make the map endless."""
    one = rng.choice([w for w in graph.initializer if math.prod(w.dims) < 64])
    array = onnx.numpy_helper.to_array(one).copy()
    if array.size:
        limits = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        odd = [value for value in ODD if limits.min <= value <= limits.max] if limits else ODD_REAL
        array.ravel()[rng.randrange(array.size)] = rng.choice(odd)
    one.CopyFrom(onnx.numpy_helper.from_array(array, one.name))


def weight_bytes(rng: random.Random, graph: onnx.GraphProto) -> None:
    one = rng.choice(graph.initializer)
    kind = rng.randrange(4)
    if kind == 0:
        one.raw_data = one.raw_data[: rng.randrange(len(one.raw_data) + 1)]
    elif kind == 1:
        one.raw_data = rng.randbytes(len(one.raw_data))
    elif kind == 2:
        one.data_location = TensorProto.EXTERNAL
        one.external_data.add(key="location", value="/etc/passwd")
    else:
        one.ClearField("raw_data")
        one.int32_data.extend([rng.choice((0, 1, 2**31 - 1, -1))] * rng.randrange(5))


def long_name(rng: random.Random, graph: onnx.GraphProto) -> None:
    one = rng.choice(graph.node)
    kind = rng.randrange(4)
    if kind == 0:
        one.op_type = "x\n" * 10**5
    elif kind == 1 and one.input:
        one.input[0] = "x" * 10**5
    elif kind == 2:
        one.output[0] = "x" * 10**5
    else:
        one.attribute.append(helper.make_attribute("x" * 10**5, [1] * 10**5))


def ends(rng: random.Random, graph: onnx.GraphProto) -> None:
    """The graph's own inputs and outputs."""
    one = rng.choice((*graph.input, *graph.output))
    kind = rng.randrange(4)
    if kind == 0:
        one.name = rng.choice(("image", "white", "anomaly_map", "x", ""))
    elif kind == 1:
        one.type.tensor_type.elem_type = rng.randrange(20)
    elif kind == 2 and one.type.tensor_type.shape.dim:
        rng.choice(one.type.tensor_type.shape.dim).dim_value = rng.choice(ODD)
    else:
        one.type.tensor_type.shape.dim.add()


def foreign(rng: random.Random, graph: onnx.GraphProto) -> None:
    one = rng.choice(graph.node)
    if rng.random() < 0.5:
        one.domain = rng.choice(("com.microsoft", "ai.onnx.ml", "x"))
    else:
        one.attribute.append(helper.make_attribute("body", helper.make_graph([], "inner", [], [])))


EDITS = (
    *[numbers, wire, weight_values] * 3,
    *[like_operator, weight_size] * 2,
    *[operator, extra_attribute, order, rename, weight_type, weight_bytes, ends, foreign, long_name],
)


def edit_graph(rng: random.Random, files: Files) -> None:
    model = onnx.ModelProto.FromString(files["model.onnx"])
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        with suppress(Exception):  # what an edit before this one left may be beyond editing
            rng.choice(EDITS)(rng, model.graph)
    if rng.random() < 0.03:
        model.opset_import[0].version = rng.choice((-1, 0, 1, 11, 17, 19, 21, 23, 28, 29, 10**6))
    if rng.random() < 0.02:
        model.ir_version = rng.choice((-1, 0, 3, 10**6))
    if rng.random() < 0.02:
        model.functions.add(name="f", domain="")
    files["model.onnx"] = model.SerializeToString()


def flip_graph(rng: random.Random, files: Files) -> None:
    data = bytearray(files["model.onnx"])
    for _ in range(rng.choice((1, 1, 3, 20))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    files["model.onnx"] = bytes(data)


ACCIDENTS: tuple[Callable[[random.Random, Files], None], ...] = (flip, flip, truncate, extend, swap, remove)


def damaged(rng: random.Random, files: Files) -> Files:
    """Never only in how a number is written: 1E-05 is 1e-05."""
    changed = dict(files)
    while changed == files or same(changed, files):
        rng.choice(ACCIDENTS)(rng, changed)
    return changed


def same(changed: Files, files: Files) -> bool:
    with suppress(BundleError):
        read = [manifest.decode(one.get("manifest.json", b"")) for one in (changed, files)]
        return read[0] == read[1] and changed | {"manifest.json": b""} == files | {"manifest.json": b""}
    return False


def attacked(rng: random.Random, files: Files) -> Files:
    changed = dict(files)
    chance = rng.random()
    if chance < 0.15:
        edit_manifest(rng, changed)
        return sealed(changed)
    (flip_graph if chance < 0.3 else edit_graph)(rng, changed)
    return rehashed(changed)


def rehashed(files: Files) -> Files:
    value = json.loads(files["manifest.json"])
    for name in value["files"]:
        value["files"][name] = {"sha256": hashlib.sha256(files[name]).hexdigest(), "bytes": len(files[name])}
    return sealed(files | {"manifest.json": json.dumps(value).encode()})


def sealed(files: Files) -> Files:
    value = json.loads(files["manifest.json"])
    value.pop(manifest.SEAL, None)
    return files | {"manifest.json": json.dumps(value | {manifest.SEAL: manifest.digest(value)}).encode()}


# --- bombs: small files that ask for much -----------------------------------------------------------------------


def chain(count: int, make: Callable[[int, str, str], onnx.NodeProto]) -> list[onnx.NodeProto]:
    """x0 -> x1 -> ... -> anomaly_map, from the image."""
    names = ["image", *(f"x{i}" for i in range(1, count)), "anomaly_map"]
    return [make(i, names[i], names[i + 1]) for i in range(count)]


def big(op: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
    """An operator that makes something large, of which the map then uses one number."""
    return [
        node(op, " ".join(inputs), "large", **attributes),
        node("ReduceSum", "large", "most", keepdims=0),
        node("Add", "image most", "anomaly_map"),
    ]


def bombs() -> dict[str, onnx.ModelProto]:
    """Graphs of which each must be refused."""
    huge, billion = i64(1, 1, 2**17, 2**17), i64(1, 1, 10**6, 10**6)
    w4 = np.ones((1, 1, 4, 4), np.float32)
    made = {
        "resize by 10000": bundles.model(
            [node("Resize", "image _ s", "large"), node("Resize", "large _ t", "anomaly_map")],
            {"s": f32(1, 1, 1e4, 1e4), "t": f32(1, 1, 1e-4, 1e-4)},
        ),
        "resize by 64, three times": bundles.model(
            chain(6, lambda i, a, b: node("Resize", f"{a} _ {'st'[i // 3]}", b)),
            {"s": f32(1, 1, 64, 64), "t": f32(1, 1, 1 / 64, 1 / 64)},
        ),
        "resize to sizes": bundles.model(
            [node("Resize", "image _ _ s", "large"), *big("Identity", "large")[1:]], {"s": billion}
        ),
        "resize batch": bundles.model(big("Resize", "image", "_", "s"), {"s": f32(1000, 1000, 60, 60)}),
        "tile": bundles.model(big("Tile", "image", "s"), {"s": huge}),
        "expand": bundles.model(big("Expand", "image", "s"), {"s": huge}),
        "constant of shape": bundles.model(big("ConstantOfShape", "s"), {"s": huge}),
        "range": bundles.model(big("Range", "a", "b", "c"), {"a": f32(0), "b": f32(1e12), "c": f32(1)}),
        "random": bundles.model(big("RandomNormal", shape=[10**5, 10**5]), {}),
        "one hot": bundles.model(
            big("OneHot", "a", "b", "c"), {"a": i64(*range(9)), "b": np.array(10**11), "c": f32(0, 1)}
        ),
        "pad": bundles.model(big("Pad", "image", "s"), {"s": i64(0, 0, 10**6, 10**6, 0, 0, 10**6, 10**6)}),
        "pad by 1000, often": bundles.model(
            chain(900, lambda i, a, b: node("Pad", f"{a} s", b, mode="edge")),
            {"s": i64(0, 0, 900, 900, 0, 0, 900, 900)},
        ),
        "chained ConvTranspose": bundles.model(
            [*chain(7, lambda i, a, b: node("ConvTranspose", f"{a} w", b, strides=[16, 16]))], {"w": w4}
        ),
        "ConvTranspose by 10000": bundles.model(big("ConvTranspose", "image", "w", strides=[10**4] * 2), {"w": w4}),
        "ConvTranspose padding": bundles.model(
            big("ConvTranspose", "image", "w", output_padding=[10**6] * 2), {"w": w4}
        ),
        "many channels": bundles.model(
            [
                node("Conv", "image w", "a"),
                node("Concat", "a " * 60, "b", axis=1),
                node("Concat", "b " * 60, "c", axis=1),
                *big("Identity", "c"),
            ],
            {"w": np.ones((60, 1, 1, 1), np.float32)},
        ),
        "doubling": bundles.model(chain(60, lambda i, a, b: node("Concat", f"{a} {a}", b, axis=1)), {}),
        "all pixels with all pixels": bundles.model(
            [node("Reshape", "image s", "row"), node("Reshape", "image t", "column"), *big("MatMul", "column", "row")],
            {"s": i64(0, 1, 1, -1), "t": i64(0, 1, -1, 1)},
        ),
        "outer product": bundles.model(big("Einsum", "image", "image", equation="nchw,mdij->nhwij"), {}),
        "broadcast": bundles.model(
            [node("Transpose", "image", "turned", perm=[2, 3, 0, 1]), *big("Add", "image", "turned")], {}
        ),
        "squared size": bundles.model(
            [
                node("Shape", "image", "s"),
                node("Mul", "s s", "s2"),
                node("Mul", "s2 s2", "s4"),
                *big("Resize", "image", "_", "_", "s4"),
            ],
            {},
        ),
        "size of grey levels": bundles.model(
            [
                node("ReduceMean", "image", "m", keepdims=0),
                node("Cast", "m", "i", to=TensorProto.INT64),
                node("Concat", "one one i i", "s", axis=0),
                *big("Resize", "image", "_", "_", "s"),
            ],
            {"one": i64(1)},
        ),
        "wide kernel": bundles.model(
            [node("Pad", "image p", "a"), node("Conv", "a w", "anomaly_map")],
            {"p": i64(0, 0, 500, 500, 0, 0, 500, 500), "w": np.ones((1, 1, 1001, 1001), np.float32)},
        ),
        "depth": bundles.model(chain(50_000, lambda i, a, b: node("Neg", a, b)), {}),
        "width": bundles.model([node("Concat", "image " * 100_000, "a", axis=1), *big("Identity", "a")], {}),
        "loop": bundles.model(
            [helper.make_node("Loop", ["n", "", "image"], ["anomaly_map"], body=helper.make_graph([], "b", [], []))],
            {"n": np.array(2**62)},
        ),
    }
    for name, dims in (("data", [2**20, 2**20]), ("overflow", [2**32, 2**32]), ("negative", [-1, -(2**40)])):
        model = bundles.tour()
        model.graph.initializer.add(name="void", data_type=TensorProto.FLOAT, dims=dims)
        made[f"weight without {name}"] = model
    model = bundles.tour()
    for count in range(100):  # as in the story of the billion laughs
        body = [helper.make_node(f"f{count + 1}", ["x"], ["y"], domain="x")] * 10
        model.functions.append(helper.make_function("x", f"f{count}", ["x"], ["y"], body, []))
    made["functions"] = model
    model = bundles.tour()
    for _ in range(100_000):
        model.graph.sparse_initializer.add()
    made["sparse"] = model
    return made


def raw_bombs() -> dict[str, Files]:
    """Files that unfold when they are parsed."""
    good = files_of_tour()
    nest = b'{"schema": ' + b"[" * 10**6 + b"]" * 10**6 + b"}"
    lists = b'{"schema": [' + b"[]," * 2_600_000 + b"[]]}"
    empty = b"\x3a" + varint(2 * 8_000_000) + b"\x0a\x00" * 8_000_000  # a graph of empty nodes
    deep = b""
    for _ in range(20_000):
        deep = b"\x32" + varint(len(deep)) + deep  # a graph in an attribute of a node in a graph ...
        deep = b"\x2a" + varint(len(deep)) + deep
    return {
        "nested JSON": good | {"manifest.json": nest},
        "many lists": good | {"manifest.json": lists},
        "digits": good | {"manifest.json": b'{"schema": ' + b"9" * 10**6 + b"}"},
        "large manifest": good | {"manifest.json": b" " * (manifest.MANIFEST_BYTES + 1)},
        "empty nodes": rehashed(good | {"model.onnx": empty}),
        "nested graphs": rehashed(good | {"model.onnx": b"\x3a" + varint(len(deep)) + deep}),
        "endless number": rehashed(good | {"model.onnx": b"\xff" * 10**6}),
    }


def bundle_files() -> dict[str, bundle.File]:
    return {name: bundle.File(hashlib.sha256(data).hexdigest(), len(data)) for name, data in bundles.contents().items()}


def varint(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


# --- the worker -------------------------------------------------------------------------------------------------


def verdict(folder: Path, image: np.ndarray) -> str:
    """What becomes of a bundle: "refused", "map", or "error" for a plain one about the map, the image or memory."""
    try:
        found = Inspector.load(folder, "cpu", threads=1)(image)
    except BundleError as error:
        assert len(str(error)) < 2000 + len(str(folder)) and "\n" not in str(error)
        return "refused"
    except (ImageError, MemoryError):
        return "error"
    assert found.map is not None and np.isfinite(found.map).all() and found.map.shape == image.shape
    return "map"


def mutants(first: int, end: int) -> Iterator[tuple[str, Files]]:
    sources = [read(FROZEN), files_of_tour()]
    for number in range(first, end):
        rng = random.Random(number)
        good = rng.choice(sources)
        yield ("damaged", damaged(rng, good)) if number % 5 < 2 else ("attacked", attacked(rng, good))


def all_bombs() -> dict[str, Files]:
    good = files_of_tour()
    return raw_bombs() | {
        name: rehashed(good | {"model.onnx": model.SerializeToString()}) for name, model in bombs().items()
    }


def main(what: str, place: Path, first: int, end: int) -> None:
    cases = (
        mutants(first, end)
        if what == "mutants"
        else islice(((what, files) for files in all_bombs().values()), first, end)
    )
    image = np.random.default_rng(0).integers(0, 256, (72, 104), np.uint8)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # kills: a bundle that takes so long is a death, too
    for number, (kind, files) in enumerate(cases, first):
        folder = place / f"{number}.bundle"
        lay(folder, files)
        print(number, flush=True)
        signal.alarm(SECONDS)
        try:
            result = verdict(folder, image)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        signal.alarm(0)
        print(number, kind, result.replace("\n", " "), flush=True)
        shutil.rmtree(folder)
    print("peak", peak_kib(), flush=True)


def peak_kib() -> int:
    """Of this program alone: the maximum that getrusage tells goes on from the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def files_of_tour() -> Files:
    listed = bundle_files()
    return {"manifest.json": manifest.encode(bundles.manifest(files=listed))} | bundles.contents()


def lay(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
