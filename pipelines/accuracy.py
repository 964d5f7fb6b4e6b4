"""Accuracy: rows that are trained and evaluated on equal budget, what changed images cost, and the proxy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from anomalib_gan import terminal
from anomalib_gan.benchmarking import held_pixels, opener_of, put
from anomalib_gan.opening import card_folder, open_inspector
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json, write_bytes, write_json

DEFAULT = ("detector", "adversarial weight 0", "source mode")
DONE = "benchmark.json"


def accuracy(
    data: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    models: Sequence[str] = DEFAULT,
    seeds: Sequence[int] = (0,),
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    readme: str | os.PathLike[str] | None = None,
    record: str | os.PathLike[str] | None = None,
) -> Path:
    """Trains and evaluates every row with every seed on every data set (MVTec layout): out/accuracy.md and .csv.

    `models` are rows of `anomalib_gan.accuracy.ROWS`, every model of the zoo among them; `minutes` (or `steps`) is each
    training's budget. What is finished is not done again: called again after a kill, it goes on. The table holds all
    that `out` holds; with `readme` it is also put between that file's markers. `record`, a JSON file, gets all that was
    measured; what it holds counts as finished and stands in the table, too, so that others go on where the runs are
    not. Returns the Markdown's path.
    """
    from anomalib_gan.accuracy import FED_BY, ROWS, csv_of, markdown, measured, place_of, read_record, recorded
    from pipelines.calibrate import calibrate
    from pipelines.evaluate import evaluate_dataset
    from pipelines.train import train

    if unknown := [row for row in models if row not in ROWS]:
        raise ValueError(f"no row is called {unknown[0]!r}: choose from {', '.join(ROWS)}")
    console, out = Console(highlight=False), Path(out)
    budget: dict[str, Any] = {"steps": steps} if steps else ({"minutes": minutes} if minutes else {})
    budget |= {"device": device, "threads": threads}
    order = {row: place for place, row in enumerate(ROWS)}
    known = {} if record is None else {_key(one): one for one in read_record(record)}

    def finished() -> list[dict[str, Any]]:
        """All there is, which the record then holds."""
        here = ({**read_json(done), "card": read_json(done.parent / "card.json")} for done in out.glob(f"*/*/{DONE}"))
        together = known | {_key(one): one for one in here}
        found = sorted(together.values(), key=lambda one: (one["data"], order[one["row"]], one["seed"]))
        if record is not None:
            write_json(record, [recorded(one) for one in found])
        return found

    given = {"minutes": minutes, "steps": steps, "threads": threads}
    wanted = {(folder.resolve().name, row, seed) for folder in map(Path, data) for row in models for seed in seeds}
    for one in finished():  # also: a file that cannot be written is told before minutes are spent
        had = one["card"]["settings"]
        if _key(one) in wanted and (other := [k for k, v in given.items() if v is not None and had[k] != v]):
            which = ", ".join(map(str, _key(one)))
            raise ValueError(
                f"{which} was measured with --{other[0]} {had[other[0]]}, and all rows have one budget: give the same, "
                f"or another --out{' and --record' if record else ''}"
            )
    for folder in map(Path, data):
        for row in models:
            name, params = ROWS[row]
            for seed in seeds:
                run = place_of(out, folder, row, seed)
                if (run / DONE).exists() or (folder.resolve().name, row, seed) in known:
                    continue
                console.print(f"{folder.name}: {row}, seed {seed}")
                helper = None
                if row in FED_BY:
                    helper = place_of(out, folder, FED_BY[row], seed)
                    console.print(f"{folder.name}: first {FED_BY[row]}, which feeds it")
                    train(folder, out=helper, model=FED_BY[row], seed=seed, resume=helper.exists(), **budget)
                train(
                    folder, out=run, model=name, params=params, seed=seed, augment_with=helper, resume=run.exists(),
                    **budget,
                )  # fmt: skip
                calibrate(run, device=device, threads=threads, console=Console(quiet=True))
                inspector = open_inspector(run, device=device, threads=threads)
                evaluate = lambda opened, where, folder=folder: evaluate_dataset(opened, folder, where)  # noqa: E731
                told = {"data": folder.resolve().name, "row": row, "seed": seed}
                write_json(run / DONE, told | measured(run, inspector, evaluate, terminal.note))
                finished()
    found = finished()
    text = markdown(found)
    write_bytes(out / "accuracy.md", text.encode())
    write_bytes(out / "accuracy.csv", csv_of(found).encode())
    put(readme, "accuracy", text)
    console.print(text, markup=False)
    return out / "accuracy.md"


def _key(measured: dict[str, Any]) -> tuple[str, str, int]:
    return measured["data"], measured["row"], measured["seed"]


def proxy(run: str | os.PathLike[str], *, threads: int | None = None) -> dict[str, Any]:
    """How well a run's map finds synthetic defects of kinds that training leaves out: {"dense", "whole"}.

    They are laid over the normal pixels that training held back: densely, where the pooled pixel AUROC is taken of the
    map and of each of its parts, and one an image, where it is also asked whether that image is hotter than all others.
    """
    import torch

    from anomalib_gan import checkpoint
    from anomalib_gan import proxy as figures

    if threads:
        torch.set_num_threads(threads)
    model, _ = checkpoint.load_model(run)
    normals = [torch.from_numpy(pixels).float().permute(2, 0, 1)[None] for pixels in held_pixels(run, terminal.note)]
    trials, side = figures.effort(model)
    dense = figures.proxy(model.eval(), normals, trials=trials, side=side)
    print("Pooled pixel AUROC on held-back normal images with synthetic defects unlike those of the training:")
    for name, value in dense.items():
        print(f"{name:<12} {value:.4f}")
    whole = figures.whole(model, normals)
    print("\nHeld-back images against the same with one such defect each (1/2: of twice the size):")
    print(f"{'':<12} pixel AUROC  image AUROC  hit")
    for name, one in [*whole.items(), *([("mean", mean_of(list(whole.values())))] if whole else [])]:
        print(f"{name:<12} {one['pixel']:<11.4f}  {one['image']:<11.4f}  {one['hit']:.2f}")
    return {"dense": dense, "whole": whole}


def mean_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows."""
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


