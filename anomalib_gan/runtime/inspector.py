"""The scoring path, the only one: an image goes in, its map, score, verdict and defects come out."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.defects import DefectFinder
from anomalib_gan.runtime.fitting import enclosing, framed, resized
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.image import ImageError, Picture, open_image
from anomalib_gan.runtime.inspection import Backend, Inspection, InvalidImage, Map, name_of, told_of
from anomalib_gan.runtime.naming import Codes, Naming
from anomalib_gan.runtime.scores import ScoreAccumulator
from anomalib_gan.runtime.tiling import Box, Grid, Tile

Sink = Callable[[int, Map], None]
Opener = Callable[[Any], Picture]

SCALE_TOLERANCE = 0.10  # relative difference of pixel sizes that is worth a warning, and a resampling where wished
RESCALE_PIXELS = 64 * 2**20  # resampling holds the whole image, before and after, in memory
PRELOAD_BYTES = 64 * 2**20  # stream() decodes images up to this size ahead; of larger ones it opens the file only


class _SinkError(Exception):
    """Carries an error of the caller's sink past the handling of bad images: a full disk is not a bad image."""


@dataclass
class _Source:
    """An opened picture, its pixels where they were decoded ahead, and the seconds this took."""

    picture: Picture
    pixels: NDArray[Any] | None
    seconds: float
    owned: bool

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        if self.pixels is not None:
            return self.pixels[top:bottom]
        start = perf_counter()
        try:
            rows = self.picture.rows(top, bottom)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise ImageError(f"{self.picture.name}: rows {top} to {bottom} cannot be read: {told_of(error)}") from error
        self.seconds += perf_counter() - start
        return rows

    def close(self) -> None:
        if self.owned:
            self.picture.close()


class _Ready(NamedTuple):
    """The map of an image that went through the model together with others, and its share of the seconds."""

    map: Map
    seconds: float


