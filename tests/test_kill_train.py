"""A training that is killed at any moment and resumed ends bit for bit like one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_training import same, texture, write

from anomalib_gan import checkpoint
from pipelines.train import train

STEPS, KILLS = 40, 20
SMALL = {"width": 8, "code": 4, "patch": 64}  # the detector itself, quick
COMPARED = ("step", "steps", "drawn", "model", "ema", "optimisers", "settled", "map_scale", "sheet")
PICTURES = ("curves.png", "samples.png", "reconstructions.png")


def life(folder: Path, run: Path, doom: str, count: int) -> None:
    """Trains as far as it comes; with a doom, kills itself at the `count`-th call of this function of `os`."""
    if doom:
        original = getattr(os, doom)

        def fatal(*arguments):
            nonlocal count
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        setattr(os, doom, fatal)
    train(folder, out=run, params=SMALL, steps=STEPS, resume=True, device="cpu", threads=1, checkpoint_every=0)


def campaign(folder: Path, runs: Path) -> None:
    """Kills forked trainings of `folder` until KILLS have hit, each going on where the last one died; prints a summary.

    Half of the kills come at a random time. The others come in the middle of a write: the bytes not yet flushed, or
    flushed and not yet renamed. Forks of one process, because importing torch takes longer than the training.
    """
    chance, hits, number = random.Random(0), [], 0
    while True:
        run = runs / str(number)
        doom = "" if len(hits) % 2 == 0 else chance.choice(("fsync", "replace"))
        doom, count = (doom, chance.randint(1, 30)) if len(hits) < KILLS else ("", 0)
        child = os.fork()
        if child == 0:
            try:
                life(folder, run, doom, count)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if not doom and len(hits) < KILLS:
            time.sleep(chance.uniform(0, 3))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            hits.append(doom or "time")
        elif os.WEXITSTATUS(status):
            raise SystemExit("a life ended with an error")
        else:
            number += 1
            if len(hits) >= KILLS:
                break
    print(json.dumps({"hits": hits, "runs": number}))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_twenty_kills_leave_no_trace(tmp_path):
    for i in range(3):
        write(tmp_path / f"normal/{i}.png", texture(i, 96, 128))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    worker = [sys.executable, __file__, str(tmp_path / "normal"), str(tmp_path / "runs")]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["hits"]) == KILLS and {"time", "fsync", "replace"} == set(told["hits"])

    threads = torch.get_num_threads()
    alone = train(tmp_path / "normal", out=tmp_path / "alone", params=SMALL, steps=STEPS, device="cpu", threads=1)
    torch.set_num_threads(threads)
    expected = checkpoint.load(alone)
    for number in range(told["runs"]):
        run = tmp_path / "runs" / str(number)
        found = checkpoint.load(run)
        assert all(same(found[key], expected[key]) for key in COMPARED)
        assert [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()] == [
            *range(1, STEPS + 1)
        ]
        assert all((run / name).read_bytes() == (alone / name).read_bytes() for name in PICTURES)
        assert not list(run.glob(".tmp*"))


if __name__ == "__main__":
    campaign(Path(sys.argv[1]), Path(sys.argv[2]))
