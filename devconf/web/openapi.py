"""Descriptions for programs, made from the table of commands (``docs/protocol.md`` §4 and §5): OpenAPI and AsyncAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from attrs import define, field
from twisted.web.server import Request

import devconf
from devconf import wire
from devconf.commands.registry import Command, Registry
from devconf.errors import Ecode
from devconf.events import Topic
from devconf.web.answers import render_json
from devconf.web.ways_in import LoginDevice, LoginUser, Register, Renew

if TYPE_CHECKING:
    from klein import Klein

_REF = "#/components/schemas/{name}"
_INFO = {
    "title": "devconf",
    "version": devconf.__version__,
    "description": "The configuration service of a video-analysis platform. docs/protocol.md tells the rest.",
}
_ANSWER = {
    "type": "object",
    "required": ["ecode", "enote"],
    "properties": {
        "ecode": {
            "type": "integer",
            "description": "; ".join(f"{int(code)}: {code.meaning}" for code in Ecode),
        },
        "enote": {"type": "string", "description": "for people: what is wrong, where, and what to do"},
    },
    "additionalProperties": True,
}


@define
class Descriptions:
    """The handlers. Each document is made once: it takes long, and anybody may ask for it.

    :ivar _registry: with all its commands by the time of the first request.
    """

    _registry: Registry
    _made: dict[str, msgspec.Raw] = field(factory=dict, init=False)

    def add_to(self, app: Klein) -> None:
        """Let ``app`` have the addresses of both documents."""
        app.route("/webapi/v1/openapi.json", methods=["GET"])(self.openapi)
        app.route("/webapi/v1/asyncapi.json", methods=["GET"])(self.asyncapi)

    def openapi(self, request: Request) -> bytes:
        """``GET /webapi/v1/openapi.json``."""
        return render_json(request, self._document("openapi", openapi))

    def asyncapi(self, request: Request) -> bytes:
        """``GET /webapi/v1/asyncapi.json``."""
        return render_json(request, self._document("asyncapi", asyncapi))

    def _document(self, name: str, make: Callable[[Registry], dict[str, Any]]) -> msgspec.Raw:
        if name not in self._made:
            self._made[name] = msgspec.Raw(wire.encode(make(self._registry)))
        return self._made[name]


def openapi(registry: Registry) -> dict[str, Any]:
    """Return the ways in and the commands over HTTP as an OpenAPI 3.1 document."""
    commands = [command for command in registry if not command.for_subscribers]
    schemas = _schemas([*(command.params for command in commands), LoginUser, LoginDevice, Renew, Register])
    paths: dict[str, dict[str, Any]] = {
        "/webapi/v1/login": {"post": _operation("login", "Log in.", _one_of("LoginUser", "LoginDevice"), token=False)},
        "/webapi/v1/token": {"post": _operation("token", "Trade an rtoken.", _ref("Renew"), token=False)},
        "/webapi/v1/logout": {"post": _operation("logout", "End a family of tokens.", _ref("Renew"), required=False)},
        "/webapi/v1/devconf_fx/devices/{user_unid}/register": {
            "post": _operation("register", "A device describes itself.", _ref("Register")),
            "parameters": [_parameter("user_unid", {"type": "string"}, "path")],
        },
        "/webapi/v1/devconf_fx/users/{user_unid}/ws_url": {
            "get": _operation("ws_url", "Get the address of a WebSocket."),
            "parameters": [
                _parameter("user_unid", {"type": "string"}, "path"),
                _parameter("type", {"const": "devconf_fx"}, "query"),
            ],
        },
    }
    for command in commands:
        method, resource = _split(command)
        schema = schemas[command.params.__name__]
        operation = _operation(f"{method} {resource}", _summary(command), role=command.role.title)
        if method in ("get", "delete"):
            operation["parameters"] = [
                _parameter(name, each, "query", required=name in schema.get("required", ()))
                for name, each in schema["properties"].items()
            ]
        if method != "get":
            operation.setdefault("parameters", []).append(_KEY_HEADER)
        if method in ("post", "put"):
            operation["requestBody"] = _body(_ref(command.params.__name__), required=bool(schema.get("required")))
        paths.setdefault(f"/webapi/v1/devconf_fx/{resource}", {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": _INFO,
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Answer": _ANSWER},
            "securitySchemes": {"atoken": {"type": "apiKey", "in": "header", "name": "authorization"}},
        },
    }


def asyncapi(registry: Registry) -> dict[str, Any]:
    """Return the commands over WebSocket as an AsyncAPI 3.0 document."""
    messages: dict[str, Any] = {
        "answer": {"payload": {"$ref": "#/components/schemas/Answer"}},
        "event": {"payload": {"$ref": "#/components/schemas/Event"}},
    }
    operations: dict[str, Any] = {
        "events": {"action": "send", "channel": _CHANNEL, "messages": [_message("event")]},
    }
    for command in registry:
        name = "_".join(_split(command)).replace("/", "_")
        messages[name] = {"summary": _summary(command), "payload": _request(command)}
        operations[name] = {
            "action": "receive",
            "channel": _CHANNEL,
            "summary": f"{_summary(command)} (role {command.role.title})",
            "messages": [_message(name)],
            "reply": {"channel": _CHANNEL, "messages": [_message("answer")]},
        }
    event = {
        "type": "object",
        "required": ["event", "seq", "at", "data"],
        "properties": {
            "event": msgspec.json.schema(Topic),
            "seq": {"type": "integer", "minimum": 1},
            "at": {"type": "string", "format": "date-time"},
            "data": {"type": "object"},
        },
    }
    schemas = _schemas([command.params for command in registry])
    return {
        "asyncapi": "3.0.0",
        "info": _INFO,
        "defaultContentType": "application/json",
        "channels": {"devconf": {"address": "/wsapi/v1/devconf_fx", "messages": messages}},
        "operations": operations,
        "components": {"schemas": {**schemas, "Answer": _ANSWER, "Event": event}},
    }


_CHANNEL = {"$ref": "#/channels/devconf"}


_KEY = {
    "type": "string",
    "minLength": 1,
    "maxLength": 128,
    "description": "a request that comes again with the same key is not carried out again",
}
_KEY_HEADER = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": _KEY}


def _message(name: str) -> dict[str, str]:
    return {"$ref": f"#/channels/devconf/messages/{name}"}


def _request(command: Command) -> dict[str, Any]:
    needed = ["params"] if any(field.required for field in msgspec.structs.fields(command.params)) else []
    return {
        "type": "object",
        "required": ["command", *needed],
        "properties": {
            "command": {"const": command.name},
            "src_page": {"type": "string", "maxLength": 256},
            "req_id": {"type": "string", "minLength": 1, "maxLength": 128},
            "progress": {"type": "boolean"},
            **({"idempotency_key": _KEY} if command.changes else {}),
            "params": _ref(command.params.__name__),
        },
    }


def _schemas(kinds: list[type[msgspec.Struct]]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    return dict(components)


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(name=name)}


def _one_of(*names: str) -> dict[str, Any]:
    return {"oneOf": [_ref(name) for name in names]}


def _split(command: Command) -> tuple[str, str]:
    method, _, path = command.name.partition(" ")
    return method, path.removeprefix(wire.PREFIX)


def _summary(command: Command) -> str:
    return (command.handler.__doc__ or "").partition("\n")[0]


def _parameter(name: str, schema: dict[str, Any], where: str, *, required: bool = True) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}


def _body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _operation(
    name: str,
    summary: str,
    body: dict[str, Any] | None = None,
    *,
    required: bool = True,
    token: bool = True,
    role: str | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name.replace(" ", "_").replace("/", "_"),
        "summary": summary,
        "responses": {
            "default": {
                "description": "200 where ecode is 0, else the three digits in the middle of the ecode",
                "content": {"application/json": {"schema": _ref("Answer")}},
            }
        },
    }
    if body is not None:
        operation["requestBody"] = _body(body, required=required)
    if token:
        operation["security"] = [{"atoken": []}]
    if role is not None:
        operation["x-role"] = role
    return operation