class Inspector:
    """Maps, scores and judges images with one detector; may be called from several threads.

    The image is worked through band by band (rows of tiles), so memory grows with neither its height nor, beyond a
    limit, its width, and the tiled map equals that of the whole image.

    tile: side of the tiles in pixels, without what they overlap. rescale: images whose pixel size is known and differs
    by over 10 % from the training images' are resampled to it and the map brought back; otherwise this is only told, in
    `notes` and `scale_warning`. opener: opens what is no Picture yet; `functools.partial(open_image, info_bar=64)`
    passes options on. naming: says of what type each defect is.
    """

    def __init__(
        self,
        backend: Backend,
        tile: int = 1024,
        calibration: Calibration | None = None,
        rescale: bool = False,
        opener: Opener = open_image,
        naming: Naming | None = None,
    ) -> None:
        if getattr(backend, "dim", 2) != 2:
            raise ValueError("the model looks at stacks, not at images: use `anomalib-gan stacks`")
        if backend.channels not in (1, 3):
            raise ValueError(f"the model has {backend.channels} channels; images have 1 or 3")
        if calibration is not None and calibration.model not in ("", backend.hash):
            raise ValueError(
                f"the calibration belongs to model {calibration.model[:12]} and this is {backend.hash[:12]}: "
                "calibrate again"
            )
        self.backend = backend
        # A window holds the whole image, or a core of one stride and a halo: none is below the model's smallest image.
        self.grid = Grid(tile, max(backend.halo, backend.smallest - backend.stride), backend.stride)
        self.calibration = calibration
        self.rescale = rescale
        self.opener = opener
        self.naming = naming
        # Most devices do not get faster by two inferences at a time, but may run out of memory.
        self._lock: AbstractContextManager[Any] = nullcontext() if getattr(backend, "concurrent", False) else Lock()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        device: str = "auto",
        *,
        threads: int | None = None,
        tile: int = 1024,
        rescale: bool = False,
        opener: Opener = open_image,
        spin: bool = True,
        expect_sha256: str | None = None,
    ) -> Inspector:
        """The detector and the calibration in a bundle's folder.

        device: "cpu", "cuda", "cuda:1", ... or "auto", a GPU where there is one; threads: of the processor, by default
        one per core; spin: they wait for the next image busily, which answers a little sooner and takes processor time
        from all else; expect_sha256: the fingerprint that `export` printed, so that no other detector can take this
        one's place. Raises BundleError, a ValueError, for a folder that is no bundle, is damaged, or holds a graph that
        a detector has no need of.
        """
        from anomalib_gan.runtime.session import OnnxBackend  # ONNX Runtime only where it is used

        found = bundle.load(path, expect_sha256)
        graph = check_graph(found.model, found.manifest)
        backend = OnnxBackend(graph, found.manifest, device=device, threads=threads, spin=spin)
        naming = Naming.of(found, device=device, threads=threads)
        return cls(backend, tile, found.manifest.calibration, rescale, opener, naming)

    def __call__(self, source: Any, sink: Sink | None = None) -> Inspection:
        """Inspects a path, bytes, an array or a Picture (which stays open).

        With a sink the map goes out in strips, sink(top, rows (n, width) float32), from the top, without gaps, the info
        bar as NaN, and Inspection.map is None. When an error is raised, what the sink was given is void. Raises
        ImageError for what cannot be inspected; an error of the sink comes out as it is.
        """
        opened = self._open(source, preload=False)
        try:
            return self._inspect(opened, sink)
        except _SinkError as error:
            raise _cause(error) from None
        finally:
            opened.close()

    def features(self, codes: Codes, source: Any, boxes: Sequence[Box]) -> NDArray[np.float32]:
        """(n, F): what `codes` say under n boxes within the content of an image, as when their types are told.

        Takes and raises what a call does; a box beyond the image is a ValueError.
        """
        opened = self._open(source, preload=False)
        try:
            height, width = opened.picture.content, opened.picture.width
            for box in boxes:
                if not (0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width):
                    raise ValueError(f"{opened.picture.name}: {box} does not lie in its {height} x {width} pixels")
            return self._features(codes, opened, boxes)
        finally:
            opened.close()

    def stream(
        self,
        sources: Iterable[Any],
        workers: int = 2,
        prefetch: int = 4,
        sink_factory: Callable[[Picture], Sink | None] | None = None,
        batch: int = 1,
    ) -> Iterator[Inspection | InvalidImage]:
        """Inspects many images, in order; `workers` threads decode the next ones, at most `prefetch`, meanwhile.

        A bad image becomes an InvalidImage and the next one follows. `sink_factory`, called just before the inference,
        may give a sink for the picture's map (large ones, say). Of every `batch` images in succession those of one size
        go through the model together, where each fits into a tile; twice as many are then decoded ahead. Errors of
        sinks, of `sources` and of the backend come out as they are. Closing the generator, or any error, ends the
        threads.
        """
        if min(workers, prefetch, batch) < 1:
            raise ValueError(f"workers {workers}, prefetch {prefetch} and batch {batch} must be at least 1")
        return self._stream(sources, workers, max(prefetch, 2 * batch if batch > 1 else 1), sink_factory, batch)

    def batch(self, sources: Iterable[Any], size: int = 16) -> list[Inspection | InvalidImage]:
        """Inspects images in order, up to `size` of equal size at once; see `stream`."""
        return list(self.stream(sources, batch=size))

    def _stream(
        self,
        sources: Iterable[Any],
        workers: int,
        prefetch: int,
        sink_factory: Callable[[Picture], Sink | None] | None,
        batch: int,
    ) -> Iterator[Inspection | InvalidImage]:
        waiting: deque[tuple[str, Future[_Source]]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        try:
            left = iter(sources)
            more = True
            while more or waiting:
                while more and len(waiting) < prefetch:
                    try:
                        source = next(left)
                    except StopIteration:
                        more = False
                    else:
                        waiting.append((name_of(source), pool.submit(self._open, source, preload=True)))
                for ready in self._together([future for _, future in islice(waiting, batch)]):
                    name, future = waiting[0]
                    result = self._next(name, future, sink_factory, ready)
                    waiting.popleft()
                    yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for _, future in waiting:
                if not future.cancelled() and future.exception() is None:
                    future.result().close()

    def _together(self, futures: list[Future[_Source]]) -> list[_Ready | None]:
        """The maps of those opened images of which several can go through the model at once; None for the others."""
        ready: list[_Ready | None] = [None] * len(futures)
        alike: dict[tuple[int, int, float], list[int]] = {}
        for place, future in enumerate(futures) if len(futures) > 1 else ():
            if future.exception() is None and (picture := self._fits(future.result())) is not None:
                alike.setdefault((picture.content, picture.width, picture.white), []).append(place)
        for (height, width, white), places in alike.items():
            size = self.grid.padded(height, width)
            windows, found = [], []
            for place in places:
                opened = futures[place].result()
                with suppress(ImageError):  # it comes again, and is told, when the image has its turn
                    windows.append(self._window(opened.picture.name, opened.read(0, height), *size))
                    found.append(place)
            if len(found) > 1:
                with suppress(MemoryError):  # one by one they may fit
                    maps, seconds = self._run(np.stack(windows), white)
                    for place, map in zip(found, maps, strict=True):
                        ready[place] = _Ready(map[0, :height, :width], seconds / len(found))
        return ready

    def _fits(self, opened: _Source) -> Picture | None:
        """The picture, if its whole content is decoded and is one window for the model."""
        picture = opened.picture
        height, width = picture.content, picture.width
        if opened.pixels is None or min(height, width) < self.backend.smallest or self._factor(picture, [])[0] != 1:
            return None
        return picture if len(self.grid.split(height, width)) == 1 else None

    def _next(
        self,
        name: str,
        future: Future[_Source],
        sink_factory: Callable[[Picture], Sink | None] | None,
        ready: _Ready | None,
    ) -> Inspection | InvalidImage:
        try:
            opened = future.result()
        except Exception as error:  # decoders meet hostile files: whatever they raise is about the file
            return InvalidImage(name, told_of(error))
        with closing(opened):
            sink = sink_factory(opened.picture) if sink_factory else None
            try:
                return self._inspect(opened, sink, ready)
            except (ImageError, MemoryError) as error:
                return InvalidImage(opened.picture.name, told_of(error))
            except _SinkError as error:
                raise _cause(error) from None

    def _open(self, source: Any, preload: bool) -> _Source:
        start = perf_counter()
        owned = not isinstance(source, Picture)
        picture = self.opener(source) if owned else source
        opened = _Source(picture, None, 0.0, owned)
        try:
            size = picture.content * picture.width * picture.channels * np.dtype(picture.dtype).itemsize
            if preload and size <= PRELOAD_BYTES:
                opened.pixels = opened.read(0, picture.content)
        except BaseException:
            opened.close()
            raise
        opened.seconds = perf_counter() - start
        return opened

    def _inspect(self, opened: _Source, sink: Sink | None, ready: _Ready | None = None) -> Inspection:
        picture = opened.picture
        height, width, content = picture.height, picture.width, picture.content
        timing = {"decode": 0.0, "inference": 0.0, "post": 0.0}
        notes = list(picture.notes)
        factor, scale_warning = self._factor(picture, notes)

        calibration = self.calibration
        map: Map | None = None
        score = ScoreAccumulator(content, width)
        finder = DefectFinder(calibration.pixel, width, picture.pixel_size) if calibration else None
        peak = -math.inf
        if ready is not None:
            bands = iter([(0, ready.map)])
            timing["inference"] = ready.seconds
        else:
            bands = self._bands(opened, timing) if factor == 1 else self._resampled(opened, factor, timing)
        for top, rows in bands:
            start = perf_counter()
            low, high = float(rows.min()), float(rows.max())  # NaN if any is
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ImageError(
                    f"{picture.name}: the model's map is not finite in rows {top} to {top + len(rows)}: train it again"
                )
            peak = max(peak, high)
            score.add(top, rows)
            if finder:
                finder.add(top, rows)
            if sink is None and ready is None and len(rows) == height:
                map = rows
            elif sink is None:
                map = np.empty((height, width), np.float32) if map is None else map
                map[top : top + len(rows)] = rows
            timing["post"] += perf_counter() - start
            _send(sink, top, rows)
        if map is not None:
            map[content:] = np.nan
        for top in range(content, height, self.grid.tile):
            _send(sink, top, np.full((min(self.grid.tile, height - top), width), np.nan, np.float32))

        start = perf_counter()
        value = score.score
        defects = tuple(finder.defects()) if finder else ()
        count = finder.count if finder else 0
        if count > len(defects):
            notes.append(f"{count} defects, of which the {len(defects)} with the largest peaks are listed")
        timing["post"] += perf_counter() - start
        if self.naming is not None and defects:
            start, read = perf_counter(), opened.seconds
            boxes = [Box(one.top, one.left, one.bottom, one.right) for one in defects]
            named = self.naming(self._features(self.naming.codes, opened, boxes))
            defects = tuple(replace(one, type=name) for one, name in zip(defects, named, strict=True))
            timing["types"] = perf_counter() - start - (opened.seconds - read)
        if picture.changed():
            raise ImageError(
                f"{picture.name}: the file changed while it was read: inspect it again once it is complete"
            )
        timing["decode"] = opened.seconds
        return Inspection(
            name=picture.name,
            map=map,
            score=value,
            peak=peak,
            verdict=calibration.verdict(value, count > 0) if calibration else None,
            defects=defects,
            defect_count=count,
            height=height,
            width=width,
            content=content,
            pixel_size=picture.pixel_size,
            scale_warning=scale_warning,
            sha256=picture.sha256,
            model=self.backend.hash,
            device=self.backend.device,
            timing=timing,
            notes=tuple(notes),
        )

    def _factor(self, picture: Picture, notes: list[str]) -> tuple[float, str | None]:
        """(what the image is to be enlarged by, warning about the pixel size); adds to the notes."""
        ours, theirs = self.backend.pixel_size, picture.pixel_size
        if ours is None or theirs is None or abs(theirs / ours - 1) <= SCALE_TOLERANCE:
            return 1.0, None
        told = f"pixel size {theirs:.4g} um differs by {theirs / ours - 1:+.0%} from the training images' {ours:.4g} um"
        if not self.rescale:
            notes.append(told)
            return 1.0, told
        notes.append(f"{told}: resampled by {theirs / ours:.4g}")
        return theirs / ours, None

    def _bands(self, opened: _Source, timing: dict[str, float]) -> Iterator[tuple[int, Map]]:
        """(top, rows of the map) of the picture's content, from the top."""
        picture = opened.picture
        return self._infer(
            picture.name, picture.content, picture.width, picture.channels, picture.white, opened.read, timing
        )

    def _resampled(self, opened: _Source, factor: float, timing: dict[str, float]) -> Iterator[tuple[int, Map]]:
        """The same by way of the content enlarged by `factor`; all of it is in memory."""
        picture, pixels = opened.picture, self._enlarged(opened, factor)
        size = pixels.shape[0], pixels.shape[1]
        map = np.empty(size, np.float32)
        for top, rows in self._infer(
            picture.name, *size, picture.channels, picture.white, lambda top, bottom: pixels[top:bottom], timing
        ):
            map[top : top + len(rows)] = rows
        yield 0, resized(map, picture.content, picture.width)

    def _enlarged(self, opened: _Source, factor: float) -> NDArray[np.float32]:
        """The content enlarged by `factor`, (height, width, channels)."""
        picture = opened.picture
        height, width = picture.content, picture.width
        size = max(1, round(height * factor)), max(1, round(width * factor))
        if max(height * width, size[0] * size[1]) > RESCALE_PIXELS:
            raise ImageError(
                f"{picture.name}: {height}x{width} px resampled to {size[0]}x{size[1]} exceeds {RESCALE_PIXELS} px: "
                "crop it or inspect it without rescale"
            )
        pixels = opened.read(0, height)
        start = perf_counter()
        enlarged = resized(np.asarray(pixels, np.float32), *size).reshape(*size, picture.channels)
        opened.seconds += perf_counter() - start
        return enlarged

    def _features(self, codes: Codes, opened: _Source, boxes: Sequence[Box]) -> NDArray[np.float32]:
        """What `codes` say under boxes of the content, at the scale at which the map is computed."""
        picture = opened.picture
        height, width, read = picture.content, picture.width, opened.read
        factor, _ = self._factor(picture, [])
        if factor != 1:
            pixels = self._enlarged(opened, factor)
            (height, width), read = pixels.shape[:2], lambda top, bottom: pixels[top:bottom]
            boxes = [enclosing(box, height / picture.content, width / picture.width) for box in boxes]
        self._large_enough(picture.name, height, width)

        def window(place: Box) -> NDArray[np.float32]:
            rows = read(place.top, min(place.bottom, height))[:, place.left : place.right]
            return self._window(picture.name, rows, place.bottom - place.top, place.right - place.left)

        with self._lock:
            return codes.under(boxes, (height, width), self.grid, window, picture.white)

    def _infer(
        self,
        name: str,
        height: int,
        width: int,
        channels: int,
        white: float,
        read: Callable[[int, int], NDArray[Any]],
        timing: dict[str, float],
    ) -> Iterator[tuple[int, Map]]:
        self._large_enough(name, height, width)
        held: NDArray[Any] = np.empty((0, width, channels))  # rows first.. of the image: read and still needed
        first = 0
        for band in self.grid.bands(height, width):
            core, window = band[0]
            end = first + len(held)
            bottom = min(window.bottom, height)
            parts = [held[window.top - first :]] if window.top < end else []
            if bottom > end:
                parts.append(read(end, bottom))
            held = parts[0] if len(parts) == 1 else np.concatenate(parts)
            first = window.top
            count = min(core.bottom, height) - core.top
            maps = (self._tile(name, held, tile, width, white, timing)[:count] for tile in band)
            if len(band) == 1:  # most images are one tile, which needs no copy
                rows = next(maps)
            else:
                rows = np.empty((count, width), np.float32)
                for tile, part in zip(band, maps, strict=True):
                    rows[:, tile.core.left : tile.core.right] = part
            yield core.top, rows

    def _large_enough(self, name: str, height: int, width: int) -> None:
        smallest = self.backend.smallest
        if min(height, width) < smallest:
            raise ImageError(
                f"{name}: image {height}x{width} is smaller than the model's smallest image, {smallest}x{smallest} px: "
                "pad or enlarge it"
            )

    def _tile(
        self, name: str, held: NDArray[Any], tile: Tile, width: int, white: float, timing: dict[str, float]
    ) -> Map:
        """The map of a tile's core, without the columns that pad the image; `held` begins at the window's top."""
        core, window = tile
        tall, wide = window.bottom - window.top, window.right - window.left
        image = self._window(name, held[:tall, window.left : window.right], tall, wide)
        map, seconds = self._run(image[None], white)
        timing["inference"] += seconds
        right = min(core.right, width)
        return map[
            0, 0, core.top - window.top : core.bottom - window.top, core.left - window.left : right - window.left
        ]

    def _window(self, name: str, pixels: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
        """See `framed`."""
        return framed(name, pixels, self.backend.channels, height, width)

    def _run(self, images: NDArray[np.float32], white: float) -> tuple[NDArray[np.float32], float]:
        """(maps, seconds)."""
        with self._lock:
            start = perf_counter()
            maps = self.backend(images, white)
            seconds = perf_counter() - start
        if maps.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(f"the backend made a map of shape {maps.shape} from an image of shape {images.shape}")
        return maps, seconds


def _send(sink: Sink | None, top: int, rows: Map) -> None:
    if sink is not None:
        try:
            sink(top, rows)
        except Exception as error:
            raise _SinkError from error


def _cause(error: _SinkError) -> BaseException:
    assert error.__cause__ is not None
    return error.__cause__
