"""The keys of the devices: from a file, as ``devconf devices import`` writes it, or from a server that enrols them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from devconf.client import Message, RequestFailed
from devconf.errors import Ecode
from devconf.simulator.wanted import Ask

COLUMNS = ("dev_refid", "dev_unid", "dev_key")

#: Devices that are enrolled at once.
_AT_ONCE = 16


class KeysFailed(Exception):
    """The devices have no keys; the text is one line that says why and what to do."""


@frozen
class DeviceKey:
    """What a device needs to come in, and the ``dev_unid`` under which the server knows it."""

    dev_refid: str
    dev_unid: str
    dev_key: str = field(repr=False)


def read_keys(text: str, origin: str) -> list[DeviceKey]:
    """Return the keys in a file of CSV with the columns :data:`COLUMNS`.

    :param text: what is in it.
    :param origin: its name, for messages.
    :raises KeysFailed: it is no such file.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    keys: dict[str, DeviceKey] = {}
    try:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise KeysFailed(f"{origin} is no file of keys: its first line is not {','.join(COLUMNS)}")
        for row in reader:
            key = DeviceKey(*((row[column] or "").strip() for column in COLUMNS))
            if not (key.dev_refid and key.dev_unid and key.dev_key):
                raise KeysFailed(f"{origin}: line {reader.line_num} is not {','.join(COLUMNS)}")
            if key.dev_refid in keys:
                raise KeysFailed(f"{origin}: line {reader.line_num} has {key.dev_refid!r} once more")
            keys[key.dev_refid] = key
    except csv.Error as error:
        raise KeysFailed(f"{origin}: line {reader.line_num}: {error}") from None
    return list(keys.values())


async def enrol(
    ask: Ask, dev_refids: Iterable[str], keep: Callable[[DeviceKey], object], *, new_keys: bool = False
) -> None:
    """Enrol devices, as an admin; when cancelled, wait for the answers that are due, for each has a key.

    :param keep: called with each, at once: the server tells a key only once.
    :param new_keys: those that are enrolled already get new keys.
    :raises KeysFailed: one is enrolled already, or the account may not do this.
    """
    waiting = iter(dev_refids)
    stopped = False

    async def work() -> None:
        nonlocal stopped
        for dev_refid in waiting:
            try:
                keep(await _enrol(ask, dev_refid, new_keys))
            except BaseException:
                stopped = True
                raise
            if stopped:
                return

    workers = DeferredList([Deferred.fromCoroutine(work()) for _ in range(_AT_ONCE)], consumeErrors=True)
    # What is cancelled is this, not the requests.
    done: Deferred[None] = Deferred()

    def over(results: Any) -> Any:
        if not done.called:
            done.callback(None)
        return results

    workers.addCallback(over)
    try:
        await done
    except CancelledError:
        stopped = True
        await workers
        raise
    results: list[tuple[bool, Any]] = await workers
    for succeeded, result in results:
        if not succeeded:
            result.raiseException()


async def _enrol(ask: Ask, dev_refid: str, new_keys: bool) -> DeviceKey:
    params: Message = {"dev_refid": dev_refid, "dev_name": f"simulated {dev_refid}", "dev_type": "simulated"}
    try:
        made = await ask("post devices", params)
    except RequestFailed as failure:
        if failure.ecode == Ecode.FORBIDDEN:
            raise KeysFailed("to enrol devices takes an account with the role admin") from None
        if failure.ecode != Ecode.ALREADY_EXISTS:
            raise
        if not new_keys:
            raise KeysFailed(
                f"{dev_refid} is enrolled already, and its key is not in the file: use the file of the run that"
                " enrolled it, another --prefix, or --new-keys to give such devices new keys"
            ) from None
        return await _rekey(ask, dev_refid)
    return DeviceKey(dev_refid, made["dev_unid"], made["dev_key"])


async def _rekey(ask: Ask, dev_refid: str) -> DeviceKey:
    listed = await ask("get devices", {"text": dev_refid, "limit": 1000})
    for item in listed["devices"]:
        if item["dev_refid"] == dev_refid:
            answer = await ask("put devices", {"dev_unid": item["dev_unid"], "new_key": True})
            return DeviceKey(dev_refid, item["dev_unid"], answer["dev_key"])
    raise KeysFailed(f"{dev_refid} is enrolled already, and cannot be found among the devices; name another --prefix")
