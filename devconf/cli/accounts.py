"""``devconf user``: accounts of operators, in the database of a server that is not running."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from devconf.cli.database import option_config, settings_of
from devconf.cli.output import Output
from devconf.cli.session import option_json
from devconf.cli.status import Failed
from devconf.cli.users import ROLES, option_new_password

_new_password = option_new_password("--password-stdin", "the first line")


@click.group()
def user() -> None:
    """Accounts, in the database of a stopped server.

    For the first account, and for when no admin can log in any more. While the server runs, 'devconf users' is for
    accounts.
    """


@user.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What it may do.")
@_new_password
@option_config
@option_json
def add(config_path: str | None, as_json: bool, name: str, role: str, new_password: str) -> None:
    """Make the account NAME."""
    from devconf.clock import Random
    from devconf.model import Role
    from devconf.passwords import hash_password
    from devconf.store import accounts

    if not 1 <= len(name) <= 256:
        raise click.UsageError("a user's name has 1 to 256 characters", click.get_current_context())
    made = (time.time(), Random().identifier(), name, Role.named(role), hash_password(new_password))
    _on_database(config_path, accounts.insert_user, *made)
    Output(as_json).result({"user_name": name, "role": role}, f"{name} is {role} now")


@user.command("list")
@option_config
@option_json
def list_users(config_path: str | None, as_json: bool) -> None:
    """List the accounts."""
    from devconf.store import accounts

    found = _on_database(config_path, accounts.list_users)
    Output(as_json).items(found, [("USER_UNID", "user_unid"), ("NAME", "user_name"), ("ROLE", "role")], "no accounts")


@user.command("remove")
@click.argument("name")
@option_config
@option_json
def remove(config_path: str | None, as_json: bool, name: str) -> None:
    """Delete the account NAME."""
    from devconf.store import accounts

    _on_database(config_path, accounts.delete_user, name)
    Output(as_json).result({"user_name": name}, f"{name} is gone")


@user.command("passwd")
@click.argument("name")
@_new_password
@option_config
@option_json
def passwd(config_path: str | None, as_json: bool, name: str, new_password: str) -> None:
    """Give the account NAME another password; it is logged out everywhere."""
    from devconf.passwords import hash_password
    from devconf.store import accounts

    _on_database(config_path, accounts.change_user, name, {"password_hash": hash_password(new_password)}, None)
    Output(as_json).result({"user_name": name}, f"{name} has a new password")


def _on_database(config_path: str | None, function: Callable[..., Any], *args: Any) -> Any:
    from devconf.errors import CommandFailed, StartupError
    from devconf.store import migrations, opening

    settings = settings_of(config_path)
    try:
        connection = opening.connect(settings.database)
        try:
            migrations.upgrade(connection)
            with connection.begin():
                return function(connection, *args)
        finally:
            opening.close(connection)
    except StartupError as error:
        hint = ", or use 'devconf users' while it runs" if "is in use by" in str(error) else ""
        raise Failed(f"{error}{hint}") from None
    except CommandFailed as error:
        raise Failed(error.enote) from None
