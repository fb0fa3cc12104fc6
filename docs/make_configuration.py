"""Makes ``configuration.md`` from the docstrings, types and defaults of ``devconf/config.py``: ``make docs``."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from attrs import fields

from devconf.config import Config, Limits, parse
from devconf.errors import StartupError

PATH = Path(__file__).with_name("configuration.md")

WRONG = 'device_timout = 5\nallowed_hosts = ["a:80"]\n[limits]\nhistory_days = 0\n'

INTRODUCTION = """\
<!-- Made from devconf/config.py by `make docs`: correct it there. -->

# Configuration

The server reads one file of [TOML](https://toml.io), which is named when it is started: `twistd devconf --config FILE`.
What the file leaves out has its default, and without a file everything has.
[etc/devconf.toml](../etc/devconf.toml) is a sample with every key, to begin with.

The file is read once, at the start: restart the server after a change.
A wrong or unknown key keeps it from starting, and all that is wrong is told at once:

```text
{faults}
```
"""

LIMITS = """\
## `[limits]`

What is bounded, so that no peer can use up the server.
These keys stand below the line `[limits]`, and all others above it.
What a client is told at each bound is in [protocol.md](protocol.md#7-limits).
"""


def document() -> str:
    """The text of ``configuration.md``."""
    parts = [INTRODUCTION.format(faults=faults()), "## Keys at the top\n", *sections(Config, "")]
    return "\n".join([*parts, LIMITS, *sections(Limits, "[limits]\n")])


def faults() -> str:
    """What the server says of a wrong configuration."""
    try:
        parse(WRONG, "devconf.toml")
    except StartupError as error:
        return str(error)
    raise AssertionError("a wrong configuration was taken")


def sections(kind: type[Any], table: str) -> list[str]:
    """A section for each key of ``kind``; its examples stand below the line ``table``."""
    hints = get_type_hints(kind, include_extras=True)
    told = texts(kind)
    made = []
    for item in fields(kind):
        if item.name == "limits":
            continue
        text, _, example = told[item.name].partition(" Example: ")
        text = text.replace("``", "`")
        lines = [f"### `{item.name}`", "", facts(hints[item.name], item.default, "bytes" in text), ""]
        lines += [*re.split(r"(?<=\.) (?=[A-Z`])", text), ""]
        if example:
            lines += ["```toml", table + example.strip("`"), "```", ""]
        made.append("\n".join(lines))
    return made


def texts(kind: type[Any]) -> dict[str, str]:
    """What the docstring of ``kind`` says of each key, on one line."""
    parts = re.split(r"^:ivar (\w+):", inspect.getdoc(kind) or "", flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def facts(hint: Any, default: Any, in_bytes: bool) -> str:
    """Type, bounds and default of a key, in words."""
    shown = "not set" if default is None else f"`{json.dumps(default)}`"
    kind, bounds = hint, ""
    if get_origin(hint) is Annotated:
        kind, meta = get_args(hint)
        least = f"{meta.ge} or more" if meta.gt is None else f"more than {meta.gt}"
        bounds = f", {least}, at most {meta.le}{size(meta.le) if in_bytes else ''}"
        shown += size(default) if in_bytes else ""
    word = {int: "An integer", float: "A number", tuple: "A list of strings"}.get(get_origin(kind) or kind, "A string")
    return f"*{word}{bounds}. Default: {shown}.*"


def size(number: int) -> str:
    """A number of bytes in a larger unit, if it is a whole number of them."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if number % unit == 0:
            return f" ({number // unit} {name})"
    return ""


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
