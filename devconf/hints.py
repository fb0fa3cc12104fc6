"""When to come back: what a server says of it (``docs/protocol.md`` §6, close codes)."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime

#: Seconds: a server that asks for more is believed so far only.
HINT_MAX = 3600.0

_REASON = re.compile(r"\bretry after ([0-9]{1,9}) s\Z")


def in_reason(reason: str) -> float:
    """Return the seconds to wait at least that the ``reason`` of a close frame ends with; 0.0: none."""
    match = _REASON.search(reason)
    return min(HINT_MAX, float(match.group(1))) if match else 0.0


def in_headers(header: Callable[[str], str | None]) -> float:
    """Return the seconds to wait at least that the head of an HTTP answer tells; 0.0: none.

    A date counts from the ``Date`` of the same answer: our own clock may be wrong.

    :param header: returns the value of a header, by its name in small letters.
    """
    value = (header("retry-after") or "").strip()
    if value.isascii() and value.isdigit():
        return min(HINT_MAX, float(value[:9]))
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(header("date") or "")
    except (TypeError, ValueError):
        return 0.0
    return min(HINT_MAX, max(0.0, wait.total_seconds()))
