"""What a graph costs on an image of a given size, worked out before anything runs it: a few bytes of ONNX can ask for
terabytes.

Sizes are computed node by node, operator by operator, for one concrete size of the input. Whatever decides on a size
must follow from constants and sizes; what depends on grey levels cannot. Operators without a rule here are not allowed,
nor are attributes that a rule does not read. A model that needs another operator adds its rule to RULES.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from reprlib import repr  # a hostile graph's names may be megabytes long
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONSTANT_BYTES = 16 * 2**20  # of all tensors between the nodes, however small the image
BYTES_PER_PIXEL = 8 * 2**10  # of all of them together, beyond that; a runtime that frees early needs far less
CONSTANT_MACS = 2**28
MACS_PER_PIXEL = 2**19
ELEMENTS = 2**40  # of one tensor: ends the growth of numbers early
RANK = 8
KNOWN = 64  # elements of a tensor whose values are followed: those that sizes are made of
REACH = 1024  # pixels that a kernel, a dilation or an edge may span
FACTOR = 64  # of enlarging and reducing
FLOATS = ("float32", "float16")
INTEGERS = ("int64", "int32", "int8", "uint8")
TYPES = FLOATS + INTEGERS


class ShapeError(ValueError):
    """A graph that cannot run, might not fit into memory, or holds what is not allowed."""


@dataclass(frozen=True)
class Tensor:
    """Type and size of what flows between nodes; its values where they are few and follow from constants and sizes."""

    type: str
    shape: tuple[int, ...]
    value: NDArray[Any] | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """In memory; half and quantised numbers are counted as float32, which processors compute them in."""
        return self.elements * (8 if self.type == "int64" else 4)


@dataclass(frozen=True)
class Node:
    """An operator of the graph; an input or output that is left out has the name ""."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]  # int, float, str, Tensor, or a tuple of int or float


@dataclass(frozen=True)
class Cost:
    """`macs`: multiplications with additions, of convolutions, pooling and matrix products. `bytes`: of all tensors
    that nodes make, as if none were freed."""

    macs: int
    bytes: int


