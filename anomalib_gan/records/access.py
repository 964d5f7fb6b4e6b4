"""Who may do what: a file of users with hashed passwords, and two roles.

An operator reviews images; an engineer does that and also changes thresholds. The file is JSON, one entry per user: the
role, a random salt and the password's scrypt hash (RFC 7914), from which nobody reads the password back.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import unicodedata
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from anomalib_gan.records.database import exclusive
from anomalib_gan.runtime.files import atomic_write, json_text, read_json, short

Role = Literal["operator", "engineer"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Each role may do all that those before it may."""
FORMAT = 1
COST = {"n": 2**15, "r": 8, "p": 1}  # other numbers are another FORMAT
"""scrypt's: 32 MiB and about a tenth of a second for every guess."""
LEAST = 8
"""Characters of a password."""
PATIENCE = 10.0
"""Seconds to wait for somebody else who changes the file, which takes a moment."""


@dataclass(frozen=True)
class User:
    """Somebody who is known: the name that stands in reviews and events, and what they may do."""

    name: str
    role: Role


def require(user: User, role: Role, action: str = "do this") -> None:
    """PermissionError unless `user` has at least the role `role`; `action` completes "only an engineer may ..."."""
    if user.role not in ROLES:
        raise ValueError(f"{user.name} has the role {short(user.role)}, not one of {', '.join(ROLES)}")
    if ROLES.index(user.role) < ROLES.index(role):
        raise PermissionError(f"{user.name} is {_article(user.role)}: only {_article(role)} may {action}")


def add_user(path: str | os.PathLike[str], name: str, password: str, role: Role) -> User:
    """Adds a user to the file, which is made where there is none, or gives a known one a new password and role.

    The file is for its owner's eyes only. ValueError for a name that is empty or not printable, a password under eight
    characters, an unknown role and a broken file.
    """
    if not name or name != name.strip() or not name.isprintable() or len(name) > 100:
        raise ValueError(f"{short(name)} is no user name: give 1 to 100 printable characters, no blank at either end")
    if len(password) < LEAST:
        raise ValueError(f"the password of {name} has {len(password)} characters: give at least {LEAST}")
    if role not in ROLES:
        raise ValueError(f"{short(role)} is no role: choose from {', '.join(ROLES)}")
    salt = secrets.token_bytes(16)
    entry = {"role": role, "salt": salt.hex(), "hash": _hash(password, salt).hex()}
    with _alone(path):
        users = _read(path) if os.path.lexists(path) else {}
        _write(path, users | {name: entry})
    return User(name, role)


def remove_user(path: str | os.PathLike[str], name: str) -> None:
    """Takes a user out of the file; ValueError where there is none of that name. What they wrote stays theirs."""
    _read(path)  # where there is no file there shall be no lock beside it either
    with _alone(path):
        users = _read(path)
        if name not in users:
            raise ValueError(f"{path} has no user {short(name)}: it has {', '.join(sorted(users)) or 'none'}")
        del users[name]
        _write(path, users)


def users(path: str | os.PathLike[str]) -> list[User]:
    """All users of the file, by name."""
    return [User(name, entry["role"]) for name, entry in sorted(_read(path).items())]


def verify(path: str | os.PathLike[str], name: str, password: str) -> User | None:
    """The user of that name where the password is theirs, else None; ValueError for a broken file.

    An unknown name takes the same time as a known one with a wrong password, so the answer tells nobody which names
    there are.
    """
    entry = _read(path).get(name)
    salt, wanted = (bytes.fromhex(entry["salt"]), bytes.fromhex(entry["hash"])) if entry else (bytes(16), bytes(64))
    same = hmac.compare_digest(_hash(password, salt), wanted)
    return User(name, entry["role"]) if entry and same else None


def _hash(password: str, salt: bytes) -> bytes:
    # Keyboards write an accented letter in one code point or in two.
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, **COST, maxmem=2**26)


def _read(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    try:
        value = read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"there is no users file {path}: `anomalib-gan users add` makes one") from error
    if not isinstance(value, Mapping) or value.get("format") != FORMAT or not isinstance(value.get("users"), Mapping):
        raise ValueError(f"{path} is no users file of format {FORMAT}: move it away and add the users again")
    for name, entry in value["users"].items():
        if not _whole(entry):
            raise ValueError(f"{path}: the entry of {short(name)} is broken: take it out and add the user again")
    return {name: dict(entry) for name, entry in value["users"].items()}


def _whole(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or set(entry) != {"role", "salt", "hash"} or entry["role"] not in ROLES:
        return False
    try:
        return len(bytes.fromhex(entry["salt"])) == 16 and len(bytes.fromhex(entry["hash"])) == 64
    except (TypeError, ValueError):
        return False


def _alone(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Between reading the file and writing it nobody else does: of two who add at once neither is lost."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    return exclusive(file.parent, "try again", lock=f".{file.name}.lock", wait=PATIENCE)


def _write(path: str | os.PathLike[str], users: Mapping[str, Any]) -> None:
    with atomic_write(Path(path)) as file:
        os.chmod(file.name, 0o600)
        file.write(json_text({"format": FORMAT, "users": users}))


def _article(role: Role) -> str:
    return f"an {role}"
