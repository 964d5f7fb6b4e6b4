"""Streamlit collects the garbage of the whole process after every run of a page, so that its memory stays bounded.

Most of what it then goes through are the modules, which never become garbage: that took half of the processor's time.
So these are set aside, and what is left to go through are the objects of the sessions.
"""

from __future__ import annotations

import gc
import sys

_known = 0


def set_modules_aside() -> None:
    """What is alive now is no more looked at by the collector, if modules were imported since the last time."""
    global _known
    if len(sys.modules) > _known:
        gc.collect()
        gc.freeze()
        _known = len(sys.modules)
