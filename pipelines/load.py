"""Load: how long the pages of the dashboard take while many people work with it; `anomalib-gan benchmark dashboard`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomalib_gan import speed_report, terminal
from anomalib_gan.benchmarking import between, put
from anomalib_gan.machine import machine
from anomalib_gan.records.database import exclusive
from anomalib_gan.runtime.files import write_bytes


def load(
    bundle: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    sessions: int = 20,
    seconds: float = 60.0,
    pause: float = 5.0,
    out: str | os.PathLike[str] = "runs/benchmark",
    readme: str | os.PathLike[str] | None = None,
) -> Path:
    """Browsers at the dashboard, with a calibrated bundle over a database of its own: out/load.md, returned.

    What the sessions do is told in `anomalib_gan.load`. `images`: a folder of the bundle's material. With `readme` the
    table also goes between that file's markers. OSError where Chromium is missing or the dashboard does not start.
    """
    from anomalib_gan.load import Plan, markdown, prepare, run

    if readme is not None:  # before minutes are spent
        between(Path(readme).read_text(encoding="utf-8"), "load", "")
    plan, out = Plan(sessions, seconds, pause), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".load"
    with exclusive(out):
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        try:
            prepare(scratch, Path(bundle), Path(images), plan)
            loaded = run(scratch, [sys.executable, "-m", "pipelines.cli"], plan, terminal.note)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    words = ["anomalib-gan", "benchmark", "dashboard", Path(bundle).name, "--images", Path(images).name]
    words += ["--sessions", str(sessions), "--seconds", f"{seconds:g}", "--pause", f"{pause:g}"]
    text = markdown(loaded, plan, speed_report.origin(machine()), shlex.join(words))
    write_bytes(out / "load.md", text.encode())
    put(readme, "load", text)
    print(text)
    return out / "load.md"


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A calibrated bundle, as `export` made it.")],
    images: Annotated[Path, typer.Option(help="Folder of images of the material.")],
    sessions: Annotated[int, typer.Option(min=1, help="People at browsers.")] = 20,
    seconds: Annotated[float, typer.Option(min=1, help="How long they work.")] = 60.0,
    pause: Annotated[float, typer.Option(min=0, help="Seconds on average that each looks before the next key.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("runs/benchmark"),
    readme: Annotated[Path | None, typer.Option(help="File between whose markers the table also goes.")] = None,
) -> None:
    """Let many people work with the dashboard at once, in browsers on this machine: leave it alone meanwhile.

    They go through images and judge them, work off the review queue, look at production and reports, over a database
    made for it in OUT and removed afterwards. Timed is what lies between a key and the page that has followed, by the
    clock of the browser; memory and processor time of the server are told, and errors. Needs Chromium and the extras
    `dashboard` and `dev`. Writes OUT/load.md.
    """
    load(bundle, images, sessions=sessions, seconds=seconds, pause=pause, out=out, readme=readme)
