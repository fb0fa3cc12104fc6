"""Messages: what is let in, what is said of what is not, and that nothing changes on the way."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from devconf import wire
from devconf.errors import CommandFailed, Ecode
from devconf.wire import DeviceAnswer, Limit, Request

# What JSON can say. Text has no lone surrogates: those are no characters.
texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)
objects = st.dictionaries(texts, values)


def refusal(function: Any, *args: Any, **options: Any) -> tuple[Ecode, str]:
    """How ``function`` refuses its arguments: ecode and enote, and nothing else in the answer."""
    with pytest.raises(CommandFailed) as caught:
        function(*args, **options)
    assert caught.value.payload == {}
    return caught.value.ecode, caught.value.enote


def outcome(function: Any, *args: Any) -> Any:
    """What ``function`` returns, or the ecode and the beginning of the enote of its refusal."""
    try:
        return function(*args)
    except CommandFailed as refused:
        return refused.ecode, refused.enote.partition(" ")[0].partition(".")[0], refused.payload


# -- decoding and encoding


@given(objects)
def test_an_object_survives_the_way(message: dict[str, Any]) -> None:
    assert wire.decode_object(wire.encode(message)) == message


@given(objects)
def test_what_is_encoded_is_json_in_utf_8(message: dict[str, Any]) -> None:
    assert json.loads(wire.encode(message).decode("utf-8")) == message


@given(objects, st.booleans())
def test_json_of_others_is_read_as_they_meant_it(message: dict[str, Any], ascii_only: bool) -> None:
    assert wire.decode_object(json.dumps(message, ensure_ascii=ascii_only, indent=1).encode()) == message


@given(st.binary() | st.text(st.sampled_from('{}[]":,\\u0123dD89 eE+-.nulltrfas\x00')).map(str.encode))
@example(b"[" * 1_000_000)
@example(b'{"a":' * 1_000_000)
@example(b'{"a":' + b"[" * 500_000 + b"]" * 500_000 + b"}")
def test_any_bytes_are_an_object_or_refused(payload: bytes) -> None:
    result = outcome(wire.decode_object, payload)
    assert isinstance(result, dict) or result == (Ecode.NOT_AN_OBJECT, "the", {})


@given(objects)
@example({"command": "x", "command ": "y", "COMMAND": "z"})
def test_any_object_is_a_request_or_refused(message: dict[str, Any]) -> None:
    result = outcome(wire.request_of, {"command": "c", **message})
    assert isinstance(result, Request) or result == (Ecode.BAD_FIELD, "$", {})


@pytest.mark.parametrize(
    ("payload", "is_a"),
    [
        (b"[]", "an array"),
        (b'[{"command": "x"}]', "an array"),
        (b'"text"', "a string"),
        (b"7", "a number"),
        (b"7.5", "a number"),
        (b"null", "no object"),
        (b"true", "no object"),
    ],
)
def test_json_that_is_no_object(payload: bytes, is_a: str) -> None:
    assert refusal(wire.decode_object, payload) == (
        Ecode.NOT_AN_OBJECT,
        f"the message is {is_a}; send a JSON object",
    )


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" \n", id="blank"),
        pytest.param(b"{", id="half an object"),
        pytest.param(b"{} {}", id="two objects"),
        pytest.param(b"{}x", id="something after it"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b'{"a": 1,}', id="a comma too many"),
        pytest.param(b"{1: 2}", id="a key that is no text"),
        pytest.param(b'{"a": 01}', id="a leading zero"),
        pytest.param(b'{"a": "\n"}', id="a control character"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', id="a byte order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"a": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"\xff": 1}', id="a key that is not UTF-8"),
        pytest.param("{'a': 'é'}".encode("latin-1"), id="Latin-1"),
        pytest.param(b'{"a": "\xc0\xaf"}', id="overlong UTF-8"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b'{"a": Infinity}', id="Infinity"),
        pytest.param(b'{"a": -Infinity}', id="-Infinity"),
        pytest.param(b'{"a": 1e999}', id="a number that is infinite"),
        pytest.param(b'{"a": [{"b": -1e999}]}', id="a number that is infinite, deeper"),
        pytest.param(b'{"a": "\\ud800"}', id="the first half of a pair"),
        pytest.param(b'{"a": "\\udc00"}', id="the second half of a pair"),
        pytest.param(b'{"a": "\\ude00\\ud83d"}', id="a pair in the wrong order"),
        pytest.param(b'{"\\ud800": 1}', id="half a pair in a key"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="half a pair as bytes"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="an integer of 5,000 digits"),
        pytest.param(b'{"a": -' + b"9" * 5000 + b"}", id="a negative integer of 5,000 digits"),
    ],
)
def test_what_is_not_json_in_utf_8(payload: bytes) -> None:
    ecode, enote = refusal(wire.decode_object, payload)
    assert ecode is Ecode.NOT_AN_OBJECT
    assert enote.startswith("the message is not JSON in UTF-8: ")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b' \t\r\n{"a" : 1}\n', {"a": 1}),
        (b'{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
        (b'{"a": "\\u0000"}', {"a": "\x00"}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b'{"": {"": [null]}}', {"": {"": [None]}}),
    ],
)
def test_what_is_let_in(payload: bytes, message: dict[str, Any]) -> None:
    assert wire.decode_object(payload) == message


def nested(levels: int, opening: bytes, closing: bytes, inner: bytes) -> bytes:
    """An object that is ``levels`` deep, itself counted."""
    return b'{"a":' + opening * (levels - 1) + inner + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("opening", "closing", "inner"),
    [(b"[", b"]", b"1"), (b'{"a":', b"}", b"1"), (b"[", b"]", b""), (b'["[{", 0, ', b"]", b"1")],
)
def test_64_levels_are_let_in_and_65_are_not(opening: bytes, closing: bytes, inner: bytes) -> None:
    deepest = nested(64, opening, closing, inner)
    assert wire.decode_object(deepest) == json.loads(deepest)
    for levels in (65, 66, 1000, 100_000):
        assert refusal(wire.decode_object, nested(levels, opening, closing, inner)) == (
            Ecode.NOT_AN_OBJECT,
            "the message is nested deeper than 64 levels",
        )


def test_many_brackets_are_not_deep() -> None:
    wide = {"a": [{}, [], "[[[{{{"] * 1000}
    assert wire.decode_object(wire.encode(wide)) == wide


# -- the envelope


@given(objects, st.fixed_dictionaries({}, optional=dict.fromkeys(("command", "src_page", "req_id"), values)))
def test_what_is_repeated_is_exactly_what_was_sent(message: dict[str, Any], envelope: dict[str, Any]) -> None:
    sent = {**message, **envelope}
    echoed = wire.echo(sent)
    assert echoed == {
        name: sent[name]
        for name in ("command", "src_page", "req_id")
        if name in sent and not isinstance(sent[name], dict | list)
    }
    assert wire.decode_object(wire.encode_response(echoed, {"ecode": 0, "enote": "ok"})) == {
        **echoed,
        "ecode": 0,
        "enote": "ok",
    }


def test_a_request_has_defaults_for_all_but_its_command() -> None:
    assert wire.request_of({"command": "get tasks"}) == Request("get tasks", UNSET, UNSET, False, {})


def test_further_fields_of_the_envelope_are_ignored() -> None:
    message = {
        "command": "get tasks",
        "src_page": "",
        "req_id": "7",
        "progress": True,
        "params": {"limit": 1},
        "version": 2,
    }
    assert wire.request_of(message) == Request("get tasks", "", "7", True, {"limit": 1})


@pytest.mark.parametrize(
    ("message", "enote"),
    [
        ({}, "$.command is missing"),
        ({"command": 1}, "$.command must be a string, not an integer"),
        ({"command": None}, "$.command must be a string, not null"),
        ({"command": "x", "params": []}, "$.params must be an object, not an array"),
        ({"command": "x", "params": None}, "$.params must be an object, not null"),
        ({"command": "x", "params": "x"}, "$.params must be an object, not a string"),
        ({"command": "x", "req_id": 1}, "$.req_id must be a string, not an integer"),
        ({"command": "x", "req_id": None}, "$.req_id must be a string, not null"),
        ({"command": "x", "req_id": ""}, "$.req_id: expected `str` of length >= 1"),
        ({"command": "x", "req_id": "r" * 129}, "$.req_id: expected `str` of length <= 128"),
        ({"command": "x", "src_page": 1.5}, "$.src_page must be a string, not a number"),
        ({"command": "x", "src_page": "s" * 257}, "$.src_page: expected `str` of length <= 256"),
        ({"command": "x", "progress": 1}, "$.progress must be true or false, not an integer"),
        ({"command": "x", "progress": None}, "$.progress must be true or false, not null"),
    ],
)
def test_a_wrong_envelope(message: dict[str, Any], enote: str) -> None:
    assert refusal(wire.request_of, message) == (Ecode.BAD_FIELD, enote)


# -- explaining


class Item(Struct, forbid_unknown_fields=True):
    algo_id: Annotated[str, Meta(min_length=1, max_length=5)]
    enabled: bool | UnsetType = UNSET
    limit: Limit = 1
    ratio: float = 1.0
    place: str | int | None = None
    kind: Literal["pic", "video"] = "pic"
    numbers: Annotated[list[int], Meta(min_length=1, max_length=2)] = msgspec.field(default_factory=lambda: [1])
    flags: dict[str, bool] = {}


class Params(Struct, forbid_unknown_fields=True):
    items: list[Item]
    name: str = ""


@pytest.mark.parametrize(
    ("params", "enote"),
    [
        # missing
        ({}, "$.params.items is missing"),
        ({"items": [{"algo_id": "a"}, {}]}, "$.params.items[1].algo_id is missing"),
        # unknown
        ({"items": [], "itms": 1}, "$.params.itms is not a field of this command; leave it out or correct its name"),
        ({"items": [], "": 1}, "$.params. is not a field of this command; leave it out or correct its name"),
        ({"items": [], "a`b": 1}, "$.params.a`b is not a field of this command; leave it out or correct its name"),
        (
            {"items": [{"algo_id": "a", "x` - at `$.y": 1}]},
            "$.params.items[0].x` - at `$.y is not a field of this command; leave it out or correct its name",
        ),
        (
            {"items": [], "n" * 1000: 1},
            f"$.params.{'n' * 200} is not a field of this command; leave it out or correct its name",
        ),
        # of a wrong type
        ([], "$.params must be an object, not an array"),
        ("x", "$.params must be an object, not a string"),
        ({"items": {}}, "$.params.items must be an array, not an object"),
        ({"items": None}, "$.params.items must be an array, not null"),
        ({"items": [None]}, "$.params.items[0] must be an object, not null"),
        ({"items": [], "name": 1}, "$.params.name must be a string, not an integer"),
        ({"items": [{"algo_id": 7}]}, "$.params.items[0].algo_id must be a string, not an integer"),
        (
            {"items": [{"algo_id": "a", "enabled": 1}]},
            "$.params.items[0].enabled must be true or false, not an integer",
        ),
        ({"items": [{"algo_id": "a", "enabled": None}]}, "$.params.items[0].enabled must be true or false, not null"),
        ({"items": [{"algo_id": "a", "limit": True}]}, "$.params.items[0].limit must be an integer, not true or false"),
        ({"items": [{"algo_id": "a", "limit": 1.0}]}, "$.params.items[0].limit must be an integer, not a number"),
        ({"items": [{"algo_id": "a", "limit": "1"}]}, "$.params.items[0].limit must be an integer, not a string"),
        ({"items": [{"algo_id": "a", "ratio": "1"}]}, "$.params.items[0].ratio must be a number, not a string"),
        (
            {"items": [{"algo_id": "a", "place": []}]},
            "$.params.items[0].place must be an integer or a string or null, not an array",
        ),
        (
            {"items": [{"algo_id": "a", "numbers": [1, "2"]}]},
            "$.params.items[0].numbers[1] must be an integer, not a string",
        ),
        (
            {"items": [{"algo_id": "a", "flags": {"f": 1}}]},
            "$.params.items[0].flags[...] must be true or false, not an integer",
        ),
        # out of bounds
        ({"items": [{"algo_id": ""}]}, "$.params.items[0].algo_id: expected `str` of length >= 1"),
        ({"items": [{"algo_id": "abcdef"}]}, "$.params.items[0].algo_id: expected `str` of length <= 5"),
        ({"items": [{"algo_id": "a", "limit": 0}]}, "$.params.items[0].limit: expected `int` >= 1"),
        ({"items": [{"algo_id": "a", "limit": 1001}]}, "$.params.items[0].limit: expected `int` <= 1000"),
        ({"items": [{"algo_id": "a", "limit": 10**30}]}, "$.params.items[0].limit: expected `int` <= 1000"),
        ({"items": [{"algo_id": "a", "numbers": []}]}, "$.params.items[0].numbers: expected `array` of length >= 1"),
        (
            {"items": [{"algo_id": "a", "numbers": [1, 2, 3]}]},
            "$.params.items[0].numbers: expected `array` of length <= 2",
        ),
        ({"items": [{"algo_id": "a", "kind": "wav"}]}, "$.params.items[0].kind: invalid enum value 'wav'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(params: Any, enote: str) -> None:
    assert refusal(wire.convert, params, Params, "$.params") == (Ecode.BAD_FIELD, enote)


@given(values)
def test_anything_else_is_refused_too(params: Any) -> None:
    result = outcome(wire.convert, params, Params, "$.params")
    assert isinstance(result, Params) or result == (Ecode.BAD_FIELD, "$", {})


def test_numbers_and_booleans_are_read_from_text_where_they_come_in_a_query() -> None:
    found = wire.convert({"algo_id": "7", "limit": "7", "enabled": "true"}, Item, "$", text=True)
    assert found == Item("7", True, 7)
    for limit, enote in (
        ("seven", "$.limit must be an integer, not a string"),
        ("7.5", "$.limit must be an integer, not a string"),
        ("", "$.limit must be an integer, not a string"),
        ("0", "$.limit: expected `int` >= 1"),
    ):
        assert refusal(wire.convert, {"algo_id": "a", "limit": limit}, Item, "$", text=True) == (
            Ecode.BAD_FIELD,
            enote,
        )


# -- devices


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({}, DeviceAnswer(0, "", None, {})),
        ({"enote": "done"}, DeviceAnswer(0, "done", None, {"enote": "done"})),
        ({"ecode": 0, "enote": "ok"}, DeviceAnswer(0, "ok", None, {"ecode": 0, "enote": "ok"})),
        ({"ecode": -1}, DeviceAnswer(-1, "", None, {"ecode": -1})),
        ({"ecode": 2**53}, DeviceAnswer(2**53, "", None, {"ecode": 2**53})),
        ({"ecode": -(2**53)}, DeviceAnswer(-(2**53), "", None, {"ecode": -(2**53)})),
        ({"rev": None}, DeviceAnswer(0, "", None, {"rev": None})),
        (
            {"ecode": 1004090008, "enote": "old", "rev": 9, "version": [1]},
            DeviceAnswer(1004090008, "old", 9, {"ecode": 1004090008, "enote": "old", "rev": 9, "version": [1]}),
        ),
    ],
)
def test_an_answer_of_a_device(message: dict[str, Any], answer: DeviceAnswer) -> None:
    assert wire.answer_of(message) == answer


@pytest.mark.parametrize("ecode", ["0", 0.0, False, None, 2**53 + 1, -(2**53) - 1, 10**400, [], {}])
def test_an_ecode_that_cannot_be_read_is_a_refusal(ecode: Any) -> None:
    message = {"ecode": ecode}
    assert wire.answer_of(message) == DeviceAnswer(
        Ecode.BAD_FIELD, "the device answered with an ecode that is no integer of at most 2**53", None, message
    )


@pytest.mark.parametrize(("enote", "kept"), [(None, "null"), (["no"], '["no"]'), (7, "7")])
def test_an_enote_that_is_no_text_is_kept_as_json(enote: Any, kept: str) -> None:
    message = {"ecode": 7, "enote": enote, "rev": "9"}
    assert wire.answer_of(message) == DeviceAnswer(7, kept, None, message)


@pytest.mark.parametrize("outstanding", [True, False])
@pytest.mark.parametrize(
    ("fields", "is_one"),
    [
        ((), False),
        (("ecode",), True),
        (("enote",), True),
        (("ecode", "enote"), True),
        (("params",), False),
        (("ecode", "params"), False),
        (("enote", "params"), False),
        (("command",), False),
        (("command", "params"), False),
        (("command", "ecode"), True),
        (("command", "ecode", "params"), False),
    ],
)
def test_what_is_an_answer(fields: tuple[str, ...], is_one: bool, outstanding: bool) -> None:
    """What the server waits for always is; else it depends on what is in it, whatever the values are."""
    assert wire.is_answer(dict.fromkeys(fields), outstanding) is (is_one or outstanding)


def test_a_request_to_a_device_has_its_id_twice() -> None:
    assert json.loads(wire.encode_request("r1", "put /wsapi/v1/devconf_fx/tasks", {"rev": 3})) == {
        "command": "put /wsapi/v1/devconf_fx/tasks",
        "req_id": "r1",
        "src_page": "r1",
        "params": {"rev": 3},
    }
