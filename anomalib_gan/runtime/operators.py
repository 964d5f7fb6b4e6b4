"""What each allowed operator makes of the sizes of its inputs, in RULES.

Operators that are not there are not allowed, nor are attributes that a rule does not read.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from reprlib import repr  # a hostile graph's names may be megabytes long
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime.calls import (
    ELEMENTS,
    FACTOR,
    KNOWN,
    RANK,
    REACH,
    Call,
    Rule,
    ShapeError,
    Tensor,
    axes_of,
    broadcast,
    float_of,
    image_of,
    known,
    refuse,
    same_type,
    whole,
)

# --- elementwise ---------------------------------------------------------------------------------------------------


def _unary(*reals: str) -> Callable[[Call], Tensor]:
    def rule(call: Call) -> Tensor:
        (x,) = call.all(1, 1)
        for name in reals:
            call.real(name)
        return Tensor(float_of(x), x.shape)

    return rule


def _divide(a: int, b: int) -> int:
    """Of sizes; ONNX rounds towards zero and Python down, which differ below zero."""
    return a // b if a >= 0 and b > 0 else refuse(f"divides {a} by {b}")


def _elementwise(count: int, compute: Callable[[Any, Any], Any] | None = None) -> Callable[[Call], Tensor]:
    """2 to `count` inputs of one type; `compute` follows the values of whole numbers."""

    def rule(call: Call) -> Tensor:
        inputs = call.all(2, count)
        kind = same_type(inputs)
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
    float_of(exponent)
    return Tensor(float_of(x), broadcast(x.shape, exponent.shape))


def _clip(call: Call) -> Tensor:
    (x,), bounds = call.inputs(1, 2)
    if any(bound is not None and (bound.type != x.type or bound.shape) for bound in bounds):
        raise ShapeError("its bounds are no single numbers of the input's type")
    return Tensor(float_of(x), x.shape)


def _softmax(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    call.axis("axis", len(x.shape), -1)
    return Tensor(float_of(x), x.shape)


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
    _, channels, _, _ = image_of(x)
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
    wide = float_of(scale) if back else float_of(x)
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
    _, channels, _, _ = image_of(x)
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
    n, c, *sides = image_of(x)
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
    kind = float_of(Tensor(same_type((a, b)), ()))
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
    made = Tensor(float_of(Tensor(same_type(operands), ())), tuple(sides[letter] for letter in right))
    call.workspace = 2 * (made.bytes + sum(operand.bytes for operand in operands))  # transposed before and after
    return made


def _reduce(call: Call) -> Tensor:
    (x,), (axes,) = call.inputs(1, 1)
    keep = call.number("keepdims", 0, 1, 1)
    noop = call.number("noop_with_empty_axes", 0, 1, 0)
    gone = axes_of(axes if axes is None or axes.elements else None, len(x.shape))
    if noop and (axes is None or not axes.elements):
        gone = []
    shape = [1 if axis in gone else side for axis, side in enumerate(x.shape) if keep or axis not in gone]
    return Tensor(float_of(x), tuple(shape))


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
    sides = whole(wanted, "new size", -1, ELEMENTS)
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
    return Tensor(x.type, broadcast(x.shape, whole(wanted, "new size", 1, ELEMENTS)))


def _squeeze(call: Call) -> Tensor:
    (x,), (axes,) = call.inputs(1, 1)
    gone = [a for a, side in enumerate(x.shape) if side == 1] if axes is None else axes_of(axes, len(x.shape))
    if any(x.shape[axis] != 1 for axis in gone):
        raise ShapeError(f"axes {gone} of the size {list(x.shape)} are not single")
    return _moved(x, tuple(side for axis, side in enumerate(x.shape) if axis not in gone))


def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.all(2, 2)
    rank = len(x.shape) + axes.elements
    if rank > RANK:
        raise ShapeError(f"makes {rank} axes")
    new, old = axes_of(axes, rank), iter(x.shape)
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
    kind, rank = same_type(inputs), len(inputs[0].shape)
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
        parts = whole(sizes, "parts", 1, ELEMENTS)
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
    begin, end = whole(starts, "starts", -limit, limit), whole(ends, "ends", -limit, limit)
    axes = axes_of(which, len(x.shape)) if which is not None else list(range(len(begin)))
    step = whole(steps, "steps", -1, ELEMENTS) if steps is not None else [1] * len(begin)
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
    whole(indices, "indices", -x.shape[axis], x.shape[axis] - 1)
    assert indices.value is not None
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    follow = x.value is not None and math.prod(shape) <= KNOWN
    return Tensor(x.type, shape, np.take(x.value, indices.value, axis) if follow and x.value is not None else None)


def _pad(call: Call) -> Tensor:
    (x, pads), (value, which) = call.inputs(2, 2)
    mode = call.choice("mode", "constant", "edge", "reflect")
    axes = axes_of(which, len(x.shape))
    widths = whole(pads, "pads", 0, REACH)
    if len(widths) != 2 * len(axes) or (value is not None and (value.elements != 1 or value.type != x.type)):
        raise ShapeError(f"has {len(widths)} pads for {len(axes)} axes, or no single value to pad with")
    shape = list(x.shape)
    for axis, before, behind in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        if mode == "reflect" and max(before, behind) >= shape[axis]:
            raise ShapeError(f"{max(before, behind)} px cannot be reflected in an axis of {shape[axis]}")
        shape[axis] += before + behind
    return Tensor(float_of(x), tuple(shape))


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
        wanted = whole(sizes, "sizes", 1, ELEMENTS)
    else:
        assert scales is not None
        factors = np.array(known(scales, "scales"), np.float32)
        if scales.type != "float32" or not ((factors >= 1 / FACTOR) & (factors <= FACTOR)).all():
            raise ShapeError(f"its scales are {factors.tolist()}, not within 1/{FACTOR} to {FACTOR}")
        if len(factors) != len(x.shape):
            raise ShapeError(f"has {len(factors)} scales for {len(x.shape)} axes")
        wanted = [int(np.float32(side) * factor) for side, factor in zip(x.shape, factors, strict=True)]
    if len(wanted) != len(x.shape) or wanted[:2] != list(x.shape[:2]) or len(wanted) != 4:
        raise ShapeError(f"resizes {list(x.shape)} to {wanted}, which is more than height and width of an image")
    if any(new > FACTOR * old for new, old in zip(wanted, x.shape, strict=True)):
        raise ShapeError(f"enlarges {list(x.shape)} to {wanted}, by more than {FACTOR}")
    return Tensor(float_of(x), tuple(wanted))


def _regrouped(call: Call) -> Tensor:
    (x,) = call.all(1, 1)
    n, c, h, w = image_of(x)
    block = call.number("blocksize", 1, FACTOR, 0)
    if call.node.op == "DepthToSpace":
        call.choice("mode", "DCR", "CRD")
        return Tensor(x.type, (n, _part(c, block * block), h * block, w * block))
    return Tensor(x.type, (n, c * block * block, _part(h, block), _part(w, block)))


def _part(side: int, count: int) -> int:
    return side // count if side % count == 0 else refuse(f"{side} is no multiple of {count}")


RULES: dict[str, Rule] = {
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
