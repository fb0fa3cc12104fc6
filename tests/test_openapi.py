"""What the server tells programs of itself is valid, and is the table of commands (``docs/protocol.md`` §5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from openapi_spec_validator import validate

from devconf import wire
from devconf.testing import MemoryServer
from devconf.web.openapi import asyncapi, openapi
from tests.running import Start


def as_told(document: dict[str, Any]) -> Any:
    return msgspec.json.decode(wire.encode(document))


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def follow(document: Any, reference: str) -> Any:
    """What ``reference`` points at.

    :raises KeyError: nothing.
    """
    for name in reference.removeprefix("#/").split("/"):
        document = document[name]
    return document


def test_openapi_is_valid(server: MemoryServer) -> None:
    document = as_told(openapi(server.service.registry))
    validate(document)
    for reference in references(document):
        follow(document, reference)


def test_openapi_has_every_command_but_subscriptions(server: MemoryServer) -> None:
    document = as_told(openapi(server.service.registry))
    prefix = "/webapi/v1/devconf_fx/"
    told = {
        f"{method} {wire.PREFIX}{path.removeprefix(prefix)}": operation["x-role"]
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path.startswith(prefix) and "{" not in path
    }
    known = {command.name: command.role.title for command in server.service.registry}
    assert told == {name: role for name, role in known.items() if "subscriptions" not in name}
    get = document["paths"][prefix + "tasks"]["get"]
    assert {each["name"]: each["required"] for each in get["parameters"]} == dict.fromkeys(
        ("task_id", "task_type", "dev_unid", "state", "limit", "after"), False
    )
    assert get["summary"]
    post = document["paths"][prefix + "tasks"]["post"]
    body = follow(document, post["requestBody"]["content"]["application/json"]["schema"]["$ref"])
    assert body["required"] == ["name", "task_type"]
    assert body["additionalProperties"] is False


def test_asyncapi_has_every_command(server: MemoryServer) -> None:
    document = as_told(asyncapi(server.service.registry))
    for reference in references(document):
        follow(document, reference)
    messages = document["channels"]["devconf"]["messages"]
    told = {each["payload"]["properties"]["command"]["const"] for each in messages.values() if "summary" in each}
    assert told == {command.name for command in server.service.registry}
    assert set(document["operations"]) == set(messages) - {"answer", "event"} | {"events"}
    event = document["components"]["schemas"]["Event"]["properties"]["event"]
    assert sorted(event["enum"]) == ["commands", "deliveries", "devices"]


async def test_both_are_served_to_anybody(start: Start) -> None:
    server = await start()
    for name, make in (("openapi", openapi), ("asyncapi", asyncapi)):
        answer = await server.ask("GET", f"/webapi/v1/{name}.json")
        assert answer == (200, as_told(make(server.service.registry)))
