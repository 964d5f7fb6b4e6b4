"""A job that is killed at any moment and started again ends as one that was never killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_score import ENVIRONMENT, picture, results, rows, save, score_folder, temporary

from anomalib_gan.runtime import Inspector
from anomalib_gan.runtime.inspection import Backend

BUNDLE = Path(__file__).with_name("frozen") / "v1.bundle"
IMAGES = 80
KILLS = 20


def inspector() -> Inspector:
    return Inspector.load(BUNDLE, "cpu", threads=1)


class Slow:
    """The same detector, slow enough to be killed at its work."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def __call__(self, image: np.ndarray, white: float) -> np.ndarray:
        time.sleep(0.1)
        return self.backend(image, white)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def child(folder: str, out: str, seconds: str, writes: str) -> None:
    """Scores `folder` and kills itself after so many seconds or within write number `writes`."""
    detector = inspector()
    detector.backend = Slow(detector.backend)  # type: ignore[assignment]
    timer = threading.Timer(float(seconds), die)
    timer.daemon = True
    left, lock = int(writes), threading.Lock()

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            nonlocal left
            with lock:
                left -= 1
                if left == 0:
                    die()
            time.sleep(0.002)  # a slow disk: the timer, too, strikes within writes
            return real(*arguments)

        return write

    os.fsync, os.replace, os.unlink = dying(os.fsync), dying(os.replace), dying(os.unlink)
    timer.start()
    score_folder(detector, folder, out)
    print("finished")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for place in range(IMAGES):
        where = folder / ("" if place % 3 else "sub") / f"{place % 5}-{place}.png"
        save(where, picture(30 * (place % 6), seed=place))
    (folder / "bad.png").write_bytes(b"no image")
    score_folder(inspector(), folder, tmp_path / "whole")
    expected = results(tmp_path / "whole")

    generator, finished, half_done, before = random.Random(0), 0, 0, 0
    for kill in range(KILLS):
        seconds, writes = (generator.uniform(0, 0.4), 10**9) if kill % 2 else (60, generator.randint(1, 16))
        command = [sys.executable, __file__, str(folder), str(out), str(seconds), str(writes)]
        ended = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        finished += "finished" in ended.stdout
        half_done += bool(temporary(out)) if out.exists() else 0
        if (out / "results.db").exists():
            with sqlite3.connect(out / "results.db") as database:
                kept = database.execute("SELECT path FROM inspections").fetchall() if _made(database) else []
            database.close()
            assert len(kept) == len(set(kept)) >= before, "a row was repeated or lost"
            before = len(kept)
            for (path,) in kept:
                assert path == "bad.png" or all(
                    (out / kind / f"{path}{suffix}").is_file()
                    for kind, suffix in (("maps", ".tif"), ("masks", ".png"), ("overlays", ".jpg"))
                ), "a row stands without its files"
    print(f"{finished} runs finished, {before} images were done, {half_done} kills struck within a write")
    assert finished < KILLS / 2, "most runs must be killed before their end"
    assert half_done, "no kill struck within a write"
    assert before > 0

    assert score_folder(inspector(), folder, out) == 1
    assert results(out) == expected
    assert len(rows(out)) == IMAGES + 1
    assert not temporary(out)


def _made(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'inspections'").fetchone() == (1,)


if __name__ == "__main__":
    child(*sys.argv[1:])
