"""``devconf devices import``: enrol the devices of a file, and keep their keys in another."""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from attrs import define, field

from devconf.cli import device_file, private
from devconf.cli.device_file import Row
from devconf.cli.session import Session, networked
from devconf.cli.status import Failed, Status, status_of
from devconf.errors import Ecode

if TYPE_CHECKING:
    from devconf.client import Message

#: Requests that are on their way at the same time.
PARALLEL = 16
#: Seconds until a request is sent again that the server had no room for, and how often.
PAUSE = 0.2
ATTEMPTS = 50
#: Seconds that a key may be in the cache of the system only.
SYNC_AFTER = 0.25

HEADINGS = ["dev_refid", "dev_unid", "dev_key"]


class KeysFile:
    """Where the keys go, as they come: each is in the file before the next step.

    :param append: go on with a file that is there.
    :raises Failed: the file is there and is not to be gone on with, or cannot be.
    """

    def __init__(self, path: Path, append: bool, seconds: Callable[[], float]) -> None:
        self.path = path
        self._seconds = seconds
        self._synced = seconds()
        self._new = not (append and path.exists())
        self._empty = self._new
        if path.exists() and not append:
            raise Failed(f"{path} is there already; --append goes on with it, --keys names another file")
        self._file = private.create(path) if self._new else _reopened(path)
        if self._new:
            self._write(HEADINGS)

    def add(self, dev_refid: str, dev_unid: str, dev_key: str) -> None:
        """Keep the key of a device.

        :raises OSError: it cannot be written.
        """
        self._write([dev_refid, dev_unid, dev_key])
        self._empty = False
        if self._seconds() - self._synced > SYNC_AFTER:
            os.fsync(self._file)
            self._synced = self._seconds()

    def _write(self, cells: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        content = text.getvalue().encode()
        while content:
            content = content[os.write(self._file, content) :]

    def close(self) -> bool:
        """Close the file; one that is new and has no keys is removed. Return whether it has any."""
        os.fsync(self._file)
        os.close(self._file)
        if self._empty:
            self.path.unlink()
        private.sync_folder(self.path)
        return not self._empty


def _reopened(path: Path) -> int:
    if private.others_may_read(path):
        raise Failed(f"{path}: others may read this file; run: chmod 600 {path}")
    content = path.read_bytes()
    if content.split(b"\n", 1)[0].strip() != ",".join(HEADINGS).encode():
        raise Failed(f"{path} is no file of keys, so it is left alone; name another file with --keys")
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    if not content.endswith(b"\n"):
        os.write(file, b"\n")  # its last line was cut off
    return file


@define
class Enrolment:
    """Enrols devices, several at the same time.

    :ivar enrolled: what was enrolled, :ivar existing: was there already, and :ivar failed: was not enrolled: an item
        for each line of the file.
    :ivar fatal: why it was not gone on with.
    """

    _session: Session
    _keys: KeysFile
    _rows: list[Row]
    enrolled: list[Message] = field(factory=list, init=False)
    existing: list[Message] = field(factory=list, init=False)
    failed: list[Message] = field(factory=list, init=False)
    fatal: Exception | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Enrol them all; when cancelled, wait for the answers that are due: each may have a key."""
        from twisted.internet.defer import CancelledError, Deferred, gatherResults

        waiting: Iterator[Row] = iter(self._rows)
        with self._session.out.progress("devices") as tell:
            workers = [Deferred.fromCoroutine(self._work(waiting, tell)) for _ in range(PARALLEL)]
            finished = gatherResults(workers, consumeErrors=True)
            # What is cancelled is this, not the requests.
            done: Deferred[Any] = Deferred()
            finished.chainDeferred(done)
            try:
                await done
            except CancelledError:
                self._stopped = True
                await finished
                raise

    async def _work(self, waiting: Iterator[Row], tell: Callable[[int, int], None]) -> None:
        for row in waiting:
            await self._enrol(row)
            tell(len(self.enrolled) + len(self.existing) + len(self.failed), len(self._rows))
            if self._stopped:
                return

    async def _enrol(self, row: Row) -> None:
        from devconf.client import Disconnected, RequestFailed

        told: Message = {"line": row.line, "dev_refid": row.dev_refid}
        try:
            made = await self._ask(row)
        except RequestFailed as failure:
            if failure.ecode == Ecode.ALREADY_EXISTS:
                self.existing.append(told)
            elif failure.ecode == Ecode.FORBIDDEN:
                self._stop(failure)
            else:
                self.failed.append({**told, "ecode": failure.ecode, "enote": failure.enote})
        except Disconnected as failure:
            self.failed.append({**told, "ecode": None, "enote": "no answer: it may be enrolled, without its key here"})
            self._stop(failure)
        else:
            self._keep(told, made)

    def _keep(self, told: Message, made: Message) -> None:
        try:
            self._keys.add(told["dev_refid"], made["dev_unid"], made["dev_key"])
        except OSError as error:
            lost = "it is enrolled, but its key is lost: 'devconf devices set --new-key' gives it another"
            self.failed.append({**told, "ecode": None, "enote": lost})
            self._stop(Failed(f"{self._keys.path} cannot be written: {error.strerror}"))
        else:
            self.enrolled.append({**told, "dev_unid": made["dev_unid"]})

    def _stop(self, why: Exception) -> None:
        self._stopped = True
        self.fatal = self.fatal or why

    async def _ask(self, row: Row) -> Message:
        from twisted.internet.task import deferLater

        from devconf.client import RequestFailed

        for _ in range(ATTEMPTS):
            try:
                return await self._session.client.request("post devices", row.params)
            except RequestFailed as failure:
                if failure.ecode != Ecode.TOO_MANY or self._stopped:
                    raise
            await deferLater(self._session.reactor, PAUSE)
        return await self._session.client.request("post devices", row.params)


def _read_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Read the file before the server is asked."""

    @functools.wraps(function)
    def command(file: str, encoding: str | None, keys: str | None, **values: Any) -> Any:
        rows = device_file.read(file, encoding)
        return function(rows=rows, keys=Path(keys) if keys else Path(file).with_suffix(".keys.csv"), **values)

    return command


@click.command("import")
@click.argument("file", metavar="FILE.csv")
@click.option("--keys", metavar="FILE", help="Where the keys go; without it FILE.keys.csv, beside FILE.csv.")
@click.option("--append", is_flag=True, help="Go on with a file of keys that is there.")
@click.option(
    "--encoding",
    type=click.Choice(device_file.ENCODINGS),
    help="How FILE.csv is encoded, if that cannot be told: UTF-8 and common GB18030 can.",
)
@_read_first
@networked
async def enrol(session: Session, rows: list[Row], keys: Path, append: bool) -> Status:
    """Enrol the devices of FILE.csv.

    Its first line names the columns: dev_refid, and if wanted dev_name, dev_type and key_required (yes or no). The
    cells may be separated by commas, semicolons or tabs. The whole file is checked before anything is enrolled.

    The keys are written as dev_refid,dev_unid,dev_key to a new file of mode 0600, as they come. Devices that are
    enrolled already are told and skipped, so that the command can be given again after it was interrupted.
    """
    file = KeysFile(keys, append, session.reactor.seconds)
    enrolment = Enrolment(session, file, rows)
    try:
        await enrolment.run()
    finally:
        has_keys = file.close()
        _tell(session, enrolment, file.path if has_keys else None)
    return _status(enrolment)


def _tell(session: Session, enrolment: Enrolment, keys: Path | None) -> None:
    enrolled, existing, failed = enrolment.enrolled, enrolment.existing, enrolment.failed
    if session.out.as_json:
        answer = {"enrolled": enrolled, "existing": existing, "failed": failed, "keys": str(keys) if keys else None}
        session.out.document(answer)
        return
    others = [{**item, "why": "is enrolled already"} for item in existing]
    others += [{**item, "why": item["enote"]} for item in failed]
    others.sort(key=lambda item: int(item["line"]))
    if others:
        session.out.items(others, [("LINE", "line"), ("DEV_REFID", "dev_refid"), ("WHY NOT", "why")])
    where = f"; the keys are in {keys}, which only you may read" if keys else ""
    session.out.result(
        None, f"{len(enrolled)} enrolled, {len(existing)} there already, {len(failed)} not enrolled{where}"
    )


def _status(enrolment: Enrolment) -> Status:
    from devconf.client import Disconnected, RequestFailed

    if isinstance(enrolment.fatal, RequestFailed):
        raise Failed(enrolment.fatal, status_of(enrolment.fatal.response))
    if isinstance(enrolment.fatal, Disconnected):
        raise Failed(f"{enrolment.fatal}; give the same command again, with --append", Status.NOT_CONNECTED)
    if enrolment.fatal is not None:
        raise enrolment.fatal
    if enrolment.failed:
        return Status.PARTLY if enrolment.enrolled or enrolment.existing else Status.FAILED
    return Status.DONE
