"""Inspects a folder: every image gets a map, a score, a verdict, its defects and a row in the results database.

Stopped at any moment, the same call goes on where it ended.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from anomalib_gan.records import outputs as files
from anomalib_gan.records.database import DefectRecord, InspectionRecord, Records, exclusive
from anomalib_gan.records.outputs import Outputs
from anomalib_gan.records.pictures import Rows, Spool
from anomalib_gan.records.report import write_report
from anomalib_gan.records.tables import write_tables
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.files import sha256_file
from anomalib_gan.runtime.image import IMAGE_SUFFIXES, ImageError, Picture, find_images
from anomalib_gan.runtime.inspection import Inspection, InvalidImage
from anomalib_gan.runtime.inspector import Inspector

LANES = 2
"""So many images are inspected at a time where the backend gains from it: one is decoded and judged while another is
inferred."""
WRITERS = 4
"""More than cores, for most of their time goes into waiting for the disk."""
QUEUE = 6
"""At most so many inspected images wait for being written, and at most files.LARGE pixels of them."""
KEPT = 16 * 2**20
"""Decoded images up to this size (bytes) are kept for their overlay; larger ones are read again."""
RACY_NS = 2 * 10**9
"""A file modified less than so long before it was read may have changed since without a new time (FAT: 2 s)."""
HASHED = 2**31
"""Larger files that are no image are not hashed: they are tried again the next time."""

Progress = Callable[[int], AbstractContextManager[Callable[[str], None]]]
"""Called with the number of images: a context whose value is called with each verdict as soon as it stands."""


@dataclass(frozen=True)
class Outcome:
    """How a job over a folder ended, and what then lay in `out`.

    counts: rows by verdict · alarm: any image of the folder is for review, rejected or invalid · skipped: files without
    an image suffix · gone: rows of files no longer in the folder · report: its path, None after Ctrl-C, which leaves
    only the rows · seconds: what threads spent on "decode", "inference", "post", "types" (where defects are named),
    "writing" (the files of an image), "rows" (of the database) and "report" (with the tables); since threads overlap,
    more than the time that passed.
    """

    out: Path
    counts: dict[str, int]
    alarm: bool = False
    skipped: int = 0
    gone: int = 0
    report: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """The exit code of a command: 0 all accepted, 1 not all, 130 after Ctrl-C."""
        return 130 if self.report is None else int(self.alarm)


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
    database: str | os.PathLike[str] | None = None,
    progress: Progress = lambda _images: nullcontext(lambda _verdict: None),
) -> Outcome:
    """Inspects all images below `folder` into `out`: results.db, .csv, .parquet, defects.csv, report.html and pictures.

    Killed and started again it goes on: an image whose row and files are there, made from the same bytes by the same
    model, calibration and `settings` (options that change results), is not inspected again. `card` tells the report
    about the model. `database`: a SQLite file or the URL of a PostgreSQL database that several folders share, in the
    place of out/results.db. Raises ValueError when nothing could be run and OSError when the results cannot be written;
    rows are kept.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
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
            Records(
                out / "results.db" if database is None else database,
                folder,
                inspector.backend.hash,
                card or {},
                calibration.to_json(),
                out=out,
            ) as records,
        ):
            outputs = Outputs(out, inspector.backend.scale, maps, masks, overlays)
            outputs.clean()
            settings = dict(settings or {})
            if inspector.naming is not None:  # with another head, defects have other types
                settings["types"] = inspector.naming.sha256
            job = Job(inspector, calibration, folder, records, outputs, settings, progress)
            if not job.run(images):
                return Outcome(out, records.counts(), seconds=job.seconds)
            return _finish(records, out, {_relative(path, folder) for path in images}, skipped, job.seconds)
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
class _Seen:
    """What is kept of an image beside its inspection: a map too large for the memory, or the decoded pixels."""

    spool: Spool | None = None
    pixels: NDArray[Any] | None = None


class _StoppedError(Exception):
    """The job ends while a large image is inspected."""


