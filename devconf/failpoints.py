"""Named places at which a test kills this process, to see what a crash there leaves behind.

Set ``DEVCONF_FAILPOINT`` to a name below, and the process ends with SIGKILL the first time it gets there; with
``<name>:<n>``, the n-th time. Nothing but a test sets it.
"""

from __future__ import annotations

import os
import signal

#: Every place, in the order in which a command passes them.
NAMES = (
    "after plan",
    "before send",
    "answer received",
    "answer written",
    "before settle",
    "after settle",
    "before answer",
)

_armed, _, _times = os.environ.get("DEVCONF_FAILPOINT", "").partition(":")
_left = int(_times or 1)
if _armed and _armed not in NAMES:
    raise ValueError(f"DEVCONF_FAILPOINT is {_armed!r}; it can be one of {', '.join(NAMES)}")


def reach(name: str) -> None:
    """Kill this process if the failpoint ``name`` is armed, and this is the time."""
    global _left
    if _armed == name:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
