"""The file of ``devconf devices import``: a table of devices, as spreadsheets save it.

It is read and checked as a whole, so that nothing is enrolled from a file with a mistake in it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from attrs import frozen

COLUMNS = ("dev_refid", "dev_name", "dev_type", "key_required")
ENCODINGS = ("utf-8", "gb18030", "utf-16")

#: Letters of a field; the server's bound.
LONGEST = 256
#: So many faults are told at once.
TOLD = 10

_YES = {"true", "yes", "y", "1", "是"}
_NO = {"false", "no", "n", "0", "否"}
#: What a spreadsheet makes of a long number.
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]+\Z")


@frozen
class Row:
    """A device of the file.

    :ivar line: where it stands, from 1.
    :ivar params: of ``post devices``.
    """

    line: int
    params: dict[str, Any]

    @property
    def dev_refid(self) -> str:
        """What the device calls itself."""
        return str(self.params["dev_refid"])


class WrongFile(Exception):
    """What is wrong with the file: a sentence for each fault."""


def read(path: str, encoding: str | None = None) -> list[Row]:
    """Return the devices of the file ``path``.

    :param encoding: how it is encoded; None: that is told from the file.
    :raises click.UsageError: it cannot be read, or has mistakes: the message names their lines.
    """
    try:
        return parse(decode(Path(path).read_bytes(), encoding))
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except WrongFile as wrong:
        faults = list(wrong.args)
        if len(faults) > TOLD:
            faults[TOLD:] = [f"and {len(faults) - TOLD} more"]
        raise click.UsageError(f"{path}: {'; '.join(faults)}") from None


def decode(content: bytes, encoding: str | None) -> str:
    """Return the text of ``content``.

    :raises WrongFile: it is not of that encoding, or no encoding can be told.
    """
    if encoding is None and content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    try:
        return content.decode("utf-8-sig" if encoding in (None, "utf-8") else encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    if encoding is not None:
        raise WrongFile(f"line {line} is not {encoding.upper()}; see --encoding")
    try:
        # The common letters only: bytes of other encodings hardly ever happen to be these, but often the rare ones.
        return content.decode("gb2312")
    except UnicodeDecodeError:
        raise WrongFile(
            f"line {line} is not UTF-8, and cannot be told to be GB18030; save the file as UTF-8, or use --encoding"
        ) from None


def parse(text: str) -> list[Row]:
    """Return the devices in ``text``, a line of headings and a line for each.

    :raises WrongFile: there are mistakes.
    """
    lines = _records(text)
    number, headings = next(lines, (1, []))
    names = [heading.strip().lower() for heading in headings]
    faults = list(_wrong_headings(number, names))
    if faults:
        raise WrongFile(*faults)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, cells in lines:
        values = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        here = [f"line {number}: {fault}" for fault in _wrong_row(values, cells[len(names) :])]
        dev_refid = values.get("dev_refid", "")
        if dev_refid and seen.setdefault(dev_refid, number) != number:
            here.append(f"line {number}: {dev_refid!r} is in line {seen[dev_refid]} already")
        if not here:
            rows.append(Row(number, _params(values)))
        faults += here
    if not rows and not faults:
        faults.append("there are no devices in it, only headings")
    if faults:
        raise WrongFile(*faults)
    return rows


def _records(text: str) -> Iterator[tuple[int, list[str]]]:
    """Return the lines that are not empty, each with its number."""
    first, _, rest = text.partition("\n")
    # Some spreadsheets say in a line of its own what separates the cells.
    said = re.match(r"sep=(.)\r?\Z", first)
    separator = said[1] if said else max(",;\t", key=first.count)
    source = io.StringIO(rest if said else text, newline="")
    reader = csv.reader(source, delimiter=separator, skipinitialspace=True, strict=True)
    number = before = int(bool(said))
    try:
        for cells in reader:
            number, before = before + 1, reader.line_num + int(bool(said))
            if any(cell.strip() for cell in cells):
                yield number, cells
    except csv.Error as error:
        raise WrongFile(f"line {before + 1}: {error}") from None


def _wrong_headings(line: int, names: list[str]) -> Iterator[str]:
    while names and not names[-1]:
        names.pop()
    known = ", ".join(COLUMNS)
    if "dev_refid" not in names:
        yield f"line {line} must name the columns, dev_refid among them; known are {known}"
        return
    for place, name in enumerate(names):
        if name not in COLUMNS:
            yield f"line {line}: {name!r} is no known column; known are {known}"
        elif name in names[:place]:
            yield f"line {line}: the column {name} is there twice"


def _wrong_row(values: dict[str, str], further: list[str]) -> Iterator[str]:
    if any(cell.strip() for cell in further):
        yield "there are more cells than columns"
    if not values.get("dev_refid"):
        yield "dev_refid is empty"
    elif _SHORTENED.match(values["dev_refid"]):
        yield f"{values['dev_refid']} is a number that a spreadsheet has shortened; make the column text and save again"
    for name, value in values.items():
        if len(value) > LONGEST:
            yield f"{name} has more than {LONGEST} letters"
        elif not value.isprintable():
            yield f"{name} has a letter that cannot be printed"
    if values.get("key_required", "").lower() not in _YES | _NO | {""}:
        yield f"key_required is {values['key_required']!r}; write yes or no, or leave it empty"


def _params(values: dict[str, str]) -> dict[str, Any]:
    params: dict[str, Any] = {name: value for name, value in values.items() if value}
    if "key_required" in params:
        params["key_required"] = params["key_required"].lower() in _YES
    return params
