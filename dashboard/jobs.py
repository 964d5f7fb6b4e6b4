"""Work that needs torch, beside the dashboard: a chain of commands that outlives the page, the browser and the server.

A job is the folder `job` in the run that it makes, below the folder of runs; what explores a run makes a folder in that
run in place of one. A process of its own (`work`) goes through the commands one by one, writes down what became of
each, and holds a lock that dies with it: one job at a time. What is done stays done, so a job that was stopped, failed
or was killed goes on where it ended.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomalib_gan.records.access import User, require
from anomalib_gan.runtime.files import read_json, short, write_json
from dashboard import settings

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FOLDER, STATE, PROGRESS, LOG, STOP, LOCK = "job", "job.json", "progress.json", "log.txt", "stop", ".job.lock"
DATABASE = "{database}"
"""Stands for the results database in what is written down: its URL may hold a password."""
NAME = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9][a-z0-9._-]{0,98}(?<!\.)", re.IGNORECASE)
"""Of a run; no path, no option, and a name that every system can have."""
PROGRAM = (sys.executable, "-P", "-m", "pipelines.cli")
RUNNER = (sys.executable, "-P", "-m", "dashboard.jobs")
PATIENCE = 10.0  # seconds: for a lock that somebody looks at just now, and from one interrupt to the next
_one_start = threading.Lock()


class BusyError(ValueError):
    """Another job is at work in the folder of runs."""


@dataclass(frozen=True)
class Job:
    """What is known of a job. steps: command, state (waiting, running, done, stopped, failed) and exit code of each."""

    folder: Path
    who: str
    bundle: Path
    steps: Sequence[dict[str, Any]]
    running: bool

    @property
    def name(self) -> str:
        return self.folder.parent.name

    @property
    def state(self) -> str:
        """running, done, failed or stopped, which is also what was killed."""
        states = {step["state"] for step in self.steps}
        if self.running:
            return "running"
        return "done" if states == {"done"} else "failed" if "failed" in states else "stopped"

    def progress(self) -> dict[str, Any]:
        """What the training tells of itself, see `train --progress`; empty before it does."""
        file = self.folder / PROGRESS
        return dict(read_json(file)) if file.exists() else {}

    def last_lines(self, count: int = 12) -> str:
        """The end of the log."""
        with open(self.folder / LOG, "rb") as file:
            file.seek(max(0, os.path.getsize(file.name) - 2**14))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-count:])


def latest(runs: str | os.PathLike[str]) -> Job | None:
    """The job that is at work or, where none is, was last; ValueError for one that cannot be read."""
    found = max(Path(runs).glob(f"*/{FOLDER}/{STATE}"), key=os.path.getmtime, default=None)
    if found is None:
        return None
    busy, value = running(runs), read_json(found)  # in this order: what ended in between has written down how
    try:
        return Job(found.parent, str(value["who"]), Path(value["bundle"]), list(value["steps"]), busy)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{found} is no state of a job ({error!r}): remove the folder {found.parent}") from error


def start(runs: str | os.PathLike[str], name: str, commands: Sequence[Sequence[str]], bundle: Path, user: User) -> Path:
    """Starts a job in the new run `name`: `commands` of `anomalib-gan`, the last of which writes the new `bundle`, or
    the folder that stands in its place.

    PermissionError unless the user is an engineer, ValueError for what is no name, FileExistsError where the run or the
    bundle is there already, BusyError where a job is at work.
    """
    require(user, "engineer", "train a model")
    if not NAME.fullmatch(name):
        raise ValueError(f"{short(name)} is no name of a run: give letters, digits, `.`, `_` and `-`, at most 99")
    for taken in (Path(runs) / name, bundle):
        if os.path.lexists(taken):
            raise FileExistsError(f"{taken} exists and is not replaced: choose another name")
    steps = [{"command": list(command), "state": "waiting", "code": None} for command in commands]
    folder = Path(runs).resolve() / name / FOLDER
    with _one_start:
        with _locked(runs):
            pass
        folder.mkdir(parents=True)
        write_json(folder / STATE, {"who": user.name, "bundle": str(bundle), "steps": steps})
        _launch(folder)
    return folder


def go_on(folder: Path, user: User) -> None:
    """Starts the job again with what is not done yet; errors as of `start`."""
    require(user, "engineer", "train a model")
    with _one_start:
        with _locked(folder.parents[1]):
            pass
        _launch(folder)


def stop(folder: Path, user: User) -> None:
    """Asks the job to end: its command is interrupted, as by Ctrl-C, and what it has written stays."""
    require(user, "engineer", "stop a job")
    (folder / STOP).touch()


def running(runs: str | os.PathLike[str]) -> bool:
    """Is a job at work below this folder?"""
    if not (Path(runs) / LOCK).exists():
        return False
    try:
        with _locked(runs):
            return False
    except BusyError:
        return True


def _launch(folder: Path) -> None:
    """Starts the process of a job, apart from this one, and returns once it holds the lock."""
    (folder / STOP).unlink(missing_ok=True)
    apart: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":  # a console of its own, which nobody sees or closes
        apart = {"creationflags": subprocess.CREATE_NO_WINDOW}
    known = filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])  # the same code as here
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(known), "PYTHONUNBUFFERED": "1"}
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [*RUNNER, str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment,
            **apart,
        )  # fmt: skip
    threading.Thread(target=process.wait, daemon=True).start()  # else its end would leave a zombie
    while process.poll() is None and not running(folder.parents[1]):
        time.sleep(0.05)
    if (process.poll() or 0) > 0:  # below 0 somebody killed it, which the state of the job tells
        raise BusyError(f"the job did not start: see {folder / LOG}")


@contextmanager
def _locked(runs: str | os.PathLike[str], patience: float = 0.0) -> Iterator[int]:
    """Holds the lock of the folder, whose descriptor is yielded; BusyError where another process has it."""
    with open(Path(runs) / LOCK, "ab") as file:
        end = time.monotonic() + patience
        while True:
            try:
                if sys.platform == "win32":
                    os.lseek(file.fileno(), 0, os.SEEK_SET)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError) as error:
                if time.monotonic() >= end:
                    raise BusyError(f"a job is at work in {runs} already: wait for its end, or stop it") from error
                time.sleep(0.02)
        yield file.fileno()


# --- the process of a job ------------------------------------------------------------------------------------------


def work(folder: Path) -> None:
    """Goes through the commands that are not done; ends with the first that fails, or when the job is stopped."""
    # Stopping is the business of this process alone: Ctrl-C reaches its command, not itself. A handler, for what is
    # ignored the command would ignore, too, also where this was inherited from a server in the background.
    signal.signal(signal.SIGINT, lambda *_: None)
    with _locked(folder.parents[1], PATIENCE) as lock:
        value = read_json(folder / STATE)
        for step in value["steps"]:
            if step["state"] == "done":
                continue
            if (folder / STOP).exists():
                break
            step.update(state="running", code=None)
            _write(folder, value)
            there = step["command"][0] == "export" and _exported(folder, value["bundle"])
            code = 0 if there else _run(folder, step, lock)
            stopped = (folder / STOP).exists()
            step.update(state="done" if code == 0 else "stopped" if stopped else "failed", code=code)
            _write(folder, value)
            if code:
                break


def _write(folder: Path, value: Any) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return write_json(folder / STATE, value)
        except PermissionError:
            if os.name != "nt" or time.monotonic() >= end:  # there a file is not replaced while somebody reads it
                raise
            time.sleep(0.02)


def _exported(folder: Path, bundle: str) -> bool:
    """Is the bundle this run's already? It appears whole, so one that was written just before a kill is."""
    card = Path(bundle) / "card" / "card.json"
    return card.is_file() and read_json(card) == read_json(folder.parent / "card.json")


def _run(folder: Path, step: dict[str, Any], lock: int) -> int:
    """The exit code of one command, which is interrupted when the job shall stop."""
    command = [settings.read().db if word == DATABASE else word for word in step["command"]]
    print(f"$ anomalib-gan {step['command'][0]}", flush=True)
    # The command holds the lock, too: where this process is killed alone, nothing starts beside what it has left.
    held: dict[str, Any] = {} if sys.platform == "win32" else {"pass_fds": (lock,)}
    with subprocess.Popen([*PROGRAM, *command], stdin=subprocess.DEVNULL, **held) as child:
        told = -PATIENCE
        while True:
            try:
                return child.wait(0.2)
            except subprocess.TimeoutExpired:
                if (folder / STOP).exists() and time.monotonic() - told >= PATIENCE:
                    told = time.monotonic()
                    if sys.platform == "win32":
                        os.kill(0, signal.CTRL_C_EVENT)  # to all in this console: the command, and this process
                    else:
                        child.send_signal(signal.SIGINT)


if __name__ == "__main__":
    try:
        work(Path(sys.argv[1]))
    except BusyError as error:
        sys.exit(f"error: {error}")
