"""Files are checked for being what they claim, and come back byte for byte."""

from __future__ import annotations

import base64
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devconf.commands.content import FILE_EXT_PATTERN, MAX_DEPTH, check
from devconf.errors import CommandFailed, Ecode

LIMIT = 1024 * 1024


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def refusal(file_ext: str, content: bytes | str, limit: int = LIMIT) -> str:
    """Return why ``content`` (text: as it is, bytes: in base64) is refused."""
    with pytest.raises(CommandFailed) as caught:
        check(file_ext, content if isinstance(content, str) else b64(content), limit)
    assert caught.value.ecode is Ecode.BAD_CONTENT
    assert caught.value.payload == {}
    path, _, reason = caught.value.enote.partition(" ")
    assert path == "$.params.file_b64"
    return reason


def declaring(encoding: str) -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?><a/>'


def accepted(file_ext: str, content: bytes) -> bool:
    return check(file_ext, b64(content), LIMIT) == content


# --- base64 and size

CUT = "is not base64: it is cut off, or its padding (=) is wrong"


@given(st.binary(min_size=1))
def test_any_bytes_come_back(content: bytes) -> None:
    assert check("bin", b64(content), LIMIT) == content


def test_a_file_may_have_exactly_the_limit() -> None:
    for limit in range(1, 8):
        assert check("bin", b64(b"x" * limit), limit) == b"x" * limit
        assert refusal("bin", b"x" * (limit + 1), limit) == (
            f"is too large: a file may have {limit} bytes, before base64"
        )


def test_what_is_far_too_large_is_refused_by_its_length_alone() -> None:
    assert refusal("bin", "?" * 200, 99) == "is too large: a file may have 99 bytes, before base64"


def test_an_empty_file_is_refused() -> None:
    assert refusal("bin", "") == "is empty; send the content of the file in base64"


@pytest.mark.parametrize(
    "text", ["=", "====", "A", "AA", "AA=", "AAA", "AAA==", "AAAA=", "AAAA====", "AA==AAAA", "A=AA"]
)
def test_wrong_padding_is_refused(text: str) -> None:
    assert refusal("bin", text) == CUT


def test_bits_after_the_last_byte_are_refused() -> None:
    assert check("bin", "QQ==", LIMIT) == b"A"
    assert refusal("bin", "QR==") == CUT


@pytest.mark.parametrize("text", ["QUJ D", "QUJ\n", "QUJ-", "QUJ_", "QUJ\u00e9", "QUJ\ud800", "QUJ\0"])
def test_a_character_outside_the_alphabet_is_refused_by_its_place(text: str) -> None:
    assert refusal("bin", text) == (
        "is not base64: character 4 is none of A-Z, a-z, 0-9, + and /; send it without spaces and line breaks"
    )


# --- XML: encodings

CHINESE = "<配置><名>摄像头</名></配置>"


