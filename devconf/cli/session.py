"""What every command shares that asks a running server: its options, the connection, and how failures are told."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click
from attrs import frozen

from devconf.cli import credentials
from devconf.cli.loop import run
from devconf.cli.output import Output
from devconf.cli.status import Failed, Status, status_of

if TYPE_CHECKING:
    from devconf.client import Client, Message, RequestFailed

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Items of a page; the most that the server gives.
PAGE = 1000


@frozen
class Session:
    """A connection to the server, for one command.

    :ivar account: who is logged in, and where.
    :ivar out: where to print.
    """

    reactor: Any
    client: Client
    account: credentials.Account
    out: Output

    async def ask(self, command: str, params: Message | None = None, *, doing: str = "") -> Message:
        """Send a command and return its response (``docs/protocol.md`` §4).

        :param doing: shown with a progress bar while it runs.
        :raises RequestFailed: it was answered with an error.
        """
        if not doing:
            return await self.client.request(command, params)
        with self.out.progress(doing) as tell:
            return await self.client.request(command, params, progress=tell)

    async def all(self, resource: str, params: Message, limit: int | None = None) -> list[Message]:
        """Return the items of a list, of as many pages as it has.

        :param resource: such as ``tasks``, which is also where the items stand in the response.
        :param limit: not more than so many.
        """
        items: list[Message] = []
        after: Message = {}
        while True:
            size = PAGE if limit is None else min(PAGE, limit - len(items))
            page = await self.client.request(f"get {resource}", {**params, "limit": size, **after})
            items += page[resource]
            if page["next"] is None or len(items) == limit:
                return items
            after = {"after": page["next"]}

    async def done(self, response: Message, text: str) -> None:
        """Print that a command was carried out, and at which devices it was not confirmed."""
        devices = response.get("devices", [])
        if devices and "total" not in response:
            count = sum(device["state"] == "confirmed" for device in devices)
            text = f"{text}; {count} of {len(devices)} devices confirmed"
        self.out.result(response, text)
        if not self.out.as_json:
            await self._list_devices(response)

    async def failed(self, failure: RequestFailed) -> Failed:
        """Print what a response that is an error tells besides, and return what ends the program."""
        if self.out.as_json:
            self.out.document(failure.response)
        else:
            await self._list_devices(failure.response)
        return Failed(failure, status_of(failure.response))

    async def _list_devices(self, response: Message) -> None:
        """Print the devices of ``response`` that have not confirmed, if any."""
        missing = [device for device in response.get("devices") or [] if device["state"] != "confirmed"]
        if missing:
            names = await self._names(missing)
            rows = [{**device, "dev_refid": names.get(device["dev_unid"])} for device in missing]
            columns = [("DEV_REFID", "dev_refid"), ("DEV_UNID", "dev_unid"), ("SUBTASK_ID", "subtask_id")]
            columns += [("STATE", "state"), ("ECODE", "ecode"), ("ENOTE", "enote")]
            if not any("subtask_id" in device for device in missing):
                columns.remove(("SUBTASK_ID", "subtask_id"))
            self.out.items(rows, columns)
            if "devices_omitted" in response:
                self.out.note(f"and {response['devices_omitted']} more")

    async def _names(self, devices: list[Message]) -> dict[str, str]:
        """Return what the devices call themselves, by their ids; a response lists 1000 of them at most."""
        from devconf.client import Disconnected, RequestFailed

        names = {}
        with contextlib.suppress(Disconnected, RequestFailed):  # their ids are enough, then
            for dev_unid in {device["dev_unid"] for device in devices}:
                for found in await self.all("devices", {"dev_unid": dev_unid}):
                    names[dev_unid] = found["dev_refid"]
        return names


def option_json(function: F) -> F:
    """Add ``--json`` to a command, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")(function)


def option_limit(function: F) -> F:
    """Add ``--limit`` to a list."""
    return click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many; all, if left out.")(
        function
    )


def option_connect_wait(function: F) -> F:
    """Add ``--connect-wait`` to a command that goes down to devices."""
    return click.option(
        "--connect-wait",
        type=click.FloatRange(0, 300),
        metavar="SECONDS",
        help="Wait so long at most for devices that are offline now; at most 300.",
    )(function)


def _read_line(context: click.Context, _option: click.Parameter, wanted: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if wanted and not context.resilient_parsing else None


_OPTIONS = (
    click.option(
        "--url", "url", metavar="URL", help=f"The server's address; {credentials.DEFAULT_URL} if it is given nowhere."
    ),
    click.option("--user", "login_name", metavar="NAME", help="The name of the account to log in with."),
    # Eager: it has the first line of the standard input, whoever else reads there.
    click.option(
        "--password-stdin",
        is_flag=True,
        is_eager=True,
        callback=_read_line,
        help="Read its password from the first line of the standard input.",
    ),
    click.option(
        "--credentials",
        "credentials_file",
        metavar="FILE",
        help="A file of mode 0600 with address, name and password. See devconf --help for what else is looked at.",
    ),
)


def options_login(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say who logs in, and where; the command takes an ``account`` instead of them."""

    @functools.wraps(function)
    def command(
        url: str | None,
        login_name: str | None,
        password_stdin: str | None,
        credentials_file: str | None,
        **values: Any,
    ) -> Any:
        given = {credentials.URL: url, credentials.USER: login_name, credentials.PASSWORD: password_stdin}
        known = {name: value for name, value in given.items() if value}
        return function(account=credentials.choose(known, credentials_file, os.environ), **values)

    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def networked(function: Callable[..., Coroutine[Any, Any, Status | None]]) -> Callable[..., Any]:
    """Make a command of a coroutine function that takes a :class:`Session`, and the values of its own options.

    It has the options of :func:`options_login`, and ``--json``. What it returns is the exit status; None is 0.
    """

    @option_json
    @options_login
    @functools.wraps(function)
    def command(account: credentials.Account, as_json: bool, **values: Any) -> Status | None:
        out = Output(as_json)

        async def main(reactor: Any) -> Status | None:
            return await _in_session(reactor, account, out, lambda session: function(session, **values))

        return run(main)

    return command


async def _in_session(
    reactor: Any, account: credentials.Account, out: Output, function: Callable[[Session], Awaitable[T]]
) -> T:
    from devconf.client import CannotConnect, Disconnected, RequestFailed, connect

    client = await logging_in(account, connect(reactor, account.url, account.user, account.password))
    session = Session(reactor, client, account, out)
    try:
        return await function(session)
    except RequestFailed as failure:
        raise await session.failed(failure) from None
    except Disconnected as failure:
        raise Failed(f"the server did not answer: {failure}", Status.NOT_CONNECTED) from None
    finally:
        with contextlib.suppress(CannotConnect, RequestFailed):
            await client.log_out()


async def logging_in(account: credentials.Account, attempt: Awaitable[T]) -> T:
    """Wait for an ``attempt`` to log in as ``account``.

    :raises Failed: the server cannot be reached, or refuses the login.
    """
    from devconf.client import CannotConnect, RequestFailed

    try:
        return await attempt
    except CannotConnect as failure:
        raise Failed(failure, Status.NOT_CONNECTED) from None
    except RequestFailed as failure:
        raise Failed(f"cannot log in at {account.url}: {failure}", Status.NOT_CONNECTED) from None
