"""``devconf watch``: what happens, as it happens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from devconf.cli.credentials import Account
from devconf.cli.loop import run
from devconf.cli.output import Output, printable, short
from devconf.cli.session import logging_in, options_login
from devconf.cli.status import Failed, Status

if TYPE_CHECKING:
    from devconf.client import Message

TOPICS = ("devices", "deliveries", "commands")


@click.command()
@click.argument("topics", nargs=-1, metavar="[TOPIC]...", type=click.Choice(TOPICS))
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after so many events.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a JSON object in a line of its own.")
@options_login
def watch(account: Account, topics: Sequence[str], count: int | None, as_json: bool) -> None:
    """Print what happens, as it happens, until Ctrl-C.

    TOPIC is devices (they connect, disconnect, are changed), deliveries (they answer orders) or commands (those of
    the history are over); without any it is all of them. When the connection is lost, it is opened again. Events
    that were missed are counted on the standard error.
    """
    out = Output(as_json)
    run(lambda reactor: _watch(reactor, account, out, sorted(set(topics)) or list(TOPICS), count))


async def _watch(reactor: Any, account: Account, out: Output, topics: list[str], count: int | None) -> None:
    from twisted.internet.defer import CancelledError, Deferred

    from devconf.client import CannotConnect, LastingClient, RequestFailed

    done: Deferred[None] = Deferred()
    seen = 0

    def happened(event: Message) -> None:
        nonlocal seen
        seen += 1
        try:
            click.echo(json.dumps(event, ensure_ascii=False) if out.as_json else told(event))
        except OSError as failure:  # who read this has gone
            if not done.called:
                done.errback(failure)
        if seen == count and not done.called:
            done.callback(None)

    def missed(number: int | None) -> None:
        out.note("some events were missed while there was no connection" if number is None else f"{number} missed")

    def heard(what: str) -> None:
        # Only a connection that was there once is waited for.
        if subscribed.called:
            out.note(what)
        elif what != "connected":
            reasons.append(what)
            subscribed.cancel()

    reasons: list[str] = []
    client = LastingClient(reactor, account.url, account.user, account.password, report=heard)
    subscribed: Deferred[Message] = Deferred()
    try:
        client.start()
        client.when_ended().addErrback(lambda failure: None if done.called else done.errback(failure))
        client.subscribe(topics, happened, missed).chainDeferred(subscribed)
        await logging_in(account, subscribed)
        out.note(f"watching {', '.join(topics)} at {account.url}")
        await logging_in(account, done)
    except CannotConnect as failure:
        raise Failed(failure, Status.NOT_CONNECTED) from None
    except CancelledError:
        if reasons:
            raise Failed(reasons[0], Status.NOT_CONNECTED) from None
        raise
    finally:
        with contextlib.suppress(CannotConnect, RequestFailed):
            await client.log_out()


def told(event: Message) -> str:
    """Return an event as a line for people."""
    data = event["data"]
    if event["event"] == "devices":
        what = f"{data['dev_refid']} {data['change']}"
    elif event["event"] == "deliveries":
        subtask = f" subtask {data['subtask_id']}" if data.get("subtask_id") else ""
        why = f" {data['ecode']}: {data['enote']}" if data["ecode"] else ""
        late = ", late" if data["late"] else ""
        what = f"{data['dev_unid']} task {data['task_id']}{subtask} rev {data['rev']}: {data['state']}{late}{why}"
    else:
        why = f" {data['ecode']}: {data['enote']}" if data["ecode"] else ""
        outcome = "completed by a late answer" if "completed_at" in data else data["outcome"] + why
        what = f"{data['user_name']}: {short(data['command'])}: {outcome}"
    return printable(f"{event['at']} {event['event']:<10} {what}")
