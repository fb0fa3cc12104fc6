"""Requests of the HTTP mirror (protocol §5): where params stand, how they are read, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit import WEB_PATH, World, failed, ok, payload, unknown
from kit_commands import SUBSCRIPTIONS, TOPICS
from kit_http import Mirror, as_answer, line, resource_path
from kit_people import NO_TOKEN, Person, refused, standard

NOT_JSON, BAD_FIELD, NO_COMMAND, NOT_ALLOWED, TOO_LARGE = 1004000001, 1004000002, 1004000003, 1004030001, 1004130001
STORE_CONF_MAX = 3000
SERVER = {"limits": {"store_conf_max": STORE_CONF_MAX}}
LARGEST = STORE_CONF_MAX * 4 // 3 + 65536


@pytest.fixture(scope="module", autouse=True)
def things(world: World) -> None:
    """Some of each to be listed."""
    for number in range(3):
        world.pic_task(name=f"task {number}")
        world.device(connect=False, keep=True)


@pytest.fixture
def admin(world: World) -> Mirror:
    return Mirror(world.http, world.admin.atoken)


@pytest.fixture
def unchanged(world: World) -> Iterator[None]:
    with world.server.unchanged(leave_out=()):
        yield


def ask(world: World, method: str, path: str, raw: bytes | None = None, **headers: str) -> object:
    sent = {"authorization": world.admin.atoken, **headers}
    return as_answer(world.http.request(method, f"{WEB_PATH}/devconf_fx/{path}", raw=raw, headers=sent))


# -- params in the query


def test_query_of_a_get(world: World, admin: Mirror) -> None:
    everything = payload(admin.call("get devices"))
    assert len(everything["devices"]) == 3
    assert payload(admin.call("get devices", query={"limit": 10, "online": "false"})) == everything
    assert payload(admin.call("get devices", query={"online": "true"}))["devices"] == []
    assert len(payload(admin.call("get devices", query={"limit": "2"}))["devices"]) == 2
    first = everything["devices"][0]
    assert payload(admin.call("get devices", query={"dev_unid": first["dev_unid"]}))["devices"] == [first]


@pytest.mark.parametrize("text", ["7", "true", "null", "1e3", "[]", '"', "a b+c&d=e", "täxt \U0001f600", "%41"])
def test_text_stays_text(world: World, text: str) -> None:
    """What looks like another type is text where text is wanted, and percent-encoding is taken off once."""
    name = f"{text}-{unknown()}"
    task_id = world.pic_task()
    ok(world.operator.call("put tasks", {"task_id": task_id, "name": name}))
    refid = f"{text}-{unknown()}"
    made = ok(world.admin.call("post devices", {"dev_refid": refid}))
    mirror = Mirror(world.http, world.viewer.atoken)
    (found,) = payload(mirror.call("get devices", query={"text": refid}))["devices"]
    assert found["dev_unid"] == made["dev_unid"]
    assert payload(mirror.call("get tasks", query={"task_id": text})) == {"tasks": [], "next": None}
    ok(world.admin.call("delete devices", {"dev_unid": made["dev_unid"]}))


@pytest.mark.parametrize(
    ("command", "query", "path"),
    [
        ("get tasks", {"limit": "ten"}, "$.params.limit"),
        ("get tasks", {"limit": ""}, "$.params.limit"),
        ("get tasks", {"limit": "1.5"}, "$.params.limit"),
        ("get tasks", {"limit": "0"}, "$.params.limit"),
        ("get tasks", {"limit": "1001"}, "$.params.limit"),
        ("get tasks", {"limit": "true"}, "$.params.limit"),
        ("get tasks", {"limit": "9" * 5000}, "$.params.limit"),
        ("get devices", {"online": "maybe"}, "$.params.online"),
        ("get devices", {"online": ""}, "$.params.online"),
        ("get store_confs", {"content": "yes please"}, "$.params.content"),
        ("get tasks", {"task_type": "audio"}, "$.params.task_type"),
        ("get tasks", {"colour": "blue"}, "$.params.colour"),
        ("delete tasks", {"task_id": "x", "force": "maybe"}, "$.params.force"),
        ("delete tasks", {"force": "true"}, "$.params.task_id"),
        ("delete tasks", {"task_id": "x", "colour": "blue"}, "$.params.colour"),
    ],
)
def test_wrong_in_the_query(admin: Mirror, unchanged: None, command: str, query: dict[str, str], path: str) -> None:
    failed(admin.call(command, query=query), BAD_FIELD, path)


def test_query_of_a_delete(world: World, admin: Mirror) -> None:
    task_id = world.pic_task()
    assert payload(admin.call("delete tasks", query={"task_id": task_id, "force": "true"})) == {"task_id": task_id}
    assert not world.has_task(task_id)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_query_of_others_is_no_place_for_params(world: World, unchanged: None, method: str) -> None:
    path = resource_path("tasks", {"name": "n", "task_type": "pic", "task_id": "t"})
    reply = world.http.request(method, path, {}, atoken=world.admin.atoken)
    refused(reply, BAD_FIELD, "$.params.")


def test_the_body_counts_more_than_the_query(world: World, admin: Mirror) -> None:
    """Field by field."""
    found = payload(admin.call("get devices", {"limit": 1}, query={"limit": 2, "online": "false"}))
    assert len(found["devices"]) == 1
    assert payload(admin.call("get devices", {"online": True}, query={"limit": 2, "online": "false"}))["devices"] == []
    keep, go = world.pic_task(), world.pic_task()
    ok(admin.call("delete tasks", {"task_id": go}, query={"task_id": keep}))
    assert (world.has_task(keep), world.has_task(go)) == (True, False)


@pytest.mark.parametrize("query", ["text=%ff", "%ff=1", "text=%zz", "&&", "=", "limit", "limit=1&limit=2"])
def test_an_odd_query_is_answered(world: World, unchanged: None, query: str) -> None:
    """With success or a failure that says what is wrong; the contract leaves open which."""
    answer = ask(world, "GET", f"devices?{query}")
    assert isinstance(answer, dict)
    assert answer["ecode"] in (0, NOT_JSON, BAD_FIELD)
    assert answer["enote"]


# -- params in the body


def test_an_empty_body_is_no_params(world: World, unchanged: None) -> None:
    for raw in (None, b""):
        assert isinstance(ask(world, "GET", "tasks", raw), dict)
        answer = as_answer(world.http.request("POST", resource_path("tasks"), raw=raw, atoken=world.admin.atoken))
        failed(answer, BAD_FIELD, "$.params.")


@pytest.mark.parametrize("raw", [b"[]", b"5", b'"text"', b"null", b"true", b'[{"task_id": "x"}]'])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_body_that_is_no_object(world: World, unchanged: None, method: str, raw: bytes) -> None:
    refused(world.http.request(method, resource_path("tasks"), raw=raw, atoken=world.admin.atoken), NOT_JSON)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"x",
        b" ",
        b"{}x",
        b'{"limit": NaN}',
        b'{"limit": 1e999}',
        b'{"after": "\xff"}',
        b'{"after": "\\ud800"}',
        b"task_id=x",
        b'{"a": ' + b"[" * 65 + b"]" * 65 + b"}",
        b"[" * 50_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_body_that_is_no_json(world: World, unchanged: None, raw: bytes) -> None:
    refused(world.http.request("POST", resource_path("tasks"), raw=raw, atoken=world.admin.atoken), NOT_JSON)


def test_what_kind_of_text_it_claims_to_be_does_not_matter(world: World) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain;charset=latin-1"):
        headers = {"content-type": kind, "authorization": world.admin.atoken}
        reply = world.http.request("GET", resource_path("devices"), {"limit": 1}, headers=headers)
        assert len(payload(as_answer(reply))["devices"]) == 1


def test_a_body_that_is_too_large(world: World, unchanged: None) -> None:
    """As large as a message over WebSocket may be, and no larger."""
    fits = b'{"colour": "' + b"x" * (LARGEST - 14) + b'"}'
    assert len(fits) == LARGEST
    path = resource_path("tasks")
    refused(world.http.request("POST", path, raw=fits, atoken=world.admin.atoken), BAD_FIELD, "$.params.")
    refused(world.http.request("POST", path, raw=fits + b"  ", atoken=world.admin.atoken), TOO_LARGE)


def test_the_largest_content_fits(world: World, admin: Mirror) -> None:
    unid = ok(admin.call("post store_confs", {"name": "n", "file_ext": "bin", "file_b64": "AAAA" * 1000}))["unid"]
    assert world.conf(unid)["size"] == STORE_CONF_MAX
    ok(admin.call("delete store_confs", query={"unid": unid}))


def test_a_body_in_chunks(world: World) -> None:
    with line(world.http) as connection:
        head = connection.message("GET", resource_path("devices"), authorization=world.admin.atoken)
        head = head.replace(b"content-length: 0", b"transfer-encoding: chunked")
        connection.sock.sendall(head + b'5\r\n{"lim\r\n7\r\nit": 2}\r\n0\r\n\r\n')
        assert len(payload(as_answer(connection.receive()))["devices"]) == 2


# -- which command, and who


@pytest.mark.parametrize(
    ("method", "resource"),
    [
        ("PATCH", "tasks"),
        ("PUT", "subtasks"),
        ("GET", "tasks/pic_task_config"),
        ("DELETE", "commands"),
        ("POST", "devices/unknown"),
        ("GET", "nothing"),
        ("GET", "Tasks"),
        ("GET", "tasks/"),
        ("GET", "tasks/x/y"),
        ("GET", ""),
        ("GET", "users/nobody"),
        ("GET", "%74asks%2f"),
    ],
)
def test_no_such_command(world: World, unchanged: None, method: str, resource: str) -> None:
    refused(world.http.request(method, resource_path(resource), atoken=world.admin.atoken), NO_COMMAND)


@pytest.mark.parametrize("command", SUBSCRIPTIONS)
@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_no_subscriptions(world: World, unchanged: None, command: str, role: str) -> None:
    client = world.viewer if role == "viewer" else world.admin
    failed(Mirror(world.http, client.atoken).call(command, TOPICS), NO_COMMAND)


@pytest.mark.parametrize("atoken", [None, "", "nonsense", "Bearer", "Bearer nonsense", "\xe4"])
@pytest.mark.parametrize("command", ["get tasks", "post tasks", "put users", "delete devices"])
def test_no_good_token(world: World, unchanged: None, command: str, atoken: str | None) -> None:
    """Before anything is said about the request."""
    method, resource = command.split(" ")
    for raw in (b'{"task_id": "x"}', b"{", b"x" * (LARGEST + 1)):
        reply = world.http.request(method.upper(), resource_path(resource), raw=raw, atoken=atoken)
        if len(raw) > LARGEST:
            refused(reply, TOO_LARGE if reply.status == 413 else NO_TOKEN)
        else:
            refused(reply, NO_TOKEN)


def test_no_envelope(world: World, unchanged: None, admin: Mirror) -> None:
    """Its fields are no params."""
    for name in ("command", "req_id", "src_page", "progress"):
        failed(admin.call("get tasks", {name: "x"}), BAD_FIELD, f"$.params.{name}")


def test_a_token_that_ended(world: World) -> None:
    person = Person(world)
    login = person.login()
    mirror = person.mirror(login)
    ok(mirror.call("get tasks"))
    standard(world.http.logout(login["atoken"]))
    failed(mirror.call("get tasks"), NO_TOKEN)
    failed(mirror.call("post tasks", {"name": "n", "task_type": "pic"}), NO_TOKEN)
    person.delete()