@pytest.mark.parametrize(
    ("declared", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("UTF-8", "utf-8-sig"),
        ("utf8", "utf-8"),
        ("GB2312", "gb2312"),
        ("gb2312", "gb18030"),
        ("GBK", "gbk"),
        ("GB18030", "gb18030"),
        ("UTF-16", "utf-16"),
        ("utf-16le", "utf-16-le"),
        ("EUC-JP", "euc_jp"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_declares(declared: str, codec: str) -> None:
    text = f'<?xml version="1.0" encoding="{declared}" standalone="yes"?>\n{CHINESE}'
    assert accepted("xml", text.replace("头", "機").encode(codec, errors="xmlcharrefreplace"))


@pytest.mark.parametrize(
    ("declared", "codec", "text"),
    [
        ("Big5", "big5", "設定"),
        ("Shift_JIS", "shift_jis", "設定"),
        ("EUC-KR", "euc_kr", "설정"),
        ("ISO-8859-1", "latin-1", "é"),
        ("latin1", "latin-1", "é"),
        ("windows-1252", "cp1252", "€"),
        ("Windows-1251", "cp1251", "настройка"),
        ("US-ASCII", "ascii", "setting"),
    ],
)
def test_xml_in_a_regional_encoding(declared: str, codec: str, text: str) -> None:
    assert accepted("xml", f"<?xml version='1.0' encoding='{declared}'?><a>{text}</a>".encode(codec))


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_xml_without_a_declaration_is_utf_8_or_has_a_mark(codec: str) -> None:
    assert accepted("xml", CHINESE.encode(codec))


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_xml_in_utf_16_of_either_byte_order(mark: bytes) -> None:
    codec = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    text = f'<?xml version="1.0" encoding="utf-16"?>{CHINESE}'
    assert accepted("xml", mark + text.encode(codec))
    assert accepted("xml", text.encode(codec))


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_xml_in_wide_characters_without_mark_and_declaration_is_refused(codec: str) -> None:
    assert refusal("xml", "<a>b</a>".encode(codec)) == (
        "is not well-formed XML: it has a NUL character; UTF-16 needs a byte order mark"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<a>\xd6\xd0</a>", "byte 4 is not UTF-8"),
        (b'<?xml version="1.0" encoding="UTF-8"?><a>\xd6\xd0</a>', "byte 42 is not UTF-8"),
        (b'<?xml version="1.0" encoding="gb2312"?><a>\xd6</a>', "byte 43 is not gb2312"),
        (b'<?xml version="1.0" encoding="ascii"?><a>\xd6</a>', "byte 42 is not ascii"),
        (b"\xef\xbb\xbf<a>\xff</a>", "byte 7 is not UTF-8"),
        (b"\xff\xfe<\0a\0>\0\0\xd8<\0", "byte 9 is not UTF-16"),
        (b"\xff\xfe<\0a\0/\0>\0!", "byte 11 is not UTF-16"),
        (declaring("utf-16").encode(), 'it declares the encoding "utf-16" but is not UTF-16'),
        (declaring("utf-8").encode("utf-16"), 'it declares the encoding "utf-8" but is UTF-16'),
        (declaring("utf-16be").encode("utf-16-le"), 'it declares the encoding "utf-16be" but is UTF-16'),
        (declaring("GBK").encode("utf-8-sig"), 'it declares the encoding "GBK" but has the mark of UTF-8'),
        (b"\xef\xbb\xbf\xef\xbb\xbf<a/>", "there are two byte order marks"),
        ("\ufeff\ufeff<a/>".encode("utf-16-be"), "there are two byte order marks"),
    ],
)
def test_xml_that_is_not_in_its_encoding_is_refused(content: bytes, reason: str) -> None:
    assert refusal("xml", content) == f"is not well-formed XML: {reason}"


@pytest.mark.parametrize(
    "name",
    ["rot13", "base64", "hex", "zlib", "unicode_escape", "utf-7", "utf-32", "idna", "punycode", "undefined", "cp037"],
)
def test_xml_in_an_encoding_off_the_list_is_refused(name: str) -> None:
    assert (
        refusal("xml", declaring(name).encode())
        == f'is XML in the encoding "{name}", which is not accepted; save it as UTF-8'
    )


def test_a_long_name_of_an_encoding_is_cut() -> None:
    reason = f'is XML in the encoding "{"x" * 40}", which is not accepted; save it as UTF-8'
    assert refusal("xml", declaring("x" * 500).encode()) == reason


# --- XML: declaration and form

NOT_AT_START = "XML or text declaration not at start of entity"
WRONG_DECLARATION = "is not well-formed XML: the declaration (<?xml ...?>) in its first line is wrong"


@pytest.mark.parametrize(
    "declaration",
    [
        '<?xml version="1.0"?>',
        "<?xml version='1.1' ?>",
        "<?xml\tversion = '1.0'\r\n encoding = 'utf-8' standalone = 'no'?>",
        "<?xml-stylesheet href='a.css'?>",
        "<!-- " + "x" * 5000 + " -->",
    ],
)
def test_xml_may_begin_with(declaration: str) -> None:
    assert accepted("xml", f"{declaration}<a/>".encode("ascii"))


@pytest.mark.parametrize(
    "declaration",
    [
        "<?xml ?>",
        '<?xml version="2.0"?>',
        "<?xml version=1.0?>",
        '<?xml encoding="utf-8"?>',
        '<?xml encoding="utf-8" version="1.0"?>',
        '<?xml version="1.0" encoding="ut f"?>',
        '<?xml version="1.0" encoding=""?>',
        '<?xml version="1.0"encoding="utf-8"?>',
        '<?xml version="1.0" standalone="maybe"?>',
        '<?xml version="1.0" encoding="utf-8"',
        f'<?xml version="1.0"{" " * 2000}?>',
    ],
)
def test_a_wrong_declaration_is_refused(declaration: str) -> None:
    assert refusal("xml", f"{declaration}<a/>".encode("ascii")) == WRONG_DECLARATION


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  ", "no element found, at line 1, column 3"),
        ("no xml", "syntax error, at line 1, column 1"),
        ("<a>\n<b>\n</a>", "mismatched tag, at line 3, column 3"),
        ("<a/><b/>", "junk after document element, at line 1, column 5"),
        ("<a", "unclosed token, at line 1, column 1"),
        ("<a x='1' x='2'/>", "duplicate attribute, at line 1, column 10"),
        ("<a>&copy;</a>", "undefined entity, at line 1, column 4"),
        ("<a>\uffff</a>", "not well-formed (invalid token), at line 1, column 4"),
        ('<?xml version="1.0"?><?xml version="1.0"?><a/>', f"{NOT_AT_START}, at line 1, column 22"),
        (' <?xml version="1.0"?><a/>', f"{NOT_AT_START}, at line 1, column 2"),
        ('<?xml version="1.0"\n\n?>\n<a>', "no element found, at line 4, column 4"),
        ("<a>\0</a>", "it has a NUL character; UTF-16 needs a byte order mark"),
    ],
)
def test_xml_that_is_not_well_formed_is_refused_with_its_place(text: str, reason: str) -> None:
    assert refusal("xml", text.encode("utf-8")) == f"is not well-formed XML: {reason}"