@dataclass
class Job:
    """One run over a folder. Lanes decode ahead, infer and judge; writers write an image's files and then its row."""

    inspector: Inspector
    calibration: Calibration
    folder: Path
    records: Records
    outputs: Outputs
    settings: dict[str, Any]
    progress: Progress

    def __post_init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.pending: dict[Future[str], int] = {}
        self.stopped = False
        self._shared = Lock()  # what lanes and writers change: the three above, and the progress
        self._taking = Lock()  # one lane at a time asks for the next image
        self._putting = Lock()  # the database takes one writer at a time
        self._alone = Lock()  # held while an image is inspected that is too large for the memory

    def run(self, images: list[Path]) -> bool:
        """Inspects what is not done yet; False after Ctrl-C. Whatever ends it, inspected images are written first."""
        lanes = LANES if getattr(self.inspector.backend, "concurrent", False) else 1
        self._new = not any(self.records.counts().values())
        self._left = self._sources(images)
        with (
            self.progress(len(images)) as self._tell,
            ThreadPoolExecutor(WRITERS, thread_name_prefix="write") as self.pool,
            ThreadPoolExecutor(lanes, thread_name_prefix="inspect") as pool,
        ):
            running = {pool.submit(self._lane) for _ in range(lanes)}
            try:
                left = running
                while left:  # a wait without an end would not hear Ctrl-C on Windows
                    ended, left = wait(left, timeout=0.2, return_when=FIRST_EXCEPTION)
                    for lane in ended:
                        lane.result()
                self._settle(0)
            except KeyboardInterrupt:
                return False
            finally:
                self.stopped = True  # then the pools end, which waits for what is being written
        return True

    def _lane(self) -> None:
        """Inspects one image after the other until none is left."""
        asked: deque[_Asked] = deque()
        seen = _Seen()

        def sources() -> Iterator[Path]:
            while (one := self._take()) is not None:
                asked.append(one)
                yield one.path

        def sink(picture: Picture) -> Callable[[int, NDArray[Any]], None] | None:
            """Just before the inference: a map too large for the memory goes to the disk."""
            if picture.height * picture.width > files.LARGE:
                self._alone.acquire()
                seen.spool = Spool(self.outputs.out, picture.width)
                return partial(self._spool, seen.spool)
            if picture.in_memory:
                with suppress(ImageError):  # the inspection meets it as well, and tells
                    pixels = picture.rows(0, picture.height)
                    seen.pixels = pixels if pixels.nbytes <= KEPT else None
            return None

        def done() -> None:
            """Large images are not only inspected but also written before the next one begins."""
            nonlocal seen
            if seen.spool is not None:
                self._alone.release()
            seen = _Seen()

        try:
            with closing(
                self.inspector.stream(sources(), workers=1, prefetch=2, sink_factory=sink)  # type: ignore[type-var]
            ) as results:
                for result in results:
                    self._accept(asked.popleft(), result, seen)
                    done()
                    if self.stopped:
                        return
        except _StoppedError:
            pass
        finally:
            if seen.spool is not None:
                seen.spool.close()
            done()

    def _take(self) -> _Asked | None:
        """The next image for a lane."""
        with self._taking:
            return None if self.stopped else next(self._left, None)

    def _spool(self, spool: Spool, top: int, rows: NDArray[Any]) -> None:
        if self.stopped:  # the rest of a large image may take minutes
            raise _StoppedError
        spool(top, rows)

    def _sources(self, images: list[Path]) -> Iterator[_Asked]:
        """The images that are to be inspected."""
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
            row = None if self._new else self.records.find(name)
            if row is not None and self._done(row, asked):
                self._count(row.verdict)
                continue
            if row is not None:
                # Its files are about to be replaced; a kill in between must not leave the old row with new files.
                with self._putting:
                    self.records.drop(name)
            yield asked

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
        with self._putting:
            self.records.touch(row.path, asked.size, asked.mtime_ns)
        return True

    def _accept(self, asked: _Asked, result: Inspection | InvalidImage, seen: _Seen) -> None:
        """Hands an inspected image to the writers and takes over what they have finished."""
        pixels = 0 if isinstance(result, InvalidImage) else result.height * result.width
        if isinstance(result, Inspection):
            self._spent(result.timing)
        with self._shared:
            self.pending[self.pool.submit(self._write, asked, result, seen)] = pixels
        self._settle(QUEUE - 1)

    def _settle(self, most: int) -> None:
        """Waits until at most `most` images wait for being written; counts those that are. Raises their errors."""
        while True:
            with self._shared:
                written = [future for future in self.pending if future.done()]
                for future in written:
                    self.pending.pop(future)
                left = dict(self.pending)
            for future in written:
                self._count(future.result())
            if len(left) <= most and sum(left.values()) <= files.LARGE:
                return
            wait(left, return_when=FIRST_COMPLETED)

    def _count(self, verdict: str) -> None:
        with self._shared:
            self._tell(verdict)

    def _write(self, asked: _Asked, result: Inspection | InvalidImage, seen: _Seen) -> str:
        """Writes an image's files and, once all of them are there, its row; returns the verdict."""
        start = perf_counter()
        with closing(seen.spool) if seen.spool is not None else nullcontext():
            row = self._write_files(asked, result, seen)
        between = perf_counter()
        self._put(row)
        self._spent({"writing": between - start, "rows": perf_counter() - between})
        return row.verdict

    def _spent(self, seconds: Mapping[str, float]) -> None:
        with self._shared:
            for what, value in seconds.items():
                self.seconds[what] = self.seconds.get(what, 0.0) + value

    def _put(self, row: InspectionRecord) -> None:
        with self._putting:
            self.records.put(row)

    def _write_files(self, asked: _Asked, result: Inspection | InvalidImage, seen: _Seen) -> InspectionRecord:
        """The row of an image whose files are written."""
        if isinstance(result, InvalidImage):
            return self._invalid(asked, result.reason)
        write = partial(
            self.outputs.write,
            path=asked.name,
            map=_rows(result.map) if seen.spool is None else seen.spool.rows,
            height=result.height,
            width=result.width,
            threshold=self.calibration.pixel,
        )
        if not self.outputs.overlays:
            write(image=None)
        elif seen.pixels is not None:
            write(image=_rows(seen.pixels))
        else:
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
            device=result.device,
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
        self._put(self._invalid(asked, reason))
        self._count("invalid")


def _finish(records: Records, out: Path, images: set[str], skipped: int, seconds: Mapping[str, float]) -> Outcome:
    """Makes tables and report from the database."""
    start = perf_counter()
    gone, alarm = 0, False
    for row in records.inspections():
        gone += row.path not in images
        alarm |= row.path in images and row.verdict != "accept"
    write_tables(records, out)
    report = write_report(records, out, summary={"skipped": skipped, "gone": gone})
    told = {**seconds, "report": perf_counter() - start}
    return Outcome(out, records.counts(), alarm, skipped, gone, report, told)


def _relative(path: Path, folder: Path) -> str:
    """The path that stands in the results; bytes of a name that are no Unicode are written as \\xNN."""
    return path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def _rows(whole: NDArray[Any] | None) -> Rows:
    """The rows of a map or an image that lies in memory."""
    assert whole is not None  # there was no sink
    return lambda top, bottom: whole[top:bottom]
