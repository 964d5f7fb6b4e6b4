"""Export: a trained run leaves as a bundle, which production lines embed without torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from anomalib_gan import __version__, gates, terminal
from anomalib_gan.data import Normal
from anomalib_gan.export import (
    Coloured,
    Drawn,
    Feed,
    Parts,
    TorchBackend,
    convolutions,
    generator_graph,
    model_graph,
    parts_graph,
    prior_graph,
    quantised,
)
from anomalib_gan.gates import LIMITS, GateError
from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.bundle import (
    GENERATOR,
    MODEL,
    PARTS,
    PRIOR,
    Manifest,
    Precision,
    check_target,
    fingerprint,
    write,
)
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.graphs import Kind, check_graph
from anomalib_gan.runtime.session import OnnxBackend, OnnxGraph
from pipelines import options

CARD = ("card.json", "split.json", "history.jsonl", "curves.png", "reconstructions.png", "samples.png")
EVALUATIONS = ("evaluation/*/evaluation.json", "evaluation/*/evaluation.md", "evaluation/*/*.png")


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    parts: bool | None = None,
    generator: bool = False,
    good: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    console: Console | None = None,
) -> Manifest:
    """Writes the finished model of `run`, with its calibration where it has one, as the bundle `out`.

    Before that the graph must agree with the trained model on crops of normal images, clean and spoilt: see
    `gates.LIMITS`. They are those that the run was trained on or held back, or the images of the folder `good`. `parts`
    adds what the map is made of (None: where the model tells it), `generator` the generator and what it draws from.
    `threads` bounds the processor threads. GateError: the graph is too far from the model. ValueError: the model is not
    exportable, or an image is missing. FileExistsError: `out` exists, and is no bundle or not to be replaced.
    """
    run, console = Path(run), console or terminal.plain()
    check_target(out, overwrite)
    inspector = open_inspector(run, device="cpu", threads=threads)
    trained, calibration = inspector.backend, inspector.calibration
    if not isinstance(trained, TorchBackend):
        raise ValueError(f"{run} is a bundle already: export the run that it comes from")
    model, card = trained.graph.model, read_card(run)
    if not card:
        raise ValueError(f"{run} has no {CARD[0]}, which tells what it was trained on: restore it, or train again")
    manifest = describe(card, trained, precision)
    images = gates.normals(card, good)
    feeds = gates.feeds(images, trained)

    def same(kind: Kind, data: bytes, module: nn.Module, given: Sequence[Feed]) -> dict[str, float]:
        return gates.same_outputs(module, OnnxGraph(check_graph(data, manifest, kind), threads=threads), given)

    for graph, special in candidates(manifest, trained, images, feeds):
        backend = OnnxBackend(check_graph(graph, manifest), manifest, device="cpu", threads=threads)
        agreement = gates.measure(trained, backend, images, calibration)
        graphs, figures = {MODEL: graph}, {**agreement.to_json(), **special}
        if not (failures := agreement.failures(precision)):
            break
    show(agreement, precision, console)
    if failures:
        raise GateError(f"{'; '.join(failures)}: nothing was written; choose another --precision")
    if hasattr(model, "parts") if parts is None else parts:
        graphs[PARTS] = parts_graph(model)
        figures["parts"] = same("parts", graphs[PARTS], Parts(model), feeds[:4])
    if generator:
        graphs[GENERATOR] = generator_graph(model)
        figures["generator"] = same("generator", graphs[GENERATOR], Drawn(model), gates.codes(model))
    if generator and getattr(model, "field", None) is not None:  # else the prior is N(0, I)
        graphs[PRIOR] = prior_graph(model)
        figures["prior"] = same("prior", graphs[PRIOR], Coloured(model), gates.codes(model, 17, 19))

    own = None if calibration is None else replace(calibration, model=manifest.hash)
    manifest = replace(manifest, gates=figures, calibration=own)
    manifest = write(out, manifest, {**graphs, **card_files(run)}, overwrite=overwrite)
    tell(manifest, out, console)
    return manifest


def candidates(
    manifest: Manifest, trained: TorchBackend, images: Sequence[Normal], feeds: Sequence[Feed]
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """model.onnx, the fastest first, and what the manifest says of it."""
    model = trained.graph.model
    if manifest.precision != "int8":
        yield model_graph(model, manifest.precision), {}
        return
    graph = model_graph(model)
    found = convolutions(model, graph)
    for small in gates.plans(gates.harms(graph, found, manifest, images, trained)):
        yield quantised(graph, feeds, small), {"int8_convolutions": len(small), "of_convolutions": len(found)}


def describe(card: Mapping[str, Any], backend: TorchBackend, precision: Precision) -> Manifest:
    """The manifest of a run, without figures, calibration and files."""
    key = backend.hash
    return Manifest(
        name=card["name"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        spec=card["spec"],
        hash=key if precision == "fp32" else hashlib.sha256(f"{key} {precision}".encode()).hexdigest(),
        precision=precision,
        channels=backend.channels,
        stride=backend.stride,
        smallest=backend.smallest,
        halo=backend.halo,
        map_scale=backend.scale,
        pixel_size=backend.pixel_size,
        white=card["data"]["white"],
        bits=card["settings"].get("bits"),
        gates={},
        calibration=None,
    )


def card_files(run: Path) -> dict[str, bytes | Path]:
    """What tells how the model was trained and how good it is, by its path within a bundle."""
    found = [run / name for name in CARD] + [path for pattern in EVALUATIONS for path in sorted(run.glob(pattern))]
    return {f"card/{path.relative_to(run).as_posix()}": path for path in found if path.is_file()}


def show(agreement: gates.Agreement, precision: Precision, console: Console) -> None:
    """The figures beside what they must be."""
    table = Table(f"{precision} against the trained model", "figure", "wanted", box=None, pad_edge=False)
    for name, value in agreement.to_json().items():
        if isinstance(value, float):
            limit = " ".join(
                f"{part:g}" if isinstance(part, float) else part for part in LIMITS[precision].get(name, ())
            )
            table.add_row(name.replace("_", " "), f"{value:.5g}", limit)
    console.print(table)
    console.print(
        f"On {agreement.crops} crops of normal images, half of them spoilt; differences in units of the normal map's "
        f"scale, verdicts by {agreement.thresholds}."
    )


def tell(manifest: Manifest, out: str | os.PathLike[str], console: Console) -> None:
    """Where the bundle is, how to pin it, and what its thresholds are worth."""
    size = sum(file.bytes for file in manifest.files.values())
    console.print(
        f"{out}: {', '.join(sorted(name for name in manifest.files if '/' not in name))}, {size / 1e6:.3g} MB"
    )
    console.print(f"fingerprint {fingerprint(manifest)}")
    again = f"anomalib-gan calibrate {out} --good DIR"
    if manifest.calibration is None:
        console.print(f"The run is not calibrated, so the bundle gives no verdicts yet: {again}.")
    elif manifest.precision != "fp32":
        console.print(
            f"The thresholds are the run's, scored in fp32; ones from good images of the line are better: {again}."
        )


def known_precision(text: str) -> Precision:
    """The value of --precision."""
    if text not in get_args(Precision):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(get_args(Precision))}", param_hint="--precision")
    return cast(Precision, text)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model, as `train` made it.")],
    out: Annotated[Path, typer.Option("--out", help="New folder for the bundle.")],
    precision: Annotated[
        Any,
        typer.Option(
            parser=known_precision,
            metavar="|".join(get_args(Precision)),
            help="`fp16`: the networks in half, for GPUs; `int8`: their convolutions in 8 bits, for processors.",
        ),
    ] = "fp32",
    parts: Annotated[
        bool | None,
        typer.Option(
            "--parts/--no-parts",
            help="Also what the map is made of: reconstruction, components, code; default: where the model tells it.",
            show_default=False,
        ),
    ] = None,
    generator: Annotated[bool, typer.Option("--generator", help="Also the generator, and what it draws from.")] = False,
    good: Annotated[
        Path | None,
        typer.Option(
            help="Folder of normal images to compare on and, for `int8`, to take ranges from; default: the training's."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")] = False,
    threads: options.Threads = None,
) -> None:
    """Write a trained model as a bundle: a folder that finds defects without torch, anywhere ONNX Runtime runs.

    Before anything is written, the exported graph is compared with the trained model on crops of normal images, clean
    and with synthetic defects. Where it is too far off, nothing is written.

    `score`, `evaluate` and `calibrate` take the bundle in place of the run.
    """
    export(
        run, out, precision=precision, parts=parts, generator=generator, good=good, overwrite=overwrite,
        threads=threads,
    )  # fmt: skip
