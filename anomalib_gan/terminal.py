"""What the commands show on a terminal: progress on standard error or in place, results on standard output."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import track as rich_track
from rich.table import Table

from anomalib_gan.evaluation_report import overall_rows
from anomalib_gan.runtime.files import write_json

if TYPE_CHECKING:
    from anomalib_gan.records.scoring import Outcome
    from anomalib_gan.runtime.calibration import Calibration
    from anomalib_gan.training import Progress as Round

EVERY = 10.0  # seconds between two lines of progress where there is no terminal
T = TypeVar("T")


def plain(stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False)


def note(text: str) -> None:
    """A line on standard error."""
    plain(stderr=True).print(text)


def track(things: Iterable[T], total: int | None = None, what: str = "images") -> Iterable[T]:
    """The things, with a bar on standard error where that is a terminal."""
    console = Console(stderr=True)
    return rich_track(things, what, total=total, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def training(console: Console) -> Iterator[Callable[[Round], None]]:
    """Shows the rounds of a training that it is called with: a bar on a terminal, else a line every EVERY seconds."""
    bar = Progress(
        "{task.description}", BarColumn(24), TextColumn("{task.fields[text]}"), console=console, transient=True
    )
    task = bar.add_task("training", text="", total=None)
    last = -math.inf

    def report(progress: Round) -> None:
        nonlocal last
        losses = "  ".join(
            f"{who} " + " ".join(f"{term} {value:.3g}" for term, value in terms.items())
            for who, terms in progress.losses.items()
        )
        left = "planning" if progress.left is None else f"{timedelta(seconds=round(progress.left))} left"
        of = f"{progress.step}/{progress.steps}" if progress.steps else f"{progress.step}"
        text = f"step {of}  {losses}  {progress.rate:.3g} steps/s  {left}"
        if console.is_terminal:
            bar.update(task, completed=progress.step, total=progress.steps, text=text)
        elif time.monotonic() - last >= EVERY or progress.step == progress.steps:
            last = time.monotonic()
            console.print(text)

    if console.is_terminal:
        with bar:
            yield report
    else:
        yield report


class Count:
    """How many pieces of a job are done, `step` of `steps`, and the seconds that are `left`, None before any is."""

    def __init__(self, steps: int) -> None:
        self.step, self.steps, self.begun = 0, steps, time.monotonic()

    @property
    def left(self) -> float | None:
        return (time.monotonic() - self.begun) / self.step * (self.steps - self.step) if self.step else None


@contextmanager
def told_in(file: str | os.PathLike[str] | None) -> Iterator[Callable[[str, Round | Count | None], None]]:
    """Tells other programs how a job goes: `file`, if any, is a JSON object, replaced as a whole.

    It holds step, steps (None until planned), seconds_left (None until known) and state: preparing, training (of other
    jobs: working), finishing, then finished, interrupted or failed. What is yielded takes the state and the round;
    rounds of one state are written every EVERY seconds.
    """
    known: dict[str, Any] = {"step": 0, "steps": None, "seconds_left": None, "state": None}
    last = -math.inf

    def tell(state: str, progress: Round | Count | None = None) -> None:
        nonlocal last
        if file is None or (state == known["state"] and time.monotonic() - last < EVERY):
            return
        known["state"], last = state, time.monotonic()
        if progress is not None:
            left = None if progress.left is None else round(progress.left, 1)
            known.update(step=progress.step, steps=progress.steps, seconds_left=left)
        try:
            write_json(file, known)
        except PermissionError:
            if os.name != "nt" or known["state"] == "preparing":  # else somebody just reads it there
                raise

    tell("preparing")
    try:
        yield tell
    except KeyboardInterrupt:
        tell("interrupted")
        raise
    except BaseException:
        tell("failed")
        raise
    tell("finished")


@contextmanager
def working(what: str, file: str | os.PathLike[str] | None) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Shows how far a job is that knows how many pieces it has, by a bar on standard error where that is a terminal,
    and tells it in `file` (`told_in`). What is yielded takes their number, and gives what is to be called with each few
    that are done.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with told_in(file) as tell, bar:

        def begin(total: int) -> Callable[[int], None]:
            count, task = Count(total), bar.add_task("", total=total)

            def done(n: int) -> None:
                count.step += n
                bar.update(task, completed=count.step)
                tell("finishing" if count.step >= total else "working", count)

            return done

        yield begin


@contextmanager
def scoring(total: int) -> Iterator[Callable[[str], None]]:
    """Shows verdicts of `total` images: a bar in a terminal, else a line every EVERY seconds, on standard error."""
    counts: Counter[str] = Counter()
    begun = last = time.monotonic()
    console = Console(stderr=True, highlight=False)
    bar = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=total, told="")

    def count(verdict: str) -> None:
        nonlocal last
        counts[verdict] += 1
        now, done = time.monotonic(), counts.total()
        rate = done / max(now - begun, 1e-9)
        told = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        bar.update(task, completed=done, told=f"{rate:.1f} images/s · {told}")
        if not console.is_terminal and now - last > EVERY:
            last = now
            console.print(f"{done} of {total} images, {rate:.1f}/s, {(total - done) / rate:.0f} s left: {told}")

    with bar:
        yield count


def print_calibration(calibration: Calibration, console: Console, *, default: bool) -> None:
    """The thresholds and what they mean; `default`: they come from what training held back."""
    table = Table("threshold", "value", "normal images above", box=None, pad_edge=False)
    table.add_row("review (image score)", f"{calibration.review:.4g}", f"{calibration.rate:.3%} wanted")
    table.add_row("reject (image score)", f"{calibration.reject:.4g}", f"{calibration.reject_rate:.3%} wanted")
    table.add_row("defect (map)", f"{calibration.pixel:.4g}", f"{calibration.pixel_rate:.3%} wanted")
    console.print(table)
    assuming = ", which assumes independent tiles" if calibration.unit == "tiles" else ""
    console.print(
        f"From {calibration.n} normal {calibration.unit}: they support a false-alarm rate of at most "
        f"{calibration.bound:.2%} at the review threshold (95 % confidence{assuming})."
    )
    for warning in calibration.warnings:
        console.print(f"Warning: {warning}.", markup=False)
    console.print(
        "An image that scores above the review threshold, or shows a region above the defect threshold, should be "
        "looked at; one above the reject threshold looks like hardly any good image did."
    )
    if default:
        console.print(
            "These thresholds come from images taken with the training images; good images from the line where the "
            "model will work are better: anomalib-gan calibrate RUN --good DIR."
        )


def print_outcome(outcome: Outcome, warnings: Iterable[str], console: Console) -> None:
    """How a scored folder looks, the `warnings` of its calibration and where the report is; or how to go on."""
    if outcome.report is None:
        console.print(f"\nInterrupted: {sum(outcome.counts.values())} rows are safe in {outcome.out}.")
        console.print("Run the same command again to go on where this ended.")
        return
    table = Table("verdict", "images", box=None, pad_edge=False)
    for verdict, count in outcome.counts.items():
        table.add_row(verdict, str(count))
    console.print(table)
    if outcome.skipped:
        console.print(f"Files without an image suffix, left out: {outcome.skipped}.")
    if outcome.gone:
        console.print(
            f"Rows of files no longer in the folder, kept but without a say in the exit code: {outcome.gone}."
        )
    for warning in warnings:
        console.print(f"Calibration: {warning}.", markup=False)
    console.print(f"Report: {outcome.report}", soft_wrap=True, markup=False)


def print_evaluation(report: Mapping[str, Any], out: Path, console: Console) -> None:
    """The overall table, what is undefined and why, the notes, and where the files are."""
    table = Table(title=f"Evaluation on {Path(report['dataset']).name}", title_justify="left")
    table.add_column("figure")
    table.add_column("pooled", justify="right")
    table.add_column("mean over images", justify="right")
    for row in overall_rows(report):
        table.add_row(*row)
    console.print(table)
    for name, reason in report["undefined"].items():
        console.print(f"{name} is undefined: {reason}", markup=False)
    for text in report["notes"]:
        console.print(f"note: {text}", markup=False)
    console.print(f"written to {out}", markup=False)
