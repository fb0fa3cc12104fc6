"""What may be stored, as clients know it: a register for each thing that requests write.

The last write that was answered with 0 is there. One that nobody was told of may be there or not. One that was
answered with an error is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import define, field, frozen

from tests.simulation.ledger import Ledger
from tests.simulation.model.stored import Stored
from tests.simulation.records import Request

ABSENT = "(absent)"


@frozen
class Write:
    """A value that a request writes; :ivar rev: of the response, by which writes are in order; None: it has none."""

    value: Any
    request: Request
    rev: int | None = None

    def before(self, other: Write) -> bool:
        """Whether this was certainly over when ``other`` was done."""
        if self.rev is not None and other.rev is not None:
            return self.rev < other.rev
        over = self.request.settled_by if self.request.unknown else self.request.answered_at
        return over is not None and over < other.request.sent_at


@define
class Register:
    """One thing that is written.

    :ivar first: what it held before the first write.
    """

    name: str
    first: Any
    writes: list[Write] = field(factory=list)

    def allowed(self) -> list[Any]:
        """Return the values that it may have."""
        done = [write for write in self.writes if write.request.ok or _stored(write.request)]
        last = [write for write in done if not any(write.before(other) for other in done)]
        maybe = [write for write in self.writes if write.request.unknown]
        maybe = [write for write in maybe if not any(write.before(other) for other in last)]
        return [write.value for write in (*last, *maybe)] + ([] if last else [self.first])

    def complaint(self, value: Any) -> tuple[str, str] | None:
        """Return which invariant is broken if it holds ``value``, and how; None if it may."""
        if value in self.allowed():
            return None
        failed = [write.request for write in self.writes if write.request.failed and write.value == value]
        if failed:
            request = failed[-1]
            return "I9", f"{self.name} is {value!r}, of request {request.number}, which was answered {request.answer}"
        vanished = value == ABSENT and any(write.request.failed for write in self.writes)
        return "I9" if vanished else "I1", f"{self.name} is {value!r}, and may be {self.allowed()!r}"


def _stored(request: Request) -> bool:
    return not request.unknown and not request.failed


def complaints(ledger: Ledger, stored: Stored, first: Stored) -> Iterator[tuple[str, str]]:
    """Compare what is ``stored`` with what it may be; ``first``: what was stored when the run began."""
    for register, value in _registers(ledger, stored, first):
        complaint = register.complaint(value)
        if complaint is not None:
            yield complaint
    yield from _strangers(ledger, stored)


def certainly_bound(ledger: Ledger, task_id: str) -> set[str]:
    """Return the devices that the picture task ``task_id`` is bound to, whatever became of what nobody was told of."""
    post = ledger.posted("post tasks", "task_id").get(task_id)
    if post is None or post.params["task_type"] != "pic":
        return set()
    [bound] = [each for each in _task_parts(ledger, task_id, post) if each.name.startswith("dev_unids ")]
    # Of what is still under way nobody has been told either.
    return set.intersection(*(set(value) for value in bound.allowed()))


def _registers(ledger: Ledger, stored: Stored, first: Stored) -> Iterator[tuple[Register, Any]]:
    for task_id, post in ledger.posted("post tasks", "task_id").items():
        yield _life(ledger, "task", task_id, post, "delete tasks", "task_id"), task_id in stored.tasks or ABSENT
        task = stored.tasks.get(task_id)
        if task is not None:
            yield from zip(_task_parts(ledger, task_id, post), _task_values(task), strict=True)
    for subtask_id, post in ledger.posted("post subtasks", "subtask_id").items():
        life = _life(ledger, "subtask", subtask_id, post, "delete subtasks", "subtask_id")
        yield life, subtask_id in stored.subtasks or ABSENT
        subtask = stored.subtasks.get(subtask_id)
        if subtask is not None:
            yield _made(f"vchan of {subtask_id}", post, post.params.get("vchan")), subtask.vchan
    for unid, post in ledger.posted("post store_confs", "unid").items():
        life = _life(ledger, "store_conf", unid, post, "delete store_confs", "unid")
        yield life, unid in stored.confs or ABSENT
        conf = stored.confs.get(unid)
        if conf is not None:
            content = _made(f"store_conf {unid}", post, _conf(post.params), 1)
            puts = _of(ledger, "put store_confs", unid=unid)
            content.writes += [Write(_conf(put.params), put, _rev(put)) for put in puts]
            yield content, conf._asdict()
    for dev_unid, device in stored.devices.items():
        puts = list(_of(ledger, "put devices", dev_unid=dev_unid))
        for name in ("dev_name", "enabled", "dev_refid"):
            written = [Write(put.params[name], put) for put in puts if name in put.params]
            before = getattr(first.devices[dev_unid], name)
            yield Register(f"{name} of {dev_unid}", before, written), getattr(device, name)


def _life(ledger: Ledger, what: str, unid: str, post: Request, gone: str, name: str) -> Register:
    deletes = _of(ledger, gone, **{name: unid})
    return Register(f"{what} {unid}", True, [Write(True, post, 1), *(Write(ABSENT, each) for each in deletes)])


def _made(name: str, post: Request, value: Any, rev: int | None = None) -> Register:
    return Register(name, None, [Write(value, post, rev)])


def _of(ledger: Ledger, command: str, **params: str) -> Iterable[Request]:
    return (each for each in ledger.of(command) if all(each.params.get(name) == params[name] for name in params))


def _rev(request: Request) -> int | None:
    return None if request.answer is None else request.answer.get("rev")


def _task_parts(ledger: Ledger, task_id: str, post: Request) -> Iterator[Register]:
    puts = list(_of(ledger, "put tasks", task_id=task_id))
    configured = list(_of(ledger, "post tasks/pic_task_config", task_id=task_id))
    for name, value, requests in (
        ("name", post.params["name"], puts),
        ("store_conf_unid", post.params.get("store_conf_unid"), puts),
        ("dev_unids", post.params.get("dev_unids", []), puts),
        ("algo_comb", post.params.get("algo_comb"), configured),
    ):
        register = _made(f"{name} of {task_id}", post, _plain(name, value), 1)
        register.writes += [
            Write(_plain(name, each.params[name]), each, _rev(each)) for each in requests if name in each.params
        ]
        yield register


def _task_values(task: Any) -> tuple[Any, ...]:
    return task.name, task.store_conf_unid, task.dev_unids, task.algo_comb


def _plain(name: str, value: Any) -> Any:
    """Return ``value`` as it is stored: with its defaults written out."""
    if name == "dev_unids":
        return frozenset(value)
    if name == "algo_comb" and value is not None:
        return [{"algo_id": each["algo_id"], "enabled": each.get("enabled", True), "params": each.get("params", {})}
                for each in value]  # fmt: skip
    return value


def _conf(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in ("name", "file_ext", "file_b64")}


def _strangers(ledger: Ledger, stored: Stored) -> Iterator[tuple[str, str]]:
    """What no answer has told of must come from a request that nobody was told of."""
    kinds: list[tuple[str, str, str, dict[str, Any], str]] = [
        ("task", "post tasks", "task_id", {key: task.name for key, task in stored.tasks.items()}, "name"),
        ("subtask", "post subtasks", "subtask_id", {k: s.vchan for k, s in stored.subtasks.items()}, "vchan"),
        ("store_conf", "post store_confs", "unid", {key: conf.name for key, conf in stored.confs.items()}, "name"),
    ]
    for what, command, unid, found, part in kinds:
        known = ledger.posted(command, unid)
        for key, value in found.items():
            if key not in known:
                makers = [request for request in ledger.of(command) if request.params.get(part) == value]
                if not any(request.unknown for request in makers):
                    broken = "I9" if makers else "I1"
                    yield broken, f"{what} {key} ({value!r}) is stored; it was asked for by {makers!r}"
