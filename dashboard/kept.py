"""What was shown lately, kept for everybody together: however many people look, it takes no more memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Any

LIMIT = 64 * 2**20
"""Bytes of pictures that are kept; at 1024x696 pixels about 80 of them."""


class Kept:
    """The latest values up to `limit` bytes in all, the very latest always among them. Safe in several threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._lock = Lock()
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Any:
        """The value of the key, which is the latest from now on; None where it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps the value, of so many bytes, in the place of another of the same key."""
        with self._lock:
            self._bytes += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self._bytes > self.limit and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1][1]

    @property
    def bytes(self) -> int:
        return self._bytes


PICTURES = Kept()
