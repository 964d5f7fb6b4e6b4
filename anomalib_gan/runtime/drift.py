"""Has the stream of scores left the calibration? A test that may be looked at after every image, for ever.

Conformal test martingale (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2nd ed. 2022, ch. 8). As
long as the normal scores of the calibration and the new ones come from one source in no particular order, the conformal
p-values of the new ones, each ranked among all before it with ties broken at random, are independent and uniform. A
gambler who starts with 1 and bets against that has a wealth that is a martingale, so by Ville's inequality it ever
reaches 1 / level with a probability of at most `level`, however often and whenever somebody looks. The gambler is the
composite jumper: it bets on high, on low or on nothing, and changes its mind now and then, a part of it rarely, which
loses little while all is well, and a part of it often.

Defects have high scores and are no drift. So only scores up to the review threshold are ranked, among the calibration's
scores up to there: given the threshold, these are exchangeable as well. Half of the gambler's money bets on the others:
that their share, given all before, is above what is tolerated. The mean of the two is still at most a martingale.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

import numpy as np

from anomalib_gan.runtime.calibration import Calibration

LEVEL = 0.001
"""The probability that a stream which never drifts ever raises an alarm."""
JUMPS = (1e-4, 1e-3, 1e-2, 1e-1)
BETS = (-1.0, 0.0, 1.0)
DEFECTS = 0.1
"""Share of images above the review threshold that is not yet called drift."""
LEAST = 20
"""Normal scores under the threshold that a comparison needs."""


class Drift:
    """The wealth of a gambler against "nothing has changed", fed with scores in the order of their images.

    wealth: now, 1 at the start · peak: the largest so far · alarm: it has reached 1 / level · seen: how many scores ·
    above: how many of them were above the review threshold.

    >>> calibration = Calibration.fit(np.arange(200.0), np.arange(200.0))
    >>> drift = Drift(calibration)
    >>> drift.update(np.full(60, 190.0)).alarm
    True
    """

    def __init__(self, calibration: Calibration, level: float = LEVEL, defects: float = DEFECTS, seed: int = 0) -> None:
        """`level` and the tolerated share of `defects` lie in (0, 1); `seed` breaks ties, the same way every time.

        ValueError where nothing can be compared.
        """
        for name, share in (("level", level), ("tolerated share of defects", defects)):
            if not 0 < share < 1:
                raise ValueError(f"the {name} is {share}: it lies between 0 and 1, both excluded")
        if calibration.unit != "images":
            raise ValueError(
                "the calibration's scores are those of tiles, not of whole images, so there is nothing to compare the "
                "line with: calibrate with whole good images from the line"
            )
        self.limit, self.level, self.defects = calibration.review, level, defects
        self.scores = [score for score in calibration.scores if score <= self.limit]
        if len(self.scores) < LEAST:
            raise ValueError(
                f"{len(self.scores)} normal scores are too few to compare with: calibrate with {LEAST} or more images"
            )
        self.seen, self.above, self.peak = 0, 0, 1.0
        self._capital = [[0.0, 1.0, 0.0] for _ in JUMPS]  # of each part by bet, as shares of its wealth
        # Logarithms of wealth, which may outgrow a float: of each part that bets on ranks, and of what bets on shares.
        self._ranked, self._share = [0.0] * len(JUMPS), 0.0
        self._random = np.random.default_rng(seed)

    @property
    def wealth(self) -> float:
        most = max(self._share, *self._ranked)
        ranked = sum(math.exp(one - most) for one in self._ranked) / len(JUMPS)
        return math.exp(min(700.0, most + math.log((math.exp(self._share - most) + ranked) / 2)))

    @property
    def alarm(self) -> bool:
        return self.peak >= 1 / self.level

    def update(self, scores: Iterable[float]) -> Drift:
        """Takes the next scores, the oldest first."""
        for score in scores:
            above = score > self.limit
            self.seen += 1
            self.above += above
            self._share += math.log1p(above - self.defects)
            if not above:
                self._bet(self._p_value(float(score)))
            self.peak = max(self.peak, self.wealth)
        return self

    def _p_value(self, score: float) -> float:
        """Share of all scores so far, with this one, that are higher; ties count by a random part."""
        insort(self.scores, score)
        low, high = bisect_left(self.scores, score), bisect_right(self.scores, score)
        return (len(self.scores) - high + self._random.random() * (high - low)) / len(self.scores)

    def _bet(self, p: float) -> None:
        for place, jump in enumerate(JUMPS):
            spread = jump / len(BETS)
            capital = [
                ((1 - jump) * part + spread) * (1 + bet * (p - 0.5))
                for part, bet in zip(self._capital[place], BETS, strict=True)
            ]
            total = sum(capital)
            self._capital[place] = [part / total for part in capital]
            self._ranked[place] += math.log(total)