def robustness(
    run: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "runs/benchmark",
    device: str = "auto",
    threads: int | None = None,
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """What a run or bundle loses when the test images of labelled data sets change: out/robustness.md, returned."""
    from anomalib_gan.labelled import find_samples
    from anomalib_gan.robustness import markdown, robustness

    inspector = open_inspector(run, device=device, threads=threads)
    inspector.opener = opener_of(read_card(card_folder(Path(run))), terminal.note)
    lines = []
    for folder in map(Path, data):
        samples, notes = find_samples(folder)
        for note in notes:
            terminal.note(note)
        found = robustness(inspector, samples, progress=terminal.track)
        lines += [f"**{folder.resolve().name}**", "", markdown(found)]
    text = "\n".join(lines)
    write_bytes(Path(out) / "robustness.md", text.encode())
    put(readme, "robustness", text)
    print(text)
    return Path(out) / "robustness.md"


def dirty(
    data: str | os.PathLike[str],
    *,
    share: float = 0.05,
    out: str | os.PathLike[str] = "runs/benchmark",
    seed: int = 0,
    minutes: float | None = None,
    steps: int | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    """The detector trained with and without defective images among the normal ones, as rows of `accuracy`.

    The two data sets, of links, lie in out/dirty-DATA; see `anomalib_gan.robustness.contaminated`.
    """
    from anomalib_gan.robustness import contaminated

    place = Path(out) / f"dirty-{Path(data).resolve().name}"
    both = contaminated(data, place / "data", share, seed)
    return accuracy(
        both, out=place, models=("detector",), seeds=(seed,), minutes=minutes, steps=steps, device=device,
        threads=threads,
    )  # fmt: skip
