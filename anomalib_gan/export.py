"""A trained run behind the protocol that every inspector speaks, and as the ONNX graphs of a bundle.

Three precisions: "fp32"; "fp16", the networks in half, exported as such by torch; "int8", the networks' convolutions
quantised. What lies between the networks stays float32 in all of them: grey levels of 16 bits overflow a half, and the
variances of SSIM cancel.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anomalib_gan.checkpoint import load_model
from anomalib_gan.model import Model
from anomalib_gan.runtime.bundle import MODEL

OPSET = 18


def scaled(grey: Tensor, white: float | Tensor) -> Tensor:
    """Grey levels in [0, white] -> [-1, 1], the range in which models live."""
    return grey * (2 / white) - 1


def usable(device: str) -> str:
    """`device` itself or, of "auto", CUDA where it is there; a ValueError where torch cannot compute on it."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device {device!r} cannot be used ({reason}): choose another, such as --device cpu"
        ) from error
    return name


class Shell(nn.Module):
    """A model, by one of the things that it does: its `forward` is that alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model


class FullMap(Shell):
    """Raw grey levels (N, C, H, W) and `white`, the level of full brightness -> finished map (N, 1, H, W)."""

    def forward(self, image: Tensor, white: float) -> Tensor:
        return self.model.anomaly_map(scaled(image, white))


class TorchBackend:
    """A trained model as the Inspector's backend, in eval mode. Attributes as in `runtime.inspector.Backend`.

    `device` is a torch device or "auto": CUDA where it is there.
    """

    def __init__(
        self,
        model: Model,
        *,
        hash: str,
        scale: tuple[float, float],
        pixel_size: float | None = None,
        device: str = "auto",
    ) -> None:
        self.device = usable(device)
        self.graph = FullMap(model).eval().requires_grad_(False).to(self.device)
        self.dim, self.channels, self.stride, self.halo = model.dim, model.channels, model.stride, model.halo
        self.smallest = max(model.stride, model.smallest)
        self.hash, self.scale, self.pixel_size = hash, scale, pixel_size

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, device: str = "auto", known: str | None = None) -> TorchBackend:
        """The run's model; a ValueError says what is wrong with the run folder. `known`: see `load_model`."""
        model, stored = load_model(Path(run), known=known)
        return cls(
            model,
            hash=stored["hash"],
            scale=(float(stored["map_scale"][0]), float(stored["map_scale"][1])),
            pixel_size=stored.get("pixel_size"),
            device=device,
        )

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        """(N, C, H, W) float32 raw grey levels, H and W multiples of `stride` -> (N, 1, H, W) float32; volumes alike.

        MemoryError: the device's memory does not hold a tile of this size.
        """
        with memory_told(self.device, *image.shape[2:]):
            return self.graph(torch.from_numpy(image).to(self.device), white).float().cpu().numpy()


@contextmanager
def memory_told(device: str, *sizes: int) -> Iterator[None]:
    """A window of so many pixels that the device's memory does not hold becomes a MemoryError with the mend."""
    try:
        yield
    except RuntimeError as error:  # on the processor a failed allocation has no type of its own
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        size = "x".join(map(str, sizes))
        raise MemoryError(f"{device} cannot hold a window of {size} px: lower --tile") from error


# --- graphs --------------------------------------------------------------------------------------------------------

Feed = dict[str, NDArray[np.float32]]
"""What a graph is given, by the names of its inputs."""


class Parts(Shell):
    """As `FullMap`, for what the map is made of: `Model.parts` by the order of its names, the reconstruction in grey
    levels.
    """

    def forward(self, image: Tensor, white: Tensor) -> tuple[Tensor, ...]:
        found = optional(self.model, "parts")(scaled(image, white))
        return tuple((one + 1) * (white / 2) if name == "reconstruction" else one for name, one in found.items())


class Drawn(Shell):
    """Codes (N, code, h, w) -> images (N, C, H, W) in [0, 1]."""

    def forward(self, z: Tensor) -> Tensor:
        return ((optional(self.model, "generate")(z) + 1) / 2).clamp(0, 1)


class Coloured(Shell):
    """White noise (N, code, h, w) -> codes as normal images have them, of a somewhat smaller field."""

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = optional(self.model, "coloured")(z)
        return found


def optional(model: Model, name: str) -> Any:
    """What not every model has: `parts`, `generate`, `code`, `coloured`; a ValueError where this one has it not."""
    found = getattr(model, name, None)
    if found is None:
        raise ValueError(f"{type(model).__name__} has no {name!r}: export without it")
    return found


def model_graph(model: Model, precision: Literal["fp32", "fp16"] = "fp32") -> bytes:
    """model.onnx of a bundle: image (N, C, H, W) raw grey levels, white -> anomaly_map (N, 1, H, W), finished.

    The model lies on the processor. A ValueError says why it is not exportable.
    """
    if model.exportable is not True:
        raise ValueError(f"not exportable: {model.exportable or 'this model has no graph of fixed operators'}")
    shell = FullMap(halved(model) if precision == "fp16" else model)
    return _tidy(_exported(shell, *_image_inputs(model), ["anomaly_map"]))


def parts_graph(model: Model) -> bytes:
    """parts.onnx of a bundle: the inputs of `model_graph` -> reconstruction, code and the map's components, float32."""
    example, shapes = _image_inputs(model)
    with torch.no_grad():
        names = list(optional(model, "parts")(scaled(example[0], example[1])))
    return _tidy(_exported(Parts(model), example, shapes, names))


