"""One node of a graph as rules see it: the sizes of its inputs, and the checks that every rule needs.

The graph may be hostile: a ShapeError says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from reprlib import repr  # a hostile graph's names may be megabytes long
from typing import Any

from numpy.typing import NDArray

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


@dataclass
class Call:
    """One node with its inputs: what rules ask, with the checks that every rule needs."""

    node: Node
    tensors: Mapping[str, Tensor]
    macs: int = 0
    workspace: int = 0  # bytes beside the outputs
    read: set[str] = field(default_factory=set)  # attributes that the rule knows

    def run(self, rule: Rule | None) -> list[Tensor]:
        """The node's outputs, by the rule of its operator."""
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
        return self.number(name, -rank, rank - 1, default) % rank if rank else refuse("its input has no axes")


def refuse(reason: str) -> Any:
    raise ShapeError(reason)


def known(tensor: Tensor, what: str) -> list[Any]:
    """The values of a tensor that decides on a size, flat."""
    if tensor.value is None:
        raise ShapeError(f"its {what} cannot be told from constants and the image's size")
    return list(tensor.value.ravel().tolist())


def whole(tensor: Tensor, what: str, low: int, high: int) -> list[int]:
    if tensor.type not in ("int64", "int32"):
        raise ShapeError(f"its {what} are {tensor.type}, not whole numbers")
    values = known(tensor, what)
    if not all(low <= value <= high for value in values):
        raise ShapeError(f"its {what} are {values}, not within {low} to {high}")
    return values


def axes_of(tensor: Tensor | None, rank: int) -> list[int]:
    """Different axes in 0..rank-1; all where there is no tensor."""
    if tensor is None:
        return list(range(rank))
    axes = [axis % rank for axis in whole(tensor, "axes", -rank, rank - 1)] if rank else []
    if len(set(axes)) != len(axes):
        raise ShapeError(f"its axes {axes} repeat one")
    return axes


def same_type(tensors: Iterable[Tensor]) -> str:
    types = {tensor.type for tensor in tensors}
    if len(types) != 1:
        raise ShapeError(f"its inputs have the types {', '.join(sorted(types))}")
    return types.pop()


def float_of(tensor: Tensor) -> str:
    return tensor.type if tensor.type in FLOATS else refuse(f"its input is {tensor.type}, not float")


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


def image_of(tensor: Tensor) -> tuple[int, int, int, int]:
    """(N, C, H, W) of the input of a convolution or the like."""
    float_of(tensor)
    if len(tensor.shape) != 4:
        raise ShapeError(f"its input has the size {list(tensor.shape)}, not (N, C, H, W)")
    n, c, h, w = tensor.shape
    return n, c, h, w


Rule = Callable[[Call], Tensor | list[Tensor]]
