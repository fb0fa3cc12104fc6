"""``devconf call``: one command to a running server, as an operator."""

from __future__ import annotations

from typing import Any

import click

from devconf.cli.credentials import read_credentials
from devconf.cli.params import json_object
from devconf.cli.session import Session, networked
from devconf.cli.status import Failed, Status

# The credentials were read here once, and are so by others still.
__all__ = ["call", "read_credentials"]


@click.command()
@click.argument("command")
@click.argument("params", type=json_object, metavar="[PARAMS]", required=False)
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="1 to 128 characters. A change that is asked for again with the same key is not made again, and answered the "
    "same; for scripts that try again.",
)
@networked
async def call(session: Session, command: str, params: dict[str, Any] | None, idempotency_key: str | None) -> None:
    """Send COMMAND to a running server and print the response.

    COMMAND is such as 'get tasks'. PARAMS are its params: a JSON object, @FILE with one, or - to read one from the
    standard input.

    The response is JSON. The exit status is 0 if the ecode is 0, and 1 for every other: the response, which is printed
    all the same, says which. 2 is wrong usage; 3: the server cannot be reached, or refuses the login, or the
    connection was lost.
    """
    from devconf.client import RequestFailed

    try:
        session.out.document(await session.client.request(command, params, idempotency_key=idempotency_key))
    except RequestFailed as failure:
        session.out.document(failure.response)
        raise Failed(failure, Status.FAILED) from None