def generator_graph(model: Model) -> bytes:
    """generator.onnx of a bundle: z (N, code, h, w) -> image (N, C, H, W) in [0, 1], float32."""
    optional(model, "generate")
    z = torch.zeros(2, optional(model, "code"), 3, 4)
    return _tidy(_exported(Drawn(model), (z,), {"z": {0: Dim("N"), 2: Dim("h"), 3: Dim("w")}}, ["image"]))


def prior_graph(model: Model) -> bytes:
    """prior.onnx of a bundle: z (N, code, h, w), white noise -> code, float32, as the generator takes them."""
    z = torch.zeros(2, optional(model, "code"), 23, 24)
    sides = {0: Dim("N"), 2: Dim("h", min=16), 3: Dim("w", min=16)}
    return _tidy(_exported(Coloured(model), (z,), {"z": sides}, ["code"]))


def _image_inputs(model: Model) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """An example of (image, white), larger than the smallest image, and what of their shapes is free."""
    stride, least = model.stride, -(-model.smallest // model.stride)
    height, width = Dim("h", min=least), Dim("w", min=least)
    image = torch.zeros(2, model.channels, (least + 2) * stride, (least + 3) * stride)
    return (image, torch.tensor(255.0)), {"image": {0: Dim("N"), 2: stride * height, 3: stride * width}, "white": {}}


def _exported(
    module: nn.Module, example: tuple[Tensor, ...], shapes: dict[str, Any], outputs: list[str]
) -> onnx.ModelProto:
    """The module as ONNX, with batch norm folded into convolutions and constants computed."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about its own insides
            program = torch.onnx.export(
                module.eval(),
                example,
                input_names=list(shapes),
                output_names=outputs,
                opset_version=OPSET,
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        raise ValueError(f"not exportable: torch cannot write the model as a graph ({cause})") from error
    assert program is not None
    return program.model_proto


def _tidy(model: onnx.ModelProto) -> bytes:
    """The graph without what says where it was made, its axes named after the manifest's."""
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del one.metadata_props[:]
        one.ClearField("doc_string")
    del graph.value_info[:]
    graph.name = "detector"
    for one in (*graph.input, *graph.output):
        axes = "Nchw" if one.name in ("z", "code") else "NCHW"
        for axis, side in zip(axes, one.type.tensor_type.shape.dim, strict=False):
            if not side.HasField("dim_value"):
                side.dim_param = axis
    kept = [one for one in model.opset_import if one.domain in ("", "ai.onnx")]  # the quantiser adds others
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model.SerializeToString(deterministic=True)


# --- precisions ----------------------------------------------------------------------------------------------------


def halved(model: Model) -> Model:
    """A copy whose networks compute in half precision; they take and give float32, and all else stays that."""
    copy = deepcopy(model)
    for net in networks(copy):
        fold(net)  # in float32, lest small variances vanish
        net.half()
        net.register_forward_pre_hook(lambda _net, given: _cast(given, torch.float16))
        net.register_forward_hook(lambda _net, _given, found: _cast(found, torch.float32))
    return copy


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with parameters that are called: E, G and D, say, and each of a list of networks."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from networks(child)
        elif any(True for _ in child.parameters()):
            yield child


def fold(net: nn.Module) -> None:
    """Takes batch norms that follow convolutions into these, in place; the net is in eval mode and stays so."""
    for chain in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for i, (conv, norm) in enumerate(pairwise(list(chain))):
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                chain[i] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                chain[i + 1] = nn.Identity()


def _cast(value: Any, to: torch.dtype) -> Any:
    """Tensors of floating point, also within tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        return type(value)(_cast(one, to) for one in value)
    if isinstance(value, dict):
        return {name: _cast(one, to) for name, one in value.items()}
    return value.to(to) if isinstance(value, Tensor) and value.is_floating_point() else value


def quantised(graph: bytes, feeds: Sequence[Feed], nodes: Sequence[str]) -> bytes:
    """The graph of `model_graph` with the convolutions `nodes` in 8 bits; `feeds` are normal images, which the ranges
    of the activations come from.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self.left, None)

    source = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(source, {"onnx.quant.pre_process": "onnxruntime.quant"})  # by torch; lest it be advised
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        quantize_static(
            source,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: with 8, processors without VNNI saturate and find other scores
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return _tidy(onnx.load(path))


def convolutions(model: Model, graph: bytes) -> dict[str, str]:
    """Those of the networks in a graph of `model_graph` that 8 bits may suit, by name, and what each gives.

    Not the last ones: their answers to defects lie far outside of what normal images show. Nor those of the shell.
    ValueError where there are none.
    """
    weights = {f"model.{name}" for name, _ in model.named_parameters()}
    behind: set[str] = set()  # tensors that a later convolution depends on
    found: dict[str, str] = {}
    for node in reversed(onnx.load_model_from_string(graph).graph.node):
        ours, needed = node.op_type == "Conv" and node.input[1] in weights, not behind.isdisjoint(node.output)
        if ours and needed:
            found[node.name] = node.output[0]
        if ours or needed:
            behind.update(node.input)
    if not found:
        raise ValueError("int8 has no convolution to quantise in this model: choose fp32 or fp16")
    return dict(reversed(found.items()))
