"""Messages, and the only decoding and encoding of the wire (``docs/protocol.md`` §2 and §6).

client -> server  {"command", "src_page"?, "req_id"?, "progress"?, "idempotency_key"?, "params"?}
server -> client  {"command", "src_page"?, "req_id"?, "ecode", "enote", ...}
server -> device  {"command", "req_id", "src_page", "params"}
device -> server  {"req_id", "ecode", "enote", ...}
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeGuard, TypeVar

import msgspec
from attrs import field, frozen
from msgspec import UNSET, Meta, Struct, UnsetType

from devconf.errors import CommandFailed, Ecode

#: Nesting deeper than this is refused (§ small print).
MAX_DEPTH = 64

#: Before every resource in ``command``.
PREFIX = "/wsapi/v1/devconf_fx/"

IdempotencyKey = Annotated[str, Meta(min_length=1, max_length=128)]
ReqId = Annotated[str, Meta(min_length=1, max_length=128)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
SrcPage = Annotated[str, Meta(max_length=256)]

T = TypeVar("T")


class Request(Struct):
    """The envelope of a request, of clients and of devices alike. Unknown fields are ignored."""

    command: str
    src_page: SrcPage | UnsetType = UNSET
    req_id: ReqId | UnsetType = UNSET
    progress: bool = False
    params: dict[str, Any] = {}
    idempotency_key: IdempotencyKey | UnsetType = UNSET


@frozen
class DeviceAnswer:
    """What a device says to a request. A missing ``ecode`` reads as 0.

    :ivar rev: the rev that the device has, if it says so.
    :ivar message: all it said.
    """

    ecode: int
    enote: str = ""
    rev: int | None = None
    message: dict[str, Any] = field(factory=dict)


_decode_any = msgspec.json.Decoder().decode
_encoder = msgspec.json.Encoder()
encode = _encoder.encode


def decode_object(payload: bytes) -> dict[str, Any]:
    """Return the JSON object in ``payload``.

    :raises CommandFailed: ``NOT_AN_OBJECT``: it is no JSON object, or has NaN, infinities, lone surrogates,
        bytes that are not UTF-8, or nesting deeper than :data:`MAX_DEPTH`.
    """
    try:
        message = _decode_any(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise CommandFailed(Ecode.NOT_AN_OBJECT, f"the message is not JSON in UTF-8: {error}") from None
    if not isinstance(message, dict):
        raise CommandFailed(
            Ecode.NOT_AN_OBJECT,
            f"the message is {_KINDS.get(type(message), 'no object')}; send a JSON object",
        )
    # Every level opens with a bracket: few brackets cannot be deep, and counting is much cheaper than walking.
    if payload.count(b"[") + payload.count(b"{") > MAX_DEPTH and _deeper_than(message, MAX_DEPTH):
        raise _too_deep()
    return message


def _too_deep() -> CommandFailed:
    return CommandFailed(Ecode.NOT_AN_OBJECT, f"the message is nested deeper than {MAX_DEPTH} levels")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


_ECHOED = ("command", "src_page", "req_id")


def echo(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a response repeats of ``message``, exactly as sent (§2); of a wrong type, only scalars."""
    return {name: message[name] for name in _ECHOED if name in message and not isinstance(message[name], dict | list)}


def request_of(message: dict[str, Any]) -> Request:
    """Return ``message`` as a request.

    :raises CommandFailed: ``BAD_FIELD`` with the JSON path.
    """
    return convert(message, Request, "$")


def is_answer(message: dict[str, Any], outstanding: bool) -> bool:
    """Tell whether a device's ``message`` is an answer, not a request of its own (§6).

    :param outstanding: its ``req_id`` is one the server waits for.
    """
    return outstanding or (("ecode" in message or "enote" in message) and "params" not in message)


def answer_of(message: dict[str, Any]) -> DeviceAnswer:
    """Return a device's ``message`` as an answer, however odd: what cannot be read as an ``ecode`` is a refusal."""
    ecode, enote, rev = message.get("ecode", 0), message.get("enote", ""), message.get("rev")
    if not _is_number(ecode):
        ecode, enote = int(Ecode.BAD_FIELD), "the device answered with an ecode that is no integer of at most 2**53"
    return DeviceAnswer(
        ecode, enote if isinstance(enote, str) else encode(enote).decode(), rev if _is_number(rev) else None, message
    )


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53


def convert(value: Any, kind: type[T], path: str, *, text: bool = False) -> T:
    """Return ``value`` as a ``kind``, checked strictly.

    :param path: the JSON path of ``value`` in the message, for the ``enote``.
    :param text: read numbers and booleans from text (the query of the HTTP mirror, §5).
    :raises CommandFailed: ``BAD_FIELD``; ``enote`` has the JSON path.
    """
    try:
        return msgspec.convert(value, kind, strict=not text)
    except msgspec.ValidationError as error:
        raise CommandFailed(Ecode.BAD_FIELD, explain(str(error), path)) from None


_KINDS = {dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number"}
_PLACE = re.compile(r" - at `(?:key in )?\$([^`]*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(.*)`, got `(.*)`\Z", re.DOTALL)
_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
}


def explain(error: str, path: str) -> str:
    """Return msgspec's message ``error`` as a sentence that begins with the JSON path.

    :param path: the JSON path of the value that was checked.
    """
    if place := _PLACE.search(error):
        path += place.group(1)
        error = error[: place.start()]
    if match := _MISSING.match(error):
        return f"{path}.{match.group(1)} is missing"
    if match := _UNKNOWN.match(error):
        return f"{path}.{match.group(1)[:200]} is not a field of this command; leave it out or correct its name"
    if match := _EXPECTED.match(error):
        wanted = " or ".join(_TYPES.get(kind, kind) for kind in match.group(1).split(" | "))
        return f"{path} must be {wanted}, not {_TYPES.get(match.group(2), match.group(2))}"
    return f"{path}: {error[:1].lower()}{error[1:]}"


def encode_response(echoed: dict[str, Any], payload: dict[str, Any]) -> bytes:
    """Return a response: what :func:`echo` kept, then ``ecode``, ``enote`` and the rest of ``payload``."""
    return encode({**echoed, **payload})


def encode_request(req_id: str, command: str, params: Any) -> bytes:
    """Return a request to a device (§6); ``src_page`` repeats ``req_id`` for devices that echo only that."""
    return encode({"command": command, "req_id": req_id, "src_page": req_id, "params": params})


def encode_parts(req_id: str, command: str, params: dict[str, Any]) -> list[bytes]:
    """Return what :func:`encode_request` does, in parts.

    :param params: a value that is bytes is JSON already; it is a part of its own, and not copied.
    """
    own = encode({"command": command, "req_id": req_id, "src_page": req_id})[:-1] + b',"params":{'
    parts = []
    for place, (name, value) in enumerate(params.items()):
        own += (b"," if place else b"") + encode(name) + b":"
        if isinstance(value, bytes):
            parts += [own, value]
            own = b""
        else:
            own += encode(value)
    return [*parts, own + b"}}"]
