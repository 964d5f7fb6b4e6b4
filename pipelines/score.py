"""Score a folder: every image gets a map, a score, a verdict, its defects and a row in the results database."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from anomalib_gan.records import outputs as files
from anomalib_gan.records.database import VERDICTS, DefectRecord, InspectionRecord, Records, exclusive
from anomalib_gan.records.outputs import Outputs
from anomalib_gan.records.pictures import Rows, Spool
from anomalib_gan.records.report import write_report
from anomalib_gan.records.tables import write_tables
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import read_json, sha256_file
from anomalib_gan.runtime.image import IMAGE_SUFFIXES, ImageError, Picture, find_images, open_image
from anomalib_gan.runtime.inspector import Inspection, Inspector, InvalidImage
from pipelines.calibrate import rows_of_bar
from pipelines.opening import open_inspector

WRITERS = 2
QUEUE = 4
"""At most so many inspected images wait for being written, and at most files.LARGE pixels of them."""
RACY_NS = 2 * 10**9
"""A file modified less than so long before it was read may have changed since without a new time (FAT: 2 s)."""
HASHED = 2**31
"""Larger files that are no image are not hashed: they are tried again the next time."""
INTERRUPTED = 130


def score(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    maps: bool = True,
    masks: bool = True,
    overlays: bool = True,
    info_bar: Literal["auto"] | int = "auto",
    bits: int | None = None,
    white: float | None = None,
    rescale: bool = False,
    device: str = "auto",
    tile: int = 1024,
    threads: int | None = None,
) -> int:
    """Scores all images of `folder` with the model and the thresholds of `run`; see `score_folder`.

    `info_bar`, `bits` and `white` are those of `runtime.image.open_image`; `rescale`, `device`, `tile` and `threads`
    those of `open_inspector`.
    """
    inspector = open_inspector(run, device=device, tile=tile, threads=threads, rescale=rescale)
    if inspector.calibration is None:
        raise ValueError(f"{run} has no calibration, so no verdicts: run `anomalib-gan calibrate {run}` first")
    inspector.opener = partial(open_image, info_bar=info_bar, bits=bits, white=white)
    card = Path(run) / "card.json"
    return score_folder(
        inspector,
        folder,
        out,
        maps=maps,
        masks=masks,
        overlays=overlays,
        card=read_json(card) if card.exists() else {},
        settings={"info_bar": info_bar, "bits": bits, "white": white, "rescale": rescale},
    )


def score_folder(
    inspector: Inspector,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    maps: bool = True,
    masks: bool = True,
    overlays: bool = True,
    card: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    console: Console | None = None,
) -> int:
    """Inspects all images below `folder` into `out`: results.db, .csv, .parquet, defects.csv, report.html and pictures.

    Killed and started again it goes on: an image whose row and files are there, made from the same bytes by the same
    model, calibration and `settings` (options that change results), is not inspected again. `card` tells the report
    about the model. Returns 0 when all images are accepted, 1 when any is for review, rejected or invalid, 130 after
    Ctrl-C. Raises ValueError when nothing could be run and OSError when the results cannot be written; rows are kept.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    console = console or Console(highlight=False)
    calibration = inspector.calibration
    if calibration is None:
        raise ValueError("the inspector has no calibration: give it one, or there are no verdicts")
    if out == folder:
        raise ValueError(f"the results would lie among the images of {folder}: choose another --out")
    images, skipped = survey(folder, out)
    if not images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"{folder} holds no image ({skipped} other files); images end in {suffixes}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            exclusive(out),
            Records(out / "results.db", folder, inspector.backend.hash, card or {}, calibration.to_json()) as records,
        ):
            outputs = Outputs(out, inspector.backend.scale, maps, masks, overlays)
            outputs.clean()
            job = Job(inspector, calibration, folder, records, outputs, settings or {})
            if not job.run(images):
                console.print(f"\nInterrupted: {sum(records.counts().values())} rows are safe in {out}.")
                console.print("Run the same command again to go on where this ended.")
                return INTERRUPTED
            return _finish(records, out, {_relative(path, folder) for path in images}, skipped, console)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"the disk of {out} is full: free some space, or leave out files (--no-maps)"
        else:
            problem = f"the results cannot be written ({error})"
        raise OSError(f"{problem}; the rows so far are kept, the same command goes on from there") from error


