"""What a trained generator is good for: a sub-command for each use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines import options

if TYPE_CHECKING:
    from anomalib_gan.transfer import Row

app = typer.Typer(
    no_args_is_help=True, help="See what a trained generator can do, measured: a sub-command for each use."
)


@app.callback()
def explore() -> None:
    """See what a trained generator can do, measured: a sub-command for each use."""


def transfer(
    run: str | os.PathLike[str],
    labelled: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    labels: Sequence[int] | None = None,
    repeats: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> list[Row]:
    """What `anomalib_gan.transfer.compare` finds for a run and class folders of crops: out/transfer.md and .json."""
    import torch

    from anomalib_gan import checkpoint, models, terminal
    from anomalib_gan.runtime.card import levels, read_card
    from anomalib_gan.runtime.files import write_bytes, write_json
    from anomalib_gan.transfer import COUNTS, REPEATS, STEPS, compare, markdown, read_crops, to_json

    if threads:
        torch.set_num_threads(threads)
    model, stored = checkpoint.load_model(run)
    spec, card = stored["spec"], read_card(run)
    bits, white = levels(card, None, None, tell=terminal.note)

    def fresh(seed: int) -> models.Model:
        torch.manual_seed(seed)
        return models.build(spec["name"], **spec["params"])

    crops = read_crops(labelled, model, bits=bits, white=white)
    given: dict[str, Any] = {
        "counts": sorted(set(labels or COUNTS)),
        "repeats": repeats or REPEATS,
        "steps": steps or STEPS,
    }
    flips = bool(card.get("settings", {}).get("flips", True))
    rows = compare(
        model, fresh, crops, **given, seed=seed, flips=flips, progress=lambda draws: terminal.track(draws, what="draws")
    )  # fmt: skip
    about = {"run": str(Path(run).absolute()), "model": spec, "hash": stored["hash"], "trained_steps": stored["steps"]}
    write_json(Path(out) / "transfer.json", {**about, "settings": {**given, "seed": seed}, **to_json(rows, crops)})
    write_bytes(Path(out) / "transfer.md", markdown(rows, crops).encode())
    return rows


@app.command("transfer")
def transfer_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained model with an encoder or a critic.")],
    labelled: Annotated[Path, typer.Option(metavar="DIR", help="A folder of crops for each class of defects.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where transfer.md and transfer.json go.")],
    labels: Annotated[str, typer.Option(metavar="N,N,...", help="Labels a class.")] = "5,10,20",
    repeats: Annotated[int, typer.Option(min=2, help="Draws of labels.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the fine-tuning.")] = 60,
    seed: Annotated[int, typer.Option(help="Of draws, untrained networks and fine-tuning.")] = 0,
    threads: options.Threads = None,
) -> None:
    """Compare a trained encoder and critic with untrained ones as features for naming defects from few labels.

    Each network is used as it is, with a logistic regression on its features, and then trained on a little further;
    the same network untrained goes the same two ways on the same labels. Cut the crops about as large as
    a training patch, with the defect in their middle, which is all that is named.
    """
    from anomalib_gan import terminal

    counts = [int(one) if one.strip().isdecimal() else 0 for one in labels.split(",")]
    if min(counts) < 1:
        raise typer.BadParameter(
            f"{labels!r} is no list of numbers above 0: write such as 5,10,20", param_hint="--labels"
        )
    transfer(run, labelled, out=out, labels=counts, repeats=repeats, steps=steps, seed=seed, threads=threads)
    console = terminal.plain()
    console.print((out / "transfer.md").read_text(encoding="utf-8"), markup=False)
    console.print(f"written to {out}")
