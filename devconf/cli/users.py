"""``devconf users``: accounts of operators, by the running server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from devconf.cli.session import Session, networked, option_limit

F = TypeVar("F", bound=Callable[..., Any])

ROLES = click.Choice(["viewer", "operator", "admin"])


def read_new_password(context: click.Context, _option: click.Parameter, from_stdin: bool) -> str | None:
    """Read a new password, from the standard input or at the terminal.

    :raises click.UsageError: there is neither, or it is empty.
    """
    if context.resilient_parsing:
        return None
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        flag = _option.opts[0]
        raise click.UsageError(f"there is no terminal to ask for the new password; use {flag}", context)
    if not password:
        raise click.UsageError("the new password is empty", context)
    return str(password)


def option_new_password(flag: str, where: str) -> Callable[[F], F]:
    """Add the option ``flag`` to a command, which takes the ``new_password``."""
    return click.option(
        flag,
        "new_password",
        is_flag=True,
        callback=read_new_password,
        help=f"Read the new password from {where} of the standard input, instead of asking for it.",
    )


_new_password = option_new_password(
    "--new-password-stdin", "the first line, or after that of --password-stdin the second,"
)


@click.group()
def users() -> None:
    """Accounts of operators, by the running server.

    To make the first one, or when no admin can log in any more, stop the server and use 'devconf user'.
    """


@users.command("list")
@option_limit
@networked
async def list_users(session: Session, limit: int | None) -> None:
    """List the accounts."""
    found = await session.all("users", {}, limit)
    session.out.items(found, [("USER_UNID", "user_unid"), ("NAME", "user_name"), ("ROLE", "role")])


@users.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What it may do.")
@_new_password
@networked
async def add(session: Session, name: str, role: str, new_password: str) -> None:
    """Make the account NAME."""
    params = {"user_name": name, "role": role, "password": new_password}
    await session.done(await session.ask("post users", params), f"{name} is {role} now")


@users.command("set")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What it may do from now on.")
@networked
async def change(session: Session, name: str, role: str) -> None:
    """Give the account NAME another role; it is logged out everywhere."""
    await session.done(await session.ask("put users", {"user_name": name, "role": role}), f"{name} is {role} now")


@users.command("passwd")
@click.argument("name", required=False)
@_new_password
@networked
async def passwd(session: Session, name: str | None, new_password: str) -> None:
    """Give the account NAME another password; it is logged out everywhere.

    Without NAME it is your own. Those of others take the role admin.
    """
    own = session.account
    params = {"user_name": name or own.user, "password": new_password}
    if params["user_name"] == own.user:
        params["old_password"] = own.password
    await session.done(await session.ask("put users", params), f"{params['user_name']} has a new password")


@users.command("remove")
@click.argument("name")
@networked
async def remove(session: Session, name: str) -> None:
    """Delete the account NAME; it is logged out everywhere."""
    await session.done(await session.ask("delete users", {"user_name": name}), f"{name} is gone")
