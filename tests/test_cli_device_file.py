"""The file of ``devconf devices import``: what is understood, and what is said of mistakes, with their lines."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devconf.cli.device_file import Row, WrongFile, decode, parse, read

ROWS = [
    Row(2, {"dev_refid": "box-1", "dev_name": "前门", "key_required": False}),
    Row(3, {"dev_refid": "box-2", "dev_type": "cam", "key_required": True}),
    Row(5, {"dev_refid": "box-3"}),
]
TEXT = "dev_refid,dev_name,dev_type,key_required\nbox-1,前门,,no\nbox-2,,cam,Yes\n\nbox-3,,,\n"


def faults(text: str) -> tuple[str, ...]:
    with pytest.raises(WrongFile) as wrong:
        parse(text)
    return tuple(wrong.value.args)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        TEXT.removesuffix("\n"),
        TEXT.replace("dev_refid,dev_name", ' Dev_RefID , "dev_name"').replace("box-1", ' "box-1" '.strip()),
        TEXT.replace("box-3,,,", "box-3,,,,,"),
        TEXT.replace("box-3,,,", "box-3"),
    ],
    ids=["plain", "crlf", "semicolons", "tabs", "no-end", "quotes", "empty-cells", "short-line"],
)
def test_what_spreadsheets_save_is_understood(text: str) -> None:
    assert parse(text) == ROWS


def test_a_spreadsheet_may_say_what_separates_the_cells() -> None:
    (row,) = parse("sep=;\r\ndev_refid;dev_name\r\nbox-1;a,b\r\n")
    assert row == Row(3, {"dev_refid": "box-1", "dev_name": "a,b"})


def test_one_column_is_enough() -> None:
    assert parse("dev_refid\na\nb\n") == [Row(2, {"dev_refid": "a"}), Row(3, {"dev_refid": "b"})]


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("gb18030"),
    ],
    ids=["utf-8", "bom", "utf-16", "gb18030"],
)
def test_the_encoding_is_told_from_the_file(content: bytes) -> None:
    assert parse(decode(content, None)) == ROWS


def test_an_encoding_that_cannot_be_told_is_asked_for() -> None:
    rare = "dev_refid,dev_name\nbox-1,门\nbox-2,龘\n"
    for content in (rare.encode("gb18030"), "dev_refid,dev_name\nbox-1,x\nbox-2,für\n".encode("latin-1")):
        with pytest.raises(WrongFile) as wrong:
            decode(content, None)
        (fault,) = wrong.value.args
        assert fault.endswith(
            "is not UTF-8, and cannot be told to be GB18030; save the file as UTF-8, or use --encoding"
        )
    assert decode(rare.encode("gb18030"), "gb18030") == rare
    with pytest.raises(WrongFile, match="line 3 is not UTF-8; see --encoding"):
        decode(b"dev_refid\na\n\xff\n", "utf-8")


def test_the_line_of_a_letter_that_is_wrong_is_named() -> None:
    with pytest.raises(WrongFile, match="line 3 is not UTF-8, and cannot"):
        decode(b"dev_refid\na\n\xff\n", None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "",
            "line 1 must name the columns, dev_refid among them; known are dev_refid, dev_name, dev_type, key_required",
        ),
        (
            "box-1,x\n",
            "line 1 must name the columns, dev_refid among them; known are dev_refid, dev_name, dev_type, key_required",
        ),
        (
            "dev_refid,color\na,b\n",
            "line 1: 'color' is no known column; known are dev_refid, dev_name, dev_type, key_required",
        ),
        ("dev_refid,dev_name,dev_refid\na,b,c\n", "line 1: the column dev_refid is there twice"),
        ("dev_refid,dev_name\n", "there are no devices in it, only headings"),
        ("dev_refid,dev_name\n,b\n", "line 2: dev_refid is empty"),
        ("dev_refid,dev_name\na,b,c\n", "line 2: there are more cells than columns"),
        ("dev_refid\na\n\nb\na\n", "line 5: 'a' is in line 2 already"),
        (
            "dev_refid,key_required\na,perhaps\n",
            "line 2: key_required is 'perhaps'; write yes or no, or leave it empty",
        ),
        ("dev_refid\n" + "a" * 257, "line 2: dev_refid has more than 256 letters"),
        ('dev_refid\n"a\nb"\n', "line 2: dev_refid has a letter that cannot be printed"),
        ('dev_refid\na\n"b\nc\n', "line 3: unexpected end of data"),
        (
            "dev_refid\n2,10235E+14\n".replace(",", "."),
            "line 2: 2.10235E+14 is a number that a spreadsheet has shortened; make the column text and save again",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, told: str) -> None:
    assert faults(text) == (told,)


def test_all_mistakes_are_told_at_once_but_not_too_many(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("dev_refid,dev_name\n" + ",x\n" * 12)
    with pytest.raises(click.UsageError) as wrong:
        read(str(path))
    assert wrong.value.message.startswith(f"{path}: line 2: dev_refid is empty; line 3: dev_refid is empty; ")
    assert wrong.value.message.endswith("line 11: dev_refid is empty; and 2 more")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="cannot be read: No such file or directory"):
        read(str(tmp_path / "nothing.csv"))


@given(st.binary(max_size=200))
def test_whatever_is_in_it_it_is_understood_or_refused(content: bytes) -> None:
    for beginning in (b"", b"dev_refid,dev_name\n"):
        with suppress(WrongFile):
            assert all(row.dev_refid for row in parse(decode(beginning + content, None)))
