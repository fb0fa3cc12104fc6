"""The command line, ``devconf``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

import devconf
from devconf import config
from devconf.cli.call import call
from devconf.clock import Random
from devconf.errors import CommandFailed, StartupError
from devconf.model import Role
from devconf.passwords import hash_password
from devconf.store import accounts, migrations, writer


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(devconf.__version__)
@click.option(
    "--config", "-c", "path", metavar="FILE", help="The server's configuration; for commands on its database."
)
@click.pass_context
def main(context: click.Context, path: str | None) -> None:
    """Work with a devconf server: its accounts here, its tasks and devices through it."""
    context.obj = path


main.add_command(call)


@main.group()
def user() -> None:
    """Accounts of operators, in the database of a server that is not running."""


_password = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@user.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), required=True)
@_password
@click.pass_obj
def add(path: str | None, name: str, role: str, password_stdin: bool) -> None:
    """Make the account NAME."""
    if not 1 <= len(name) <= 256:
        _fail("a user's name has 1 to 256 characters")
    hashed = hash_password(_read_password(password_stdin))
    _on_database(
        path,
        lambda connection: accounts.insert_user(
            connection, time.time(), Random().identifier(), name, Role.named(role), hashed
        ),
    )
    click.echo(f"{name} is {role} now")


@user.command("list")
@click.pass_obj
def list_users(path: str | None) -> None:
    """List the accounts: name and role."""
    for item in _on_database(path, accounts.list_users):
        click.echo(f"{item['user_name']}\t{item['role']}")


@user.command("remove")
@click.argument("name")
@click.pass_obj
def remove(path: str | None, name: str) -> None:
    """Delete the account NAME."""
    _on_database(path, accounts.delete_user, name)
    click.echo(f"{name} is gone")


@user.command("passwd")
@click.argument("name")
@_password
@click.pass_obj
def passwd(path: str | None, name: str, password_stdin: bool) -> None:
    """Give the account NAME another password; it is logged out everywhere."""
    hashed = hash_password(_read_password(password_stdin))
    _on_database(path, accounts.change_user, name, {"password_hash": hashed})
    click.echo(f"{name} has a new password")


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        _fail("there is no terminal to ask for the password; use --password-stdin")
    if not password:
        _fail("the password is empty")
    return str(password)


def _on_database(path: str | None, function: Callable[..., Any], *args: Any) -> Any:
    try:
        settings = config.load(path) if path else config.Config()
        connection = writer.connect(settings.database)
        try:
            migrations.upgrade(connection)
            with connection.begin():
                return function(connection, *args)
        finally:
            writer.close(connection)
    except StartupError as error:
        _fail(str(error))
    except CommandFailed as error:
        _fail(error.enote)


def _fail(text: str) -> Any:
    click.echo(f"devconf: {text}", err=True)
    sys.exit(1)
