"""Laws of the users file: only the right password opens it, it gives no password away, and roles hold."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalib_gan.records import access
from anomalib_gan.records.access import ROLES, Role, User, add_user, remove_user, require, users, verify
from anomalib_gan.records.database import RecordsError, exclusive
from pipelines.cli import main

PASSWORD = "correct horse"


def test_only_the_right_password_of_a_known_name_is_let_in(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    add_user(path, "Ann", PASSWORD, "engineer")
    add_user(path, "Bob", "another pass", "operator")
    assert verify(path, "Ann", PASSWORD) == User("Ann", "engineer")
    for name, password in (("Ann", "another pass"), ("Bob", PASSWORD), ("Cy", PASSWORD)):
        assert verify(path, name, password) is None
    assert verify(path, "Ann", "") is None
    assert users(path) == [User("Ann", "engineer"), User("Bob", "operator")]


def test_the_file_holds_no_password_and_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    add_user(path, "Ann", PASSWORD, "engineer")
    add_user(path, "Bob", PASSWORD, "operator")
    assert PASSWORD not in path.read_text()
    first, second = (json.loads(path.read_text())["users"][name] for name in ("Ann", "Bob"))
    assert first["hash"] != second["hash"], "the same password shows as the same hash"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_new_password_replaces_the_old_one_and_a_removed_user_stays_out(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    add_user(path, "Ann", PASSWORD, "operator")
    add_user(path, "Ann", "quite another", "engineer")
    assert verify(path, "Ann", PASSWORD) is None
    assert verify(path, "Ann", "quite another") == User("Ann", "engineer")
    remove_user(path, "Ann")
    assert verify(path, "Ann", "quite another") is None
    with pytest.raises(ValueError, match="no user 'Ann'"):
        remove_user(path, "Ann")


def test_of_many_who_are_added_at_once_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "new/users.json"
    add = "import sys; from anomalib_gan.records.access import add_user; add_user(*sys.argv[1:4], 'operator')"
    names = [f"worker {place}" for place in range(4)]
    begun = [subprocess.Popen([sys.executable, "-c", add, str(path), name, PASSWORD]) for name in names]
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda place: add_user(path, f"thread {place}", PASSWORD, "engineer"), range(8)))
    assert [one.wait(60) for one in begun] == [0] * len(begun)
    assert {one.name for one in users(path)} == {*names, *(one.name for one in added)}


def test_who_holds_the_file_too_long_is_waited_for_and_then_told(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "users.json"
    add_user(path, "Ann", PASSWORD, "engineer")
    monkeypatch.setattr(access, "PATIENCE", 0.01)
    with exclusive(tmp_path, lock=".users.json.lock"):
        with pytest.raises(RecordsError, match=r"another process is writing to .*: try again"):
            add_user(path, "Bob", PASSWORD, "operator")
        with pytest.raises(RecordsError, match="another process"):
            remove_user(path, "Ann")
    assert users(path) == [User("Ann", "engineer")]
    with pytest.raises(ValueError, match="no users file"):
        remove_user(tmp_path / "no/users.json", "Ann")
    assert not (tmp_path / "no").exists()


def test_an_accent_is_the_same_whichever_keyboard_wrote_it(tmp_path: Path) -> None:
    add_user(tmp_path / "u", "Ann", "caf\u00e9 cr\u00e8me", "operator")
    assert verify(tmp_path / "u", "Ann", "cafe\u0301 cre\u0300me") is not None


def test_an_unknown_name_costs_one_hash_as_a_known_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "users.json"
    add_user(path, "Ann", PASSWORD, "engineer")
    asked: list[tuple[int, int]] = []
    real = access._hash
    monkeypatch.setattr(access, "_hash", lambda word, salt: asked.append((len(word), len(salt))) or real(word, salt))
    verify(path, "Ann", PASSWORD)
    verify(path, "Zoe", PASSWORD)
    assert asked == [(len(PASSWORD), 16)] * 2


@pytest.mark.parametrize(
    ("name", "password", "role", "problem"),
    [
        ("", PASSWORD, "operator", "no user name"),
        (" Ann", PASSWORD, "operator", "no user name"),
        ("A\nB", PASSWORD, "operator", "no user name"),
        ("Ann", "short", "operator", "5 characters: give at least 8"),
        ("Ann", PASSWORD, "admin", "'admin' is no role"),
    ],
)
def test_what_cannot_be_a_user_is_refused(tmp_path: Path, name: str, password: str, role: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        add_user(tmp_path / "users.json", name, password, role)
    assert not list(tmp_path.iterdir())


ENTRY = {"role": "operator", "salt": "00" * 16, "hash": "00" * 64}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2, "users": {}}', '{"format": 1, "users": []}']
    + [
        json.dumps({"format": 1, "users": {"Ann": entry}})
        for entry in (None, ENTRY | {"role": "admin"}, ENTRY | {"salt": "zz" * 16}, ENTRY | {"hash": "00"}, {})
    ],
)
def test_a_broken_file_lets_nobody_in_and_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"users\.json"):
        verify(path, "Ann", PASSWORD)
    with pytest.raises(ValueError, match=r"users\.json"):
        add_user(path, "Bob", PASSWORD, "operator")
    assert path.read_text() == content


@given(st.sampled_from(ROLES), st.sampled_from(ROLES))
def test_an_engineer_may_do_all_and_an_operator_what_operators_may(has: Role, needs: Role) -> None:
    if has == "engineer" or needs == "operator":
        require(User("Ann", has), needs)
    else:
        with pytest.raises(PermissionError, match="Ann is an operator: only an engineer may change thresholds"):
            require(User("Ann", has), needs, "change thresholds")


def users_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, *arguments: str):
    """(exit code, output, errors) of `anomalib-gan users`, with a password in the pipe."""
    monkeypatch.setattr(sys, "argv", ["anomalib-gan", "users", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    with pytest.raises(SystemExit) as ended:
        main()
    found = capsys.readouterr()
    return int(ended.value.code or 0), found.out, found.err


def test_the_command_adds_lists_and_removes_whom_the_file_then_knows(tmp_path, monkeypatch, capsys):
    file = str(tmp_path / "users.json")

    def run(typed: str, *arguments: str) -> tuple[int, str, str]:
        return users_command(monkeypatch, capsys, typed, *arguments, "--users", file)

    code, _, told = run("", "list")
    assert code == 2 and "there is no users file" in told
    assert run("correct horse\n", "add", "Ann") == (0, f"{file}: Ann, operator\n", "")
    assert run("battery staple\n", "add", "Ena", "--role", "engineer")[0] == 0
    assert verify(file, "Ena", "battery staple") == User("Ena", "engineer")
    assert run("", "list")[1] == "Ann, operator\nEna, engineer\n"
    code, _, told = run("short\n", "add", "Bob")
    assert code == 2 and "give at least 8" in told
    code, _, told = run("long enough\n", "add", "Bob", "--role", "owner")
    assert code == 2 and "is no role" in told
    assert run("", "remove", "Ann")[0] == 0 and verify(file, "Ann", "correct horse") is None
    code, _, told = run("", "remove", "Ann")
    assert code == 2 and "has no user" in told