@dataclass(frozen=True)
class Program:
    """The nodes of a graph in their order, and its constants."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]

    def trace(self, inputs: Mapping[str, Tensor], pixels: int) -> tuple[dict[str, Tensor], Cost]:
        """(every tensor by name, cost) for inputs of these sizes, an image of `pixels` in all.

        ShapeError: the sizes do not fit together, an operator, attribute or value is not allowed, or the cost exceeds
        the constants of this module.
        """
        tensors = {**self.constants, **inputs}
        macs = size = 0
        for place, node in enumerate(self.nodes):
            try:
                call = Call(node, tensors)
                made = call.run()
            except ShapeError as error:
                raise ShapeError(f"node {place}, {repr(node.op)}: {error}") from None
            macs += call.macs
            size += call.workspace
            for name, tensor in zip(node.outputs, made, strict=True):
                if not name or name in tensors:
                    raise ShapeError(
                        f"node {place}, {repr(node.op)}: its output {repr(name)} has no name, or another's"
                    )
                tensors[name] = tensor
                size += tensor.bytes
        if size > (most := CONSTANT_BYTES + BYTES_PER_PIXEL * pixels):
            raise ShapeError(f"it takes {size} bytes for {pixels} px of image, more than {most}")
        if macs > (most := CONSTANT_MACS + MACS_PER_PIXEL * pixels):
            raise ShapeError(f"it takes {macs} multiplications for {pixels} px of image, more than {most}")
        return tensors, Cost(macs, size)


@dataclass
class Call:
    """One node with its inputs: what rules ask, with the checks that every rule needs."""

    node: Node
    tensors: Mapping[str, Tensor]
    macs: int = 0
    workspace: int = 0  # bytes beside the outputs
    read: set[str] = field(default_factory=set)  # attributes that the rule knows

    def run(self) -> list[Tensor]:
        """The node's outputs."""
        rule = RULES.get(self.node.op)
        if rule is None:
            raise ShapeError("this operator is not allowed")
        made = rule(self)
        made = made if isinstance(made, list) else [made]
        if unknown := set(self.node.attributes) - self.read:
            raise ShapeError(f"attribute {repr(min(unknown))} is not allowed")
        if len(made) != len(self.node.outputs):
            raise ShapeError(f"has {len(self.node.outputs)} outputs instead of {len(made)}")
        for tensor in made:
            if len(tensor.shape) > RANK or any(side < 1 for side in tensor.shape) or tensor.elements > ELEMENTS:
                raise ShapeError(f"an output has the size {list(tensor.shape)}")
        return made

    def inputs(self, required: int, optional: int) -> tuple[list[Tensor], list[Tensor | None]]:
        """The first inputs, which must be there, and those that may be left out."""
        names = self.node.inputs
        if not required <= len(names) <= required + optional or "" in names[:required]:
            raise ShapeError(f"has {len(names)} inputs instead of {required} to {required + optional}")
        found = [self._named(name) if name else None for name in names[required:]]
        return [self._named(name) for name in names[:required]], found + [None] * (optional - len(found))

    def all(self, least: int, most: int) -> list[Tensor]:
        """The inputs, of which none is left out."""
        return self.inputs(min(max(least, len(self.node.inputs)), most), 0)[0]

    def _named(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ShapeError(f"its input {repr(name)} is made by no earlier node")
        return self.tensors[name]

    def number(self, name: str, low: int, high: int, default: int) -> int:
        """An integer attribute in low..high."""
        return self.numbers(name, 1, low, high, default)[0]

    def numbers(self, name: str, count: int, low: int, high: int, default: int) -> tuple[int, ...]:
        """`count` integers in low..high, in one attribute."""
        self.read.add(name)
        value = self.node.attributes.get(name, (default,) * count)
        value = (value,) if isinstance(value, int) else value
        if not isinstance(value, tuple) or len(value) != count or not all(isinstance(each, int) for each in value):
            raise ShapeError(f"attribute {name!r} is {repr(value)}, not {count} whole numbers")
        if not all(low <= each <= high for each in value):
            raise ShapeError(f"attribute {name!r} is {list(value)}, not within {low} to {high}")
        return value

    def real(self, name: str) -> None:
        """A finite number, which decides on no size."""
        self.read.add(name)
        value = self.node.attributes.get(name, 0.0)
        if not isinstance(value, float) or not math.isfinite(value):
            raise ShapeError(f"attribute {name!r} is {repr(value)}, not a finite number")

    def choice(self, name: str, *allowed: str) -> str:
        """A text attribute; the first of `allowed` is its default."""
        self.read.add(name)
        value = self.node.attributes.get(name, allowed[0])
        if value not in allowed:
            raise ShapeError(f"attribute {name!r} is {repr(value)}, not one of {', '.join(allowed)}")
        return str(value)

    def axis(self, name: str, rank: int, default: int) -> int:
        return self.number(name, -rank, rank - 1, default) % rank if rank else _refuse("its input has no axes")


def _refuse(reason: str) -> Any:
    raise ShapeError(reason)


def _known(tensor: Tensor, what: str) -> list[Any]:
    """The values of a tensor that decides on a size, flat."""
    if tensor.value is None:
        raise ShapeError(f"its {what} cannot be told from constants and the image's size")
    return list(tensor.value.ravel().tolist())


def _whole(tensor: Tensor, what: str, low: int, high: int) -> list[int]:
    if tensor.type not in ("int64", "int32"):
        raise ShapeError(f"its {what} are {tensor.type}, not whole numbers")
    values = _known(tensor, what)
    if not all(low <= value <= high for value in values):
        raise ShapeError(f"its {what} are {values}, not within {low} to {high}")
    return values


def _axes(tensor: Tensor | None, rank: int) -> list[int]:
    """Different axes in 0..rank-1; all where there is no tensor."""
    if tensor is None:
        return list(range(rank))
    axes = [axis % rank for axis in _whole(tensor, "axes", -rank, rank - 1)] if rank else []
    if len(set(axes)) != len(axes):
        raise ShapeError(f"its axes {axes} repeat one")
    return axes


def _same_type(tensors: Iterable[Tensor]) -> str:
    types = {tensor.type for tensor in tensors}
    if len(types) != 1:
        raise ShapeError(f"its inputs have the types {', '.join(sorted(types))}")
    return types.pop()


def _float(tensor: Tensor) -> str:
    return tensor.type if tensor.type in FLOATS else _refuse(f"its input is {tensor.type}, not float")


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The common size of tensors whose missing and single axes are repeated.

    >>> broadcast((2, 1, 5), (3, 1))
    (2, 3, 5)
    """
    sides = []
    for column in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        longest = max(column)
        if any(side not in (1, longest) for side in column):
            raise ShapeError(f"sizes {', '.join(str(list(shape)) for shape in shapes)} do not fit together")
        sides.append(longest)
    return tuple(reversed(sides))


def _image(tensor: Tensor) -> tuple[int, int, int, int]:
    """(N, C, H, W) of the input of a convolution or the like."""
    _float(tensor)
    if len(tensor.shape) != 4:
        raise ShapeError(f"its input has the size {list(tensor.shape)}, not (N, C, H, W)")
    n, c, h, w = tensor.shape
    return n, c, h, w


# --- elementwise ---------------------------------------------------------------------------------------------------


def _unary(*reals: str) -> Callable[[Call], Tensor]:
    def rule(call: Call) -> Tensor:
        (x,) = call.all(1, 1)
        for name in reals:
            call.real(name)
        return Tensor(_float(x), x.shape)

    return rule


def _divide(a: int, b: int) -> int:
    """Of sizes; ONNX rounds towards zero and Python down, which differ below zero."""
    return a // b if a >= 0 and b > 0 else _refuse(f"divides {a} by {b}")


def _elementwise(count: int, compute: Callable[[Any, Any], Any] | None = None) -> Callable[[Call], Tensor]:
    """2 to `count` inputs of one type; `compute` follows the values of whole numbers."""

    def rule(call: Call) -> Tensor:
        inputs = call.all(2, count)
        kind = _same_type(inputs)
        shape = broadcast(*(tensor.shape for tensor in inputs))
        values = [tensor.value for tensor in inputs if tensor.value is not None]
        if kind != "int64" or compute is None or len(values) < len(inputs) or math.prod(shape) > KNOWN:
            return Tensor(kind, shape)
        found = np.frompyfunc(compute, 2, 1)(*(value.astype(object) for value in values))
        return Tensor(kind, shape, _bounded(found, shape))

    return rule


def _bounded(values: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Python's whole numbers as int64; sizes never come near its limits."""
    flat = np.asarray(values, dtype=object).ravel().tolist()
    if any(abs(value) > ELEMENTS for value in flat):
        raise ShapeError(f"computes the size {max(flat, key=abs)}")
    return np.array(flat, np.int64).reshape(shape)


def _power(call: Call) -> Tensor:
    x, exponent = call.all(2, 2)
    _float(exponent)
    return Tensor(_float(x), broadcast(x.shape, exponent.shape))


def _clip(call: Call) -> Tensor:
    (x,), bounds = call.inputs(1, 2)
    if any(bound is not None and (bound.type != x.type or bound.shape) for bound in bounds):
        raise ShapeError("its bounds are no single numbers of the input's type")
    return Tensor(_float(x), x.shape)


def _softmax(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    call.axis("axis", len(x.shape), -1)
    return Tensor(_float(x), x.shape)


def _identity(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    return x


CASTS = {1: "float32", 10: "float16", 7: "int64", 6: "int32", 3: "int8", 2: "uint8"}  # onnx.TensorProto.DataType


def _cast(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    call.number("saturate", 0, 1, 1)
    kind = CASTS.get(call.number("to", 1, 100, 0) if "to" in call.node.attributes else 0)
    if kind is None:
        raise ShapeError("casts to a type that is not allowed")
    follow = x.value is not None and x.type in ("int64", "int32") and kind in ("int64", "int32")
    return Tensor(kind, x.shape, x.value if follow else None)


def _constant(call: Call) -> Tensor:
    names = ("value", "value_int", "value_ints", "value_float", "value_floats")
    call.read.update(names)
    if len(call.node.attributes) != 1 or call.node.inputs:
        raise ShapeError("a constant has one value and no input")
    (value,) = call.node.attributes.values()
    if isinstance(value, Tensor):
        return value
    kind = np.int64 if "int" in next(iter(call.node.attributes)) else np.float32
    if isinstance(value, str) or (isinstance(value, tuple) and len(value) > KNOWN):
        raise ShapeError("its value is no short list of numbers")
    array = np.array(value, kind)
    return Tensor(array.dtype.name, array.shape, array)


def _normalise(call: Call) -> Tensor:
    x, *statistics = call.all(5, 5)
    _, channels, _, _ = _image(x)
    call.real("epsilon")
    call.real("momentum")
    call.number("training_mode", 0, 0, 0)
    if any(each.shape != (channels,) for each in statistics):
        raise ShapeError(f"its statistics are not of {channels} channels")
    return Tensor(x.type, x.shape)


def _quantised(call: Call) -> Tensor:
    (x, scale), (zero,) = call.inputs(2, 1)
    back = call.node.op == "DequantizeLinear"
    axis = call.number("axis", -RANK, RANK, 1)
    call.number("block_size", 0, 0, 0)
    call.number("saturate", 0, 1, 1)
    call.number("precision", 0, 1, 0)
    kind = CASTS.get(call.number("output_dtype", 0, 100, 0))
    single = scale.shape in ((), (1,))
    if not single and (not -len(x.shape) <= axis < len(x.shape) or scale.shape != (x.shape[axis],)):
        raise ShapeError(f"its scales have the size {list(scale.shape)} along axis {axis} of {list(x.shape)}")
    if zero is not None and (zero.shape not in ((), (1,)) if single else zero.shape != scale.shape):
        raise ShapeError("its scales and zero points differ in number")
    small = x.type if back else zero.type if zero is not None else kind or "uint8"
    if small not in ("int8", "uint8", *(["int32"] if back else [])) or (zero is not None and zero.type != small):
        raise ShapeError(f"quantises to {small}, not to int8 or uint8")
    wide = _float(scale) if back else _float(x)
    return Tensor(wide if back else small, x.shape)


# --- convolutions and products -------------------------------------------------------------------------------------


def _window(call: Call, kernel: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(pads: top, left, bottom, right; strides; what a kernel spans) of a convolution or pooling."""
    call.choice("auto_pad", "NOTSET")
    pads = call.numbers("pads", 4, 0, REACH, 0)
    strides = call.numbers("strides", 2, 1, FACTOR, 1)
    dilations = call.numbers("dilations", 2, 1, REACH, 1)
    spans = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    if max(spans) > REACH:
        raise ShapeError(f"its kernel spans {max(spans)} px, more than {REACH}")
    return pads, strides, spans


def _weights(call: Call) -> tuple[Tensor, Tensor, int]:
    """(input, weights, groups) of a convolution, transposed or not, checked against each other and the bias."""
    (x, w), (bias,) = call.inputs(2, 1)
    _, channels, _, _ = _image(x)
    if len(w.shape) != 4 or min(w.shape) < 1 or w.type != x.type:
        raise ShapeError(f"its weights are {w.type} of the size {list(w.shape)}")
    if call.numbers("kernel_shape", 2, 1, REACH, 1) != w.shape[2:] and "kernel_shape" in call.node.attributes:
        raise ShapeError(f"its kernel is not of the size of its weights, {list(w.shape)}")
    groups = call.number("group", 1, 2**16, 1)
    transposed = call.node.op == "ConvTranspose"
    taken, made = (w.shape[0], w.shape[1] * groups) if transposed else (w.shape[1] * groups, w.shape[0])
    if taken != channels or made % groups or channels % groups:
        raise ShapeError(f"weights of the size {list(w.shape)} in {groups} groups do not fit {channels} channels")
    if bias is not None and (bias.shape != (made,) or bias.type != x.type):
        raise ShapeError(f"its bias is {bias.type} of the size {list(bias.shape)}")
    return x, w, groups


def _convolve(call: Call) -> Tensor:
    x, w, _ = _weights(call)
    n, _, *sides = x.shape
    pads, strides, spans = _window(call, w.shape[2:])
    out = [(s + a + b - k) // t + 1 for s, a, b, k, t in zip(sides, pads[:2], pads[2:], spans, strides, strict=True)]
    if any(s + a + b < k for s, a, b, k in zip(sides, pads[:2], pads[2:], spans, strict=True)):
        raise ShapeError(f"an image of the size {sides} is smaller than its kernel")
    call.macs = n * math.prod(out) * w.elements
    return Tensor(x.type, (n, w.shape[0], *out))


def _deconvolve(call: Call) -> Tensor:
    x, w, groups = _weights(call)
    n, _, *sides = x.shape
    pads, strides, spans = _window(call, w.shape[2:])
    more = call.numbers("output_padding", 2, 0, FACTOR - 1, 0)
    if any(m >= t for m, t in zip(more, strides, strict=True)):
        raise ShapeError("its output_padding is not below its stride")
    out = [
        t * (s - 1) + m + k - a - b
        for s, t, m, k, a, b in zip(sides, strides, more, spans, pads[:2], pads[2:], strict=True)
    ]
    call.macs = n * math.prod(sides) * w.elements
    # Column by column, an image's products are written down before they are added up.
    call.workspace = 4 * math.prod(sides) * math.prod(w.shape[1:])
    return Tensor(x.type, (n, w.shape[1] * groups, *out))


def _pool(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    n, c, *sides = _image(x)
    kernel = call.numbers("kernel_shape", 2, 1, FACTOR, 1)
    pads, strides, spans = _window(call, kernel)
    call.number("ceil_mode", 0, 0, 0)
    call.number("count_include_pad", 0, 1, 0)
    if any(pad >= k for pad, k in zip(pads, (*kernel, *kernel), strict=True)):
        raise ShapeError(f"its pads {list(pads)} are not below its kernel {list(kernel)}")
    out = [(s + a + b - k) // t + 1 for s, a, b, k, t in zip(sides, pads[:2], pads[2:], spans, strides, strict=True)]
    call.macs = n * c * math.prod(out) * math.prod(kernel)
    return Tensor(x.type, (n, c, *out))


def _product(call: Call) -> Tensor:
    a, b = call.all(2, 2)
    kind = _float(Tensor(_same_type((a, b)), ()))
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matrices of the sizes {list(a.shape)} and {list(b.shape)} have no product")
    shape = (*broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    call.macs = math.prod(shape) * a.shape[-1]
    return Tensor(kind, shape)


def _einsum(call: Call) -> Tensor:
    operands = call.all(1, 2)
    call.read.add("equation")
    left, arrow, right = str(call.node.attributes.get("equation", "")).replace(" ", "").partition("->")
    terms = left.split(",")
    letters = (*terms, right)
    if not arrow or len(terms) != len(operands) or any(t and not (t.isascii() and t.isalpha()) for t in letters):
        raise ShapeError("its equation is not of the form 'ab,bc->ac'")
    sides: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        if len(term) != len(operand.shape):
            raise ShapeError(f"{repr(term)} of its equation stands for the size {list(operand.shape)}")
        for letter, side in zip(term, operand.shape, strict=True):
            if sides.setdefault(letter, side) != side:
                raise ShapeError(f"axis {letter!r} of its equation has the sizes {sides[letter]} and {side}")
    if any(len(set(term)) != len(term) for term in letters) or not set(right) <= set(sides):
        raise ShapeError("its equation repeats an axis or makes one up")
    call.macs = math.prod(sides.values())
    made = Tensor(_float(Tensor(_same_type(operands), ())), tuple(sides[letter] for letter in right))
    call.workspace = 2 * (made.bytes + sum(operand.bytes for operand in operands))  # transposed before and after
    return made


def _reduce(call: Call) -> Tensor:
    (x,), (axes,) = call.inputs(1, 1)
    keep = call.number("keepdims", 0, 1, 1)
    noop = call.number("noop_with_empty_axes", 0, 1, 0)
    gone = _axes(axes if axes is None or axes.elements else None, len(x.shape))
    if noop and (axes is None or not axes.elements):
        gone = []
    shape = [1 if axis in gone else side for axis, side in enumerate(x.shape) if keep or axis not in gone]
    return Tensor(_float(x), tuple(shape))


# --- sizes and places ----------------------------------------------------------------------------------------------


def _shape(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    start = call.number("start", -RANK, RANK, 0)
    end = call.number("end", -RANK, RANK, len(x.shape))
    sides = np.array(x.shape[start:end], np.int64)
    return Tensor("int64", sides.shape, sides)


def _moved(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another arrangement of axes, in the same order."""
    return Tensor(x.type, shape, None if x.value is None else x.value.reshape(shape))


def _reshape(call: Call) -> Tensor:
    x, wanted = call.all(2, 2)
    sides = _whole(wanted, "new size", -1, ELEMENTS)
    if not call.number("allowzero", 0, 1, 0):
        if any(side == 0 and axis >= len(x.shape) for axis, side in enumerate(sides)):
            raise ShapeError(f"a size {list(x.shape)} cannot become {sides}")
        sides = [x.shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    rest = math.prod(side for side in sides if side != -1)
    if sides.count(-1) > 1 or rest == 0 or x.elements % rest:
        raise ShapeError(f"a size {list(x.shape)} cannot become {sides}")
    shape = tuple(x.elements // rest if side == -1 else side for side in sides)
    if math.prod(shape) != x.elements:
        raise ShapeError(f"a size {list(x.shape)} cannot become {sides}")
    return _moved(x, shape)


def _expand(call: Call) -> Tensor:
    x, wanted = call.all(2, 2)
    return Tensor(x.type, broadcast(x.shape, _whole(wanted, "new size", 1, ELEMENTS)))


def _squeeze(call: Call) -> Tensor:
    (x,), (axes,) = call.inputs(1, 1)
    gone = [a for a, side in enumerate(x.shape) if side == 1] if axes is None else _axes(axes, len(x.shape))
    if any(x.shape[axis] != 1 for axis in gone):
        raise ShapeError(f"axes {gone} of the size {list(x.shape)} are not single")
    return _moved(x, tuple(side for axis, side in enumerate(x.shape) if axis not in gone))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.all(2, 2)
    rank = len(x.shape) + axes.elements
    if rank > RANK:
        raise ShapeError(f"makes {rank} axes")
    new, old = _axes(axes, rank), iter(x.shape)
    return _moved(x, tuple(1 if axis in new else next(old) for axis in range(rank)))


def _transpose(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    rank = len(x.shape)
    order = call.numbers("perm", rank, 0, rank - 1, 0) if "perm" in call.node.attributes else range(rank)[::-1]
    if len(set(order)) != rank:
        raise ShapeError(f"its perm {list(order)} is no order of {rank} axes")
    return Tensor(x.type, tuple(x.shape[axis] for axis in order))


def _concat(call: Call) -> Tensor:
    inputs = call.all(1, KNOWN)
    kind, rank = _same_type(inputs), len(inputs[0].shape)
    axis = call.axis("axis", rank, 0)
    if len({(len(t.shape), t.shape[:axis], t.shape[axis + 1 :]) for t in inputs}) != 1:
        raise ShapeError(f"sizes {', '.join(str(list(t.shape)) for t in inputs)} do not join along axis {axis}")
    shape = list(inputs[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in inputs)
    values = [tensor.value for tensor in inputs if tensor.value is not None]
    follow = len(values) == len(inputs) and math.prod(shape) <= KNOWN
    return Tensor(kind, tuple(shape), np.concatenate(values, axis) if follow else None)


def _split(call: Call) -> list[Tensor]:
    (x,), (sizes,) = call.inputs(1, 1)
    axis = call.axis("axis", len(x.shape), 0)
    side, count = x.shape[axis], len(call.node.outputs)
    if sizes is not None:
        parts = _whole(sizes, "parts", 1, ELEMENTS)
    else:
        call.number("num_outputs", count, count, count)
        step = -(-side // count)
        parts = [step] * (count - 1) + [side - step * (count - 1)]
    if sum(parts) != side:
        raise ShapeError(f"parts {parts} do not make up {side}")
    return [Tensor(x.type, (*x.shape[:axis], part, *x.shape[axis + 1 :])) for part in parts]


def _slice(call: Call) -> Tensor:
    (x, starts, ends), (which, steps) = call.inputs(3, 2)
    limit = 2**63
    begin, end = _whole(starts, "starts", -limit, limit), _whole(ends, "ends", -limit, limit)
    axes = _axes(which, len(x.shape)) if which is not None else list(range(len(begin)))
    step = _whole(steps, "steps", -1, ELEMENTS) if steps is not None else [1] * len(begin)
    if 0 in step:
        raise ShapeError("its steps hold a 0")
    if not len(begin) == len(end) == len(axes) == len(step) or len(axes) > len(x.shape):
        raise ShapeError("its starts, ends, axes and steps differ in number")
    cuts = [slice(None)] * len(x.shape)
    for axis, *cut in zip(axes, begin, end, step, strict=True):
        cuts[axis] = slice(*cut)
    shape = tuple(len(range(*cut.indices(side))) for cut, side in zip(cuts, x.shape, strict=True))
    return Tensor(x.type, shape, None if x.value is None else x.value[tuple(cuts)])


def _gather(call: Call) -> Tensor:
    x, indices = call.all(2, 2)
    axis = call.axis("axis", len(x.shape), 0)
    _whole(indices, "indices", -x.shape[axis], x.shape[axis] - 1)
    assert indices.value is not None
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    follow = x.value is not None and math.prod(shape) <= KNOWN
    return Tensor(x.type, shape, np.take(x.value, indices.value, axis) if follow and x.value is not None else None)


def _pad(call: Call) -> Tensor:
    (x, pads), (value, which) = call.inputs(2, 2)
    mode = call.choice("mode", "constant", "edge", "reflect")
    axes = _axes(which, len(x.shape))
    widths = _whole(pads, "pads", 0, REACH)
    if len(widths) != 2 * len(axes) or (value is not None and (value.elements != 1 or value.type != x.type)):
        raise ShapeError(f"has {len(widths)} pads for {len(axes)} axes, or no single value to pad with")
    shape = list(x.shape)
    for axis, before, behind in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        if mode == "reflect" and max(before, behind) >= shape[axis]:
            raise ShapeError(f"{max(before, behind)} px cannot be reflected in an axis of {shape[axis]}")
        shape[axis] += before + behind
    return Tensor(_float(x), tuple(shape))


def _resize(call: Call) -> Tensor:
    (x,), (region, scales, sizes) = call.inputs(1, 3)
    call.choice("mode", "nearest", "linear", "cubic")
    call.choice("coordinate_transformation_mode", "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    call.choice("nearest_mode", "round_prefer_floor", "floor", "ceil", "round_prefer_ceil")
    call.choice("keep_aspect_ratio_policy", "stretch")
    call.real("cubic_coeff_a")
    call.real("extrapolation_value")
    call.number("exclude_outside", 0, 1, 0)
    call.number("antialias", 0, 0, 0)
    if region is not None and region.elements:
        raise ShapeError("a region of interest is not allowed")
    scales, sizes = (None if t is not None and not t.elements else t for t in (scales, sizes))
    if (scales is None) == (sizes is None):
        raise ShapeError("needs either scales or sizes")
    if sizes is not None:
        wanted = _whole(sizes, "sizes", 1, ELEMENTS)
    else:
        assert scales is not None
        factors = np.array(_known(scales, "scales"), np.float32)
        if scales.type != "float32" or not ((factors >= 1 / FACTOR) & (factors <= FACTOR)).all():
            raise ShapeError(f"its scales are {factors.tolist()}, not within 1/{FACTOR} to {FACTOR}")
        if len(factors) != len(x.shape):
            raise ShapeError(f"has {len(factors)} scales for {len(x.shape)} axes")
        wanted = [int(np.float32(side) * factor) for side, factor in zip(x.shape, factors, strict=True)]
    if len(wanted) != len(x.shape) or wanted[:2] != list(x.shape[:2]) or len(wanted) != 4:
        raise ShapeError(f"resizes {list(x.shape)} to {wanted}, which is more than height and width of an image")
    if any(new > FACTOR * old for new, old in zip(wanted, x.shape, strict=True)):
        raise ShapeError(f"enlarges {list(x.shape)} to {wanted}, by more than {FACTOR}")
    return Tensor(_float(x), tuple(wanted))


def _regrouped(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    n, c, h, w = _image(x)
    block = call.number("blocksize", 1, FACTOR, 0)
    if call.node.op == "DepthToSpace":
        call.choice("mode", "DCR", "CRD")
        return Tensor(x.type, (n, _part(c, block * block), h * block, w * block))
    return Tensor(x.type, (n, c * block * block, _part(h, block), _part(w, block)))


def _part(side: int, count: int) -> int:
    return side // count if side % count == 0 else _refuse(f"{side} is no multiple of {count}")


RULES: dict[str, Callable[[Call], Tensor | list[Tensor]]] = {
    **dict.fromkeys(
        ("Abs", "Exp", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"), _unary()
    ),
    "LeakyRelu": _unary("alpha"),
    "Add": _elementwise(2, operator.add),
    "Sub": _elementwise(2, operator.sub),
    "Mul": _elementwise(2, operator.mul),
    "Div": _elementwise(2, _divide),
    "Max": _elementwise(KNOWN),
    "Min": _elementwise(KNOWN),
    "Pow": _power,
    "Clip": _clip,
    "Softmax": _softmax,
    "Identity": _identity,
    "Cast": _cast,
    "Constant": _constant,
    "BatchNormalization": _normalise,
    "QuantizeLinear": _quantised,
    "DequantizeLinear": _quantised,
    "Conv": _convolve,
    "ConvTranspose": _deconvolve,
    "AveragePool": _pool,
    "MatMul": _product,
    "Einsum": _einsum,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Shape": _shape,
    "Reshape": _reshape,
    "Expand": _expand,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "SpaceToDepth": _regrouped,
    "DepthToSpace": _regrouped,
}
