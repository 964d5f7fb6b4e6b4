"""What a graph costs on an image of a given size, worked out before anything runs it: a few bytes of ONNX can ask for
terabytes.

Sizes are computed node by node, operator by operator, for one concrete size of the input. Whatever decides on a size
must follow from constants and sizes; what depends on grey levels cannot. A model that needs another operator adds its
rule to `runtime.operators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr  # a hostile graph's names may be megabytes long

from anomalib_gan.runtime.calls import Call, Node, ShapeError, Tensor
from anomalib_gan.runtime.operators import RULES

CONSTANT_BYTES = 16 * 2**20  # of all tensors between the nodes, however small the image
BYTES_PER_PIXEL = 8 * 2**10  # of all of them together, beyond that; a runtime that frees early needs far less
CONSTANT_MACS = 2**28
MACS_PER_PIXEL = 2**19


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
                made = call.run(RULES.get(node.op))
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