def survey(folder: Path, out: Path) -> tuple[list[Path], int]:
    """(the images of `folder`, how many other files it holds), without hidden files and without what lies in `out`."""
    own = [out] if out.is_relative_to(folder) else [out / name for name in ("maps", "masks", "overlays")]
    images = [path for path in find_images(folder) if not any(path.is_relative_to(place) for place in own)]
    others = 0
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(where, name) not in own]
        others += sum(not n.startswith(".") and Path(n).suffix.lower() not in IMAGE_SUFFIXES for n in names)
    return images, others


@dataclass(frozen=True)
class _Asked:
    """An image on its way: what its file was like just before it was read."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    at: datetime


@dataclass
class Job:
    """One run over a folder. The main thread infers and writes rows, others decode ahead and write files."""

    inspector: Inspector
    calibration: Calibration
    folder: Path
    records: Records
    outputs: Outputs
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        self.pending: dict[Future[InspectionRecord], int] = {}
        self.asked: deque[_Asked] = deque()
        self.spool: Spool | None = None

    def run(self, images: list[Path]) -> bool:
        """Inspects what is not done yet; False after Ctrl-C. Whatever ends it, inspected images are written first."""
        with (
            Reporter(len(images)) as self.reporter,
            ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as self.pool,
        ):
            try:
                with closing(self.inspector.stream(self._sources(images), sink_factory=self._sink)) as results:  # type: ignore[type-var]
                    for result in results:
                        self._accept(result)
                self._settle(0)
            except BaseException as error:
                for future in list(self.pending):
                    with suppress(OSError):
                        self._keep(future)
                if not isinstance(error, KeyboardInterrupt):
                    raise
                return False
            finally:
                if self.spool is not None:
                    self.spool.close()
        return True

    def _sources(self, images: list[Path]) -> Iterator[Path]:
        """The images that are to be inspected, each noted in `asked`."""
        for path in images:
            name, now = _relative(path, self.folder), datetime.now(UTC)
            try:
                info = path.stat()
            except OSError as error:
                self._refuse(
                    _Asked(path, name, 0, 0, now), f"cannot be read ({error.strerror}): check the path and its rights"
                )
                continue
            asked = _Asked(path, name, info.st_size, info.st_mtime_ns, now)
            if name != path.relative_to(self.folder).as_posix():
                self._refuse(asked, "its name is not valid Unicode: rename the file")
                continue
            row = self.records.find(name)
            if row is not None and self._done(row, asked):
                self.reporter.count(row.verdict)
                continue
            if row is not None:
                # Its files are about to be replaced; a kill in between must not leave the old row with new files.
                self.records.drop(name)
            self.asked.append(asked)
            yield path

    def _done(self, row: InspectionRecord, asked: _Asked) -> bool:
        """Was this very file inspected in this very way, and is all that was made of it still there?"""
        made = (row.model, row.calibration, row.settings, row.size)
        if made != (self.records.model, self.records.calibration, self.settings, asked.size) or row.sha256 is None:
            return False
        if not self.outputs.complete(row):
            return False
        read_ns = int(row.scored_at.timestamp() * 1e9)
        if row.mtime_ns == asked.mtime_ns and asked.mtime_ns < read_ns - RACY_NS:
            return True
        try:
            if sha256_file(asked.path) != row.sha256:
                return False
        except OSError:
            return False
        self.records.touch(row.path, asked.size, asked.mtime_ns)
        return True

    def _sink(self, picture: Picture) -> Spool | None:
        """A map too large for the memory goes to the disk."""
        if picture.height * picture.width > files.LARGE:
            self.spool = Spool(self.outputs.out, picture.width)
        return self.spool

    def _accept(self, result: Inspection | InvalidImage) -> None:
        """Hands an inspected image to the writers and takes over what they have finished."""
        asked, spool = self.asked.popleft(), self.spool
        pixels = 0 if isinstance(result, InvalidImage) else result.height * result.width
        self.pending[self.pool.submit(self._write, asked, result, spool)] = pixels
        self.spool = None
        self._settle(QUEUE - 1)

    def _settle(self, most: int) -> None:
        """Waits until at most `most` images wait for being written; puts the rows of those that are."""
        for future in [future for future in self.pending if future.done()]:
            self._keep(future)
        while self.pending and (len(self.pending) > most or sum(self.pending.values()) > files.LARGE):
            for future in wait(self.pending, return_when=FIRST_COMPLETED).done:
                self._keep(future)

    def _keep(self, future: Future[InspectionRecord]) -> None:
        row = future.result()
        self.records.put(row)
        self.pending.pop(future)
        self.reporter.count(row.verdict)

    def _write(self, asked: _Asked, result: Inspection | InvalidImage, spool: Spool | None) -> InspectionRecord:
        """Writes an image's files, all of them before its row; runs in a writer's thread."""
        with closing(spool) if spool is not None else nullcontext():
            if isinstance(result, InvalidImage):
                return self._invalid(asked, result.reason)
            rows = spool.rows if spool is not None else _rows(result)
            write = partial(
                self.outputs.write,
                path=asked.name,
                map=rows,
                height=result.height,
                width=result.width,
                threshold=self.calibration.pixel,
            )
            if not self.outputs.overlays:
                write(image=None)
                return self._row(asked, result)
            try:
                with self.inspector.opener(asked.path) as picture:
                    if picture.sha256 != result.sha256:
                        raise ImageError("the file changed while it was read: inspect it again once it is complete")
                    write(image=picture.rows)
            except ImageError as error:
                return self._invalid(asked, str(error))
            return self._row(asked, result)

    def _row(self, asked: _Asked, result: Inspection) -> InspectionRecord:
        assert result.verdict is not None  # there is a calibration
        areas = [defect.area_um2 for defect in result.defects if defect.area_um2 is not None]
        return InspectionRecord(
            **self._known(asked),
            sha256=result.sha256,
            height=result.height,
            width=result.width,
            score=result.score,
            peak=result.peak,
            verdict=result.verdict,
            defect_count=result.defect_count,
            defect_area=sum(defect.area for defect in result.defects),
            defect_area_um2=None if result.pixel_size is None else float(sum(areas)),
            largest_defect=max((defect.area for defect in result.defects), default=0),
            pixel_size=result.pixel_size,
            warning=result.scale_warning or "",
            notes="; ".join(note for note in result.notes if note != result.scale_warning),
            decode_s=result.timing["decode"],
            inference_s=result.timing["inference"],
            post_s=result.timing["post"],
            defects=[DefectRecord(number=place, **asdict(defect)) for place, defect in enumerate(result.defects)],
        )

    def _invalid(self, asked: _Asked, reason: str) -> InspectionRecord:
        """The row of a file that cannot be inspected; it is tried again if it has no hash: if it still changed."""
        self.outputs.remove(asked.name)
        sha256 = None
        with suppress(OSError):
            info = asked.path.stat()
            if stat.S_ISREG(info.st_mode) and info.st_size <= HASHED:
                sha256 = sha256_file(asked.path)
            if (info.st_size, info.st_mtime_ns) != (asked.size, asked.mtime_ns):
                sha256 = None
        return InspectionRecord(
            **self._known(asked), sha256=sha256, verdict="invalid", reason=reason.removeprefix(f"{asked.path}: ")
        )

    def _known(self, asked: _Asked) -> dict[str, Any]:
        """What every row says, valid or not."""
        return {
            "path": asked.name,
            "size": asked.size,
            "mtime_ns": asked.mtime_ns,
            "scored_at": asked.at,
            "settings": self.settings,
            "review": self.calibration.review,
            "reject": self.calibration.reject,
            "pixel": self.calibration.pixel,
        }

    def _refuse(self, asked: _Asked, reason: str) -> None:
        """The row of a file that is not even opened."""
        self.records.put(self._invalid(asked, reason))
        self.reporter.count("invalid")


class Reporter:
    """Progress on standard error: a bar in a terminal, else a line every ten seconds."""

    def __init__(self, total: int) -> None:
        self.total, self.counts, self.begun = total, dict.fromkeys(VERDICTS, 0), time.monotonic()
        self.told = self.begun
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, told="")

    def __enter__(self) -> Reporter:
        self.bar.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.bar.stop()

    def count(self, verdict: str) -> None:
        """One more image is done."""
        self.counts[verdict] += 1
        now, done = time.monotonic(), sum(self.counts.values())
        rate = done / max(now - self.begun, 1e-9)
        told = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        self.bar.update(self.task, completed=done, told=f"{rate:.1f} images/s · {told}")
        if not self.console.is_terminal and now - self.told > 10:
            self.told = now
            left = (self.total - done) / rate
            self.console.print(f"{done} of {self.total} images, {rate:.1f}/s, {left:.0f} s left: {told}")


def _finish(records: Records, out: Path, images: set[str], skipped: int, console: Console) -> int:
    """Makes tables and report from the database, says where they are and gives the exit code."""
    gone, bad = 0, False
    for row in records.inspections():
        gone += row.path not in images
        bad |= row.path in images and row.verdict != "accept"
    write_tables(records, out)
    report = write_report(records, out, summary={"skipped": skipped, "gone": gone})
    table = Table("verdict", "images", box=None, pad_edge=False)
    for verdict, count in records.counts().items():
        table.add_row(verdict, str(count))
    console.print(table)
    if skipped:
        console.print(f"Files without an image suffix, left out: {skipped}.")
    if gone:
        console.print(f"Rows of files no longer in the folder, kept but without a say in the exit code: {gone}.")
    for warning in records.thresholds["warnings"]:
        console.print(f"Calibration: {warning}.", markup=False)
    console.print(f"Report: {report}", soft_wrap=True, markup=False)
    return int(bad)


def _relative(path: Path, folder: Path) -> str:
    """The path that stands in the results; bytes of a name that are no Unicode are written as \\xNN."""
    return path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def _rows(result: Inspection) -> Rows:
    """The rows of a map that lies in memory."""
    map = result.map
    assert map is not None  # there was no sink
    return lambda top, bottom: map[top:bottom]


def command(
    run: Path = typer.Argument(
        metavar="RUN", help="Folder of a trained and calibrated model, as `train` and `calibrate` made it."
    ),
    folder: Path = typer.Argument(metavar="FOLDER", help="Folder of the images to inspect, with all its sub-folders."),
    out: Path = typer.Option(help="Folder for the results; given again, the job goes on where it ended."),
    maps: bool = typer.Option(True, help="Write the maps: 16-bit TIFF on the fixed scale of normal images."),
    masks: bool = typer.Option(True, help="Write the masks: 255 where the map is above the pixel threshold, else 0."),
    overlays: bool = typer.Option(True, help="Write the overlays: the image under its heat map, defects outlined."),
    info_bar: str = typer.Option("auto", help="Rows at the bottom that are no image; `auto` reads or finds them."),
    bits: int | None = typer.Option(None, help="Significant bits, such as 12 for a 12-bit detector in 16-bit files."),
    white: float | None = typer.Option(None, help="Grey level of white; floating-point TIFFs need it."),
    rescale: bool = typer.Option(False, help="Resample images whose pixel size differs from the training images'."),
    device: str = typer.Option("auto", help="`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."),
    tile: int = typer.Option(1024, help="Side in pixels of the tiles that large images are cut into."),
    threads: int | None = typer.Option(None, help="Processor threads of the network."),
) -> None:
    """Inspect a folder of images: maps, scores, verdicts, defects, tables and a report.

    An image is **accepted**, left for **review** (its score is above the review threshold, or a region of it is above
    the pixel threshold) or **rejected** (its score is above the reject threshold). Open OUT/report.html first;
    results.csv and results.parquet hold a row per image, defects.csv a row per defect.

    Exit code: 0 all accepted, 1 any review, reject or invalid file, 2 nothing could be run. A job that was stopped, by
    Ctrl-C (130) or a power cut, goes on when the same command is given again.
    """
    code = score(
        run,
        folder,
        out=out,
        maps=maps,
        masks=masks,
        overlays=overlays,
        info_bar=rows_of_bar(info_bar),
        bits=bits,
        white=white,
        rescale=rescale,
        device=device,
        tile=tile,
        threads=threads,
    )
    raise typer.Exit(code)