@pytest.mark.parametrize("file_ext", ["xml", "XML", "Xml"])
def test_the_extension_is_read_in_any_case(file_ext: str) -> None:
    assert accepted(file_ext, b"<a/>")
    assert refusal(file_ext, b"<a>") == "is not well-formed XML: no element found, at line 1, column 4"


# --- XML: made to hurt

DOCUMENT_TYPE = "is XML with a document type (<!DOCTYPE>), which is not accepted; leave it out"


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a><a/>",
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/x.dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        f'<!DOCTYPE a [<!ENTITY x "{"y" * 50_000}">]><a>{"&x;" * 5_000}</a>',
        '<!DOCTYPE a [<!ENTITY x0 "y">'
        + "".join(f'<!ENTITY x{n + 1} "{f"&x{n};" * 10}">' for n in range(9))
        + "]><a>&x9;</a>",
        "<!DOCTYPE a [<!ENTITY % x \"<!ENTITY y 'z'>\"> %x;]><a>&y;</a>",
    ],
    ids=["bare", "external", "file", "quadratic", "billion", "parameter"],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_a_document_type_is_refused_before_anything_in_it(text: str, codec: str) -> None:
    assert refusal("xml", text.encode(codec)) == DOCUMENT_TYPE


def test_a_declared_entity_outside_a_document_type_is_no_xml() -> None:
    assert refusal("xml", b'<!ENTITY x "y"><a/>') == "is not well-formed XML: syntax error, at line 1, column 1"


def test_a_document_type_does_not_hide_in_utf_16_without_a_mark() -> None:
    # Expat would read it, whatever encoding it is told.
    assert refusal("xml", "<!DOCTYPE a><a/>".encode("utf-16-le")) == (
        "is not well-formed XML: it has a NUL character; UTF-16 needs a byte order mark"
    )


def test_xml_may_be_nested_to_the_limit_and_no_deeper() -> None:
    assert accepted("xml", b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH)
    assert accepted("xml", b"<b>" + b"<a></a>" * 1000 + b"</b>")
    assert refusal("xml", b"<a>" * 257) == "is XML nested deeper than 256 elements; make it flatter"


def test_xml_in_a_large_file_may_not_have_an_endless_tag() -> None:
    limit = 16 * LIMIT
    text = b"<a>" + b"x" * (8 * LIMIT) + b"</a>"
    assert check("xml", b64(text), limit) == text
    for opening in (b"<a b='", b"<!--", b"<a>", b"<?a "):
        long = opening + b"<!--" * (opening == b"<a>") + b"x" * (6 * LIMIT)
        assert refusal("xml", long, limit) == (
            "is XML with a tag or comment of more than 4194304 bytes; make it shorter"
        )


