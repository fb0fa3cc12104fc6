"""Is this file what it claims to be? (``docs/protocol.md`` §4, "put store_confs")

A file is kept byte for byte and only checked here: nothing in it is expanded, fetched or changed. What is sent
comes from outside and may be made to hurt, so every step takes time and memory in proportion to its length.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from typing import NoReturn
from xml.parsers import expat

from devconf.errors import CommandFailed, Ecode

#: What a ``file_ext`` may be: for the schemas of the commands that take one.
FILE_EXT_PATTERN = r"\A[A-Za-z0-9]{1,16}\Z"

#: Elements of XML, arrays and objects of JSON, nested deeper than this are refused.
MAX_DEPTH = 256

_PATH = "$.params.file_b64"


def check(file_ext: str, file_b64: str, limit: int) -> bytes:
    """Return the content that ``file_b64`` stands for.

    It touches nothing but its arguments. A file that is made to be slow may take 0.2 s for each MiB: call it in a
    thread.

    :param file_ext: the extension, of :data:`FILE_EXT_PATTERN`; ``xml`` and ``json`` in any case are checked for
        being well-formed, of other files nothing is known.
    :param file_b64: the content in base64 with its padding, without white space (RFC 4648 §4).
    :param limit: the most bytes that the content may have.
    :raises CommandFailed: ``BAD_CONTENT`` (§3): it is empty, too large, no base64, or not well-formed.
        ``enote`` says where, and never quotes the content.
    """
    content = _decoded(file_b64, limit)
    kind = file_ext.lower()
    if kind == "xml":
        _check_xml(content)
    elif kind == "json":
        _check_json(content)
    return content


def _refuse(reason: str) -> NoReturn:
    raise CommandFailed(Ecode.BAD_CONTENT, f"{_PATH} {reason}") from None


_NOT_IN_ALPHABET = re.compile(r"[^A-Za-z0-9+/=]")


def _decoded(file_b64: str, limit: int) -> bytes:
    if not file_b64:
        _refuse("is empty; send the content of the file in base64")
    # The text is measured first, so that what is too large is never copied.
    if len(file_b64) > (limit + 2) // 3 * 4:
        _refuse_large(limit)
    if stranger := _NOT_IN_ALPHABET.search(file_b64):
        _refuse(
            f"is not base64: character {stranger.start() + 1} is none of A-Z, a-z, 0-9, + and /;"
            " send it without spaces and line breaks"
        )
    try:
        content = binascii.a2b_base64(file_b64, strict_mode=True)
    except binascii.Error:
        content = b""
    # Encoding it again finds what the decoder overlooks: too much padding, and bits that a cut has left at the end.
    if base64.b64encode(content) != file_b64.encode("ascii"):
        _refuse("is not base64: it is cut off, or its padding (=) is wrong")
    if len(content) > limit:
        _refuse_large(limit)
    return content


def _refuse_large(limit: int) -> NoReturn:
    _refuse(f"is too large: a file may have {limit} bytes, before base64")


# --- XML

#: The names under which a file in UTF-16 of either byte order may declare itself.
_UTF16 = {"utf-16-le": ("utf-16", "utf-16le"), "utf-16-be": ("utf-16", "utf-16be")}

#: The encodings that an XML file may declare, each with the codec that decodes it. All of them write a declaration
#: as ASCII does, but for UTF-16, and no name from a file is ever looked up among Python's codecs. The national
#: standard GB18030 contains the two before it, and files that declare those do use its characters.
_CODECS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "ascii",
    "ascii": "ascii",
    **dict.fromkeys(("gb2312", "gb-2312", "gb-2312-80", "gbk", "x-gbk", "cp936", "gb18030"), "gb18030"),
    "big5": "big5",
    "big5-hkscs": "big5hkscs",
    "shift-jis": "shift_jis",
    "sjis": "shift_jis",
    "windows-31j": "cp932",
    "euc-jp": "euc_jp",
    "euc-kr": "euc_kr",
    "ks-c-5601-1987": "cp949",
    "koi8-r": "koi8_r",
    "koi8-u": "koi8_u",
    "tis-620": "tis_620",
    "latin1": "iso8859-1",
    "latin-1": "iso8859-1",
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in range(1, 17) if part != 12},
    **{f"windows-{page}": f"cp{page}" for page in range(1250, 1259)},
    **{f"cp{page}": f"cp{page}" for page in range(1250, 1259)},
}

_DECLARATION_MAX = 1024
_DECLARATION = re.compile(
    r"""
    <\?xml [ \t\r\n]+ version [ \t\r\n]* = [ \t\r\n]* (?: "1\.[0-9]+" | '1\.[0-9]+' )
    (?: [ \t\r\n]+ encoding [ \t\r\n]* = [ \t\r\n]* (?P<quote>["']) (?P<name>[A-Za-z][A-Za-z0-9._-]*) (?P=quote) )?
    (?: [ \t\r\n]+ standalone [ \t\r\n]* = [ \t\r\n]* (?: "(?:yes|no)" | '(?:yes|no)' ) )?
    [ \t\r\n]* \?>
    """,
    re.VERBOSE,
)
_DECLARATION_BEGINS = re.compile(r"<\?xml[ \t\r\n]")
_NOT_A_LINE_BREAK = re.compile(r"[^\r\n]")


def _check_xml(content: bytes) -> None:
    text = _xml_text(content)
    # Expat would take a second mark or declaration at the start for the first.
    if text.startswith("\ufeff"):
        _refuse("is not well-formed XML: there are two byte order marks")
    # No XML may have it; at the start it would make expat guess at UTF-16, whatever it was told.
    if "\0" in text:
        _refuse("is not well-formed XML: it has a NUL character; UTF-16 needs a byte order mark")
    parser = expat.ParserCreate("utf-8")
    depth = 0

    def enter(_name: str, _attributes: list[str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            _refuse(f"is XML nested deeper than {MAX_DEPTH} elements; make it flatter")

    def leave(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def document_type(*_: object) -> None:
        _refuse("is XML with a document type (<!DOCTYPE>), which is not accepted; leave it out")

    def entity(*_: object) -> None:
        _refuse("is XML that declares entities, which is not accepted; write the text itself")

    parser.ordered_attributes = True
    parser.StartElementHandler = enter
    parser.EndElementHandler = leave
    parser.StartDoctypeDeclHandler = document_type
    parser.EntityDeclHandler = entity
    try:
        _feed(parser, text.encode("utf-8"))
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        _refuse(f"is not well-formed XML: {reason}, at line {error.lineno}, column {error.offset + 1}")


_SLICE = 1024 * 1024
_TOKEN_MAX = 4 * _SLICE


def _feed(parser: expat.XMLParserType, data: bytes) -> None:
    # Expat begins a tag or comment that is not at its end yet anew with each slice: a long one costs the square of
    # its length. In a file of 1 MiB, however encoded, none reaches the bound.
    for start in range(0, len(data), _SLICE):
        piece = data[start : start + _SLICE]
        parser.Parse(piece, False)
        if start + len(piece) - parser.CurrentByteIndex > _TOKEN_MAX:
            _refuse(f"is XML with a tag or comment of more than {_TOKEN_MAX} bytes; make it shorter")
    parser.Parse(b"", True)


def _xml_text(content: bytes) -> str:
    """Return the text of an XML file, its declaration blanked out (expat knows few encodings by itself)."""
    codec, start = _by_first_bytes(content)
    if codec in _UTF16:
        text = _text(content, codec, start, "UTF-16")
        declaration, name = _declaration(text[:_DECLARATION_MAX])
        if name is not None and name.lower() not in _UTF16[codec]:
            _refuse(f'is not well-formed XML: it declares the encoding "{name[:40]}" but is UTF-16')
    else:
        declaration, name = _declaration(content[start : start + _DECLARATION_MAX].decode("iso8859-1"))
        codec = _codec(name, marked=start > 0)
        text = _text(content, codec, start, name or "UTF-8")
    return _NOT_A_LINE_BREAK.sub(" ", declaration) + text[len(declaration) :]


def _by_first_bytes(content: bytes) -> tuple[str, int]:
    """Return the codec that the first bytes show (XML 1.0, appendix F) and how many are a byte order mark."""
    if content.startswith(codecs.BOM_UTF8):
        return "utf-8", 3
    if content.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le", 2
    if content.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be", 2
    if content.startswith(b"<\0?\0"):
        return "utf-16-le", 0
    if content.startswith(b"\0<\0?"):
        return "utf-16-be", 0
    return "utf-8", 0


def _declaration(head: str) -> tuple[str, str | None]:
    """Return the XML declaration with which ``head`` begins, or nothing, and the encoding that it names."""
    if not _DECLARATION_BEGINS.match(head):
        return "", None
    if match := _DECLARATION.match(head):
        return match.group(), match.group("name")
    _refuse("is not well-formed XML: the declaration (<?xml ...?>) in its first line is wrong")


def _codec(name: str | None, *, marked: bool) -> str:
    """Return the codec of the encoding ``name``; ``marked`` with the byte order mark of UTF-8."""
    if name is None:
        return "utf-8"
    declared = name.lower().replace("_", "-")
    if declared in ("utf-16", "utf-16le", "utf-16be"):
        _refuse(f'is not well-formed XML: it declares the encoding "{name}" but is not UTF-16')
    if declared not in _CODECS:
        _refuse(f'is XML in the encoding "{name[:40]}", which is not accepted; save it as UTF-8')
    codec = _CODECS[declared]
    if marked and codec != "utf-8":
        _refuse(f'is not well-formed XML: it declares the encoding "{name}" but has the mark of UTF-8')
    return codec


def _text(content: bytes, codec: str, start: int, name: str) -> str:
    try:
        return content[start:].decode(codec)
    except UnicodeDecodeError as error:
        _refuse(f"is not well-formed XML: byte {start + error.start + 1} is not {name}")


# --- JSON

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_NOT_A_BRACKET = re.compile(r"[^][{}]+")


def _check_json(content: bytes) -> None:
    if content.startswith(codecs.BOM_UTF8):
        _refuse("is not well-formed JSON: it begins with a byte order mark; save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"is not well-formed JSON: byte {error.start + 1} is not UTF-8")
    try:
        _json.decode(text)
    except RecursionError:
        _refuse_deep_json()
    except json.JSONDecodeError as error:
        _refuse(f"is not well-formed JSON: {error.msg}, at line {error.lineno}, column {error.colno}")
    # Counting is much cheaper than measuring, and few brackets cannot be deep.
    if text.count("[") + text.count("{") > MAX_DEPTH and _json_depth(text) > MAX_DEPTH:
        _refuse_deep_json()


def _refuse_deep_json() -> NoReturn:
    _refuse(f"is JSON nested deeper than {MAX_DEPTH} levels; make it flatter")


def _json_constant(name: str) -> NoReturn:
    _refuse(f"is not well-formed JSON: {name} is no number of JSON")


def _json_number(_digits: str) -> None:
    """Return nothing for a number: only its form counts, and a very long one would be slow to convert."""


_json = json.JSONDecoder(parse_constant=_json_constant, parse_int=_json_number, parse_float=_json_number)


def _json_depth(text: str) -> int:
    """Return how deep ``text``, which is well-formed, is nested."""
    depth = deepest = 0
    for bracket in _NOT_A_BRACKET.sub("", _STRING.sub("", text)):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest
