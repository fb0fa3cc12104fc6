"""``devconf call``: one command to a running server, as an operator."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from twisted.internet.task import react

from devconf.client import CannotConnect, Disconnected, Message, RequestFailed, connect

DEFAULT_URL = "http://127.0.0.1:8080"

#: Exit statuses besides 0 and click's own 2 for a wrong command line.
ANSWERED_ERROR = 1
NOT_CONNECTED = 3

_NAMES = ("DEVCONF_URL", "DEVCONF_USER", "DEVCONF_PASSWORD")


def read_credentials(path: str | Path) -> dict[str, str]:
    """Return the credentials in the file ``path``: lines of ``NAME=VALUE``, the names as those in the environment.

    :raises click.UsageError: the file cannot be read, or a line is nothing of this kind.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise click.UsageError(f"{path}: cannot be read: {reason}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or name not in _NAMES:
            raise click.UsageError(f"{path}: line {number} is not NAME=VALUE with one of {', '.join(_NAMES)}")
        found[name] = value
    return found


def _read_params(text: str | None) -> Message | None:
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        params = json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{text[1:]}: cannot be read: {error.strerror}", param_hint="PARAMS") from None
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="PARAMS") from None
    if not isinstance(params, dict):
        raise click.BadParameter("not a JSON object; write it like '{\"limit\": 10}'", param_hint="PARAMS")
    return params


@click.command(
    help="""Send COMMAND, such as 'get tasks', to a running server and print the response.

    PARAMS are its params: a JSON object, @FILE with one, or - to read one from the standard input.

    What is not given as an option comes from the file of --credentials, else from the environment: DEVCONF_URL,
    DEVCONF_USER, DEVCONF_PASSWORD. The file has lines of NAME=VALUE with these names.

    \b
    Exit status: 0 the ecode is 0 · 1 the server answered an error (its JSON is printed all the same) ·
    2 wrong usage · 3 the server cannot be reached, or refuses the login, or the connection was lost.
    """
)
@click.argument("command")
@click.argument("params", required=False)
@click.option("--url", help=f"The server's address; {DEFAULT_URL} if it is given nowhere.")
@click.option("--user", metavar="NAME", help="The name of the account.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of the standard input.")
@click.option("--credentials", metavar="FILE", help="A file with address, name and password; keep it at mode 0600.")
def call(
    command: str,
    params: str | None,
    url: str | None,
    user: str | None,
    password_stdin: bool,
    credentials: str | None,
) -> None:
    """Run the command line; see its help."""
    if password_stdin and params == "-":
        raise click.UsageError("the standard input cannot be both the password and PARAMS")
    known = {**os.environ, **(read_credentials(credentials) if credentials else {})}
    url = url or known.get("DEVCONF_URL") or DEFAULT_URL
    user = user or known.get("DEVCONF_USER")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else known.get("DEVCONF_PASSWORD")
    if not user or not password:
        raise click.UsageError("name and password are needed: see --credentials, --user and --password-stdin")
    react(_call, (url, user, password, command, _read_params(params)))


async def _call(reactor: Any, url: str, user: str, password: str, command: str, params: Message | None) -> None:
    try:
        client = await connect(reactor, url, user, password)
    except (CannotConnect, RequestFailed) as failure:
        _fail(NOT_CONNECTED, f"cannot log in at {url}: {failure}" if isinstance(failure, RequestFailed) else failure)
    try:
        _print(await client.request(command, params))
    except RequestFailed as failure:
        _print(failure.response)
        _fail(ANSWERED_ERROR, failure)
    except Disconnected as failure:
        _fail(NOT_CONNECTED, f"the server did not answer: {failure}")
    finally:
        await client.close()


def _print(response: Message) -> None:
    indent = 2 if sys.stdout.isatty() else None
    click.echo(json.dumps(response, ensure_ascii=False, indent=indent))


def _fail(status: int, why: object) -> NoReturn:
    click.echo(f"devconf: {why}" if status == NOT_CONNECTED else why, err=True)
    raise SystemExit(status)