# --- JSON

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.booleans())
def test_any_json_value_comes_back(value: object, ascii_only: bool) -> None:
    try:
        content = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8")
    except UnicodeEncodeError:
        content = json.dumps(value).encode("ascii")
    assert accepted("json", content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b" ", "Expecting value, at line 1, column 2"),
        (b'{"a": 1,\n"b"}', "Expecting ':' delimiter, at line 2, column 4"),
        (b"{'a': 1}", "Expecting property name enclosed in double quotes, at line 1, column 2"),
        (b"01", "Extra data, at line 1, column 2"),
        (b'"\x01"', "Invalid control character at, at line 1, column 2"),
        ("\uff11".encode(), "Expecting value, at line 1, column 1"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"Infinity", "Infinity is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b'"\xd6\xd0"', "byte 2 is not UTF-8"),
        (b'"\xed\xa0\x80"', "byte 2 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "byte 1 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it begins with a byte order mark; save it as UTF-8 without one"),
    ],
)
def test_json_that_is_not_well_formed_is_refused_with_its_place(content: bytes, reason: str) -> None:
    assert refusal("json", content) == f"is not well-formed JSON: {reason}"
    assert refusal("JSON", content) == f"is not well-formed JSON: {reason}"


@pytest.mark.parametrize("content", [b"1" * 10_000, b"1e999", b"-0", b'"\\ud800"', b' {"a":1,"a":2}\r\n'])
def test_json_is_judged_by_its_form_alone(content: bytes) -> None:
    assert accepted("json", content)


def test_json_may_be_nested_to_the_limit_and_no_deeper() -> None:
    too_deep = "is JSON nested deeper than 256 levels; make it flatter"
    assert accepted("json", b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert accepted("json", b'{"[[":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH)
    assert accepted("json", b"[" + b"[]," * 1000 + b'"\\"' + b"[" * 1000 + b'"]')
    assert refusal("json", b"[" * 257 + b"]" * 257) == too_deep
    assert refusal("json", b'{"a":' * 257 + b"1" + b"}" * 257) == too_deep
    assert refusal("json", b"[" * 500_000) == too_deep


# --- whatever comes

PIECES = [
    *rb"""< > / a & ; ' " [ ] <?xml version="1.0" encoding=" gbk" ?> <!DOCTYPE <!ENTITY <![CDATA[ --""".split(b" "),
    *rb"""{ } : , \ u 1 - e NaN""".split(b" "),
    *(b" ", b"\n", b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xd6\xd0", b"\x80"),
]
garbage = st.binary(min_size=1) | st.lists(st.sampled_from(PIECES), min_size=1).map(b"".join)


def outcome(file_ext: str, file_b64: str, limit: int) -> bytes | Ecode:
    try:
        return check(file_ext, file_b64, limit)
    except CommandFailed as error:
        return error.ecode


@given(st.sampled_from(["xml", "json"]), garbage)
@example("xml", b"\xff\xfe")
@example("xml", b"\xef\xbb\xbf")
@example("xml", b"\xff")
def test_garbage_is_taken_or_refused_and_nothing_else(file_ext: str, content: bytes) -> None:
    assert outcome(file_ext, b64(content), LIMIT) in (content, Ecode.BAD_CONTENT)


@given(st.text(), st.integers(1, 50))
def test_garbage_instead_of_base64_is_taken_or_refused_and_nothing_else(text: str, limit: int) -> None:
    result = outcome("bin", text, limit)
    assert result is Ecode.BAD_CONTENT or result == base64.b64decode(text)


@pytest.mark.parametrize("file_ext", ["x", "XML", "7z", "a" * 16])
def test_an_extension_is_letters_and_digits(file_ext: str) -> None:
    assert re.search(FILE_EXT_PATTERN, file_ext)


@pytest.mark.parametrize("file_ext", ["", "a" * 17, "xml\n", ".xml", "tar.gz", "é", "x y", "\uff11"])
def test_anything_else_is_no_extension(file_ext: str) -> None:
    assert not re.search(FILE_EXT_PATTERN, file_ext)
