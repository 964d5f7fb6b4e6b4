"""One number per image: how hot is the hottest place, whatever the size of the image.

The score is the maximum over windows of WINDOW x WINDOW pixels of the mean of each window's hottest pixels (the share
HOTTEST of those that are valid, at least one). Windows start every STEP pixels, the last one is flush with the border,
and a smaller image is one clipped window. So a defect up to STEP + 1 pixels across lies whole in some window, and the
image around that window cannot water it down.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

WINDOW = 256
STEP = WINDOW // 2
HOTTEST = 0.01
# A window with a smaller share of valid pixels is only used where there is no other: few pixels make a noisy mean.
VALID = 0.25
SAMPLED = 17  # not a divisor of WINDOW, or it would take the same columns of every row


class ScoreAccumulator:
    """The score of a (height, width) map that arrives in strips of rows from the top; holds WINDOW + STEP rows at most.

    NaN pixels are not counted, and rows of nothing but NaN at the bottom (an info bar) do not belong to the map at all:
    the score is that of the map without them.
    """

    def __init__(self, height: int, width: int) -> None:
        if height < 1 or width < 1:
            raise ValueError(f"a map of {height}x{width} pixels has no score")
        self.height = height
        self.width = width
        self._arrived = 0  # rows given to add
        self._blank = 0  # of these the last, all NaN, which may turn out to be the bar
        # Fetched once, for that takes longer than to copy. Untouched memory is not even there.
        self._memory = np.empty((min(height, WINDOW + STEP), width), np.float32)
        self._kept = self._memory[:0]  # the last rows before the blank ones
        self._end = 0  # the row after the last kept one
        self._next = 0  # top of the next row of windows
        self._best = -math.inf  # over windows with enough valid pixels
        self._thin = -math.inf  # over the others

    def add(self, top: int, rows: NDArray[np.float32]) -> None:
        """Takes rows top..top+len(rows)-1 of the map, NaN where not valid; `top` must follow the rows already given."""
        if rows.ndim != 2 or rows.shape[1] != self.width or top != self._arrived or top + len(rows) > self.height:
            raise ValueError(
                f"rows of shape {rows.shape} at {top} do not continue a map of {self.height}x{self.width} "
                f"at row {self._arrived}"
            )
        self._arrived += len(rows)
        for start in range(0, len(rows), STEP):
            piece = np.asarray(rows[start : start + STEP], np.float32)
            if not holed(piece):
                end = len(piece)
            else:
                filled = np.flatnonzero(~np.isnan(piece).all(axis=1))
                end = int(filled[-1]) + 1 if len(filled) else 0
            if end:
                while self._blank:
                    blank = min(self._blank, STEP)
                    self._push(np.full((blank, self.width), np.nan, np.float32))
                    self._blank -= blank
                self._push(piece[:end])
                self._blank = len(piece) - end
            else:
                self._blank += len(piece)

    @property
    def score(self) -> float:
        """The score, once all rows were added; a ValueError before that, or where no pixel is valid."""
        if self._arrived != self.height:
            raise ValueError(f"the score needs all {self.height} rows of the map, {self._arrived} were added")
        if self._end == 0:
            raise ValueError("the map has no valid pixel, so it has no score")
        # The last row of windows is flush with the bottom; where it was counted already the maximum does not change.
        self._windows(max(0, self._end - WINDOW), self._end)
        return self._best if self._best > -math.inf else self._thin

    def _push(self, rows: NDArray[np.float32]) -> None:
        first = self._end - len(self._kept)
        keep = max(min(self._next, self._end + len(rows) - WINDOW), first)
        before = self._end - keep
        self._memory[:before] = self._kept[keep - first :]
        self._kept = self._memory[: before + len(rows)]
        self._kept[before:] = rows
        self._end += len(rows)
        while self._next + WINDOW <= self._end:
            self._windows(self._next, self._next + WINDOW)
            self._next += STEP

    def _windows(self, top: int, bottom: int) -> None:
        """Counts the windows that lie in the kept rows top..bottom-1."""
        first = self._end - len(self._kept)
        rows = self._kept[top - first : bottom - first]
        lefts = starts(self.width)
        wide = min(WINDOW, self.width)
        if holed(rows):
            valid = np.concatenate([[0], np.cumsum(len(rows) - np.count_nonzero(np.isnan(rows), axis=0))])
            counts = valid[lefts + wide] - valid[lefts]
        else:
            counts = np.full(len(lefts), rows.shape[0] * wide)
        columns = np.fmax.reduce(rows, axis=0)  # ignores NaN
        peaks = np.array([np.fmax.reduce(columns[left : left + wide]) for left in lefts])
        # A mean is never above the maximum: by falling maximum, one may stop as soon as the best cannot be beaten.
        # Exact.
        for index in np.argsort(-np.where(counts > 0, peaks, -np.inf), kind="stable"):
            count = int(counts[index])
            if count == 0:
                continue
            enough = count >= VALID * rows.shape[0] * wide
            if peaks[index] <= self._best or (not enough and (self._best > -math.inf or peaks[index] <= self._thin)):
                continue
            window = rows[:, lefts[index] : lefts[index] + wide].ravel()
            mean = hottest_mean(window[~np.isnan(window)] if count < window.size else window)
            if enough:
                self._best = max(self._best, mean)
            else:
                self._thin = max(self._thin, mean)


def holed(values: NDArray[np.floating]) -> bool:
    """Is any value NaN? Then the minimum is, which is found faster than asking each."""
    return bool(np.isnan(values.min()))


def hottest_mean(values: NDArray[np.float32]) -> float:
    """Mean of the largest HOTTEST of the values, at least one; `values` is 1-D, not empty and free of NaN."""
    count = max(1, math.ceil(HOTTEST * values.size))
    # Every so manieth value tells about where the hottest begin; only what is above twice as many is looked at closely.
    sample = values[::SAMPLED]
    wanted = -(-2 * count // SAMPLED)
    if wanted < sample.size:
        some = values[values >= np.partition(sample, sample.size - wanted)[-wanted]]
        if some.size >= count:  # else the sample misled, and all are looked at
            values = some
    hottest = np.partition(values, values.size - count)[-count:]
    return float(np.sort(hottest).mean(dtype=np.float64))  # in one order, whichever way they were found


def starts(length: int, window: int = WINDOW, step: int = STEP) -> NDArray[np.int64]:
    """Where windows start along an axis of `length` pixels: every `step`, and one flush with the end.

    >>> starts(600).tolist()
    [0, 128, 256, 344]
    >>> starts(100).tolist()
    [0]
    """
    last = max(length - window, 0)
    return np.unique(np.append(np.arange(0, last + 1, step), last))


def image_score(map: NDArray[np.float32]) -> float:
    """The score of a whole (height, width) map; the same number as a ScoreAccumulator gives, bit for bit."""
    accumulator = ScoreAccumulator(*map.shape)
    accumulator.add(0, map)
    return accumulator.score
