"""``devconf init``: everything that a server of one's own needs, in a folder."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import sys
import time
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import click

from devconf.cli.credentials import write_credentials
from devconf.cli.output import Output
from devconf.cli.private import create
from devconf.cli.session import option_json
from devconf.cli.status import Failed

CONFIG, DATABASE, CREDENTIALS = "devconf.toml", "devconf.sqlite", "credentials"


@click.command()
@click.argument("folder", metavar="[DIR]", default=".")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Where it is to listen.")
@click.option("--user", default="admin", show_default=True, metavar="NAME", help="The name of the administrator.")
@option_json
def init(folder: str, port: int, user: str, as_json: bool) -> None:
    """Make all that a server needs, in the folder DIR.

    That is a configuration, a database and an administrator. Nothing that is there is overwritten. The password of the
    administrator is made up, printed once, and kept with the address in a file that only you may read. The server
    listens on this machine only, until its configuration says otherwise.
    """
    if not 1 <= len(user) <= 256:
        raise click.UsageError("a user's name has 1 to 256 characters", click.get_current_context())
    home = Path(folder).resolve()
    taken = [name for name in (CONFIG, DATABASE, CREDENTIALS) if (home / name).exists()]
    if taken:
        raise Failed(f"{home / taken[0]} is there already and is not overwritten; name another folder")
    url, password = f"http://127.0.0.1:{port}", secrets.token_hex(12)
    config = configuration(f"tcp:{port}:interface=127.0.0.1", home / DATABASE)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(f"{home} cannot be made: {error.strerror}") from None
    with ExitStack() as undo:
        for name, text in ((CONFIG, config), (CREDENTIALS, write_credentials(url, user, password))):
            undo.callback((home / name).unlink, missing_ok=True)
            with open(create(home / name), "w", encoding="utf-8") as file:
                file.write(text)
        for name in (DATABASE, f"{DATABASE}.lock"):
            undo.callback((home / name).unlink, missing_ok=True)
        _make_account(home / DATABASE, user, password)
        undo.pop_all()
    _tell(Output(as_json), home, url, user, password)


def configuration(listen: str, database: Path) -> str:
    """Return the commented sample of the configuration, with these two values instead of its own.

    :raises Failed: the name of the folder cannot stand in it.
    """
    from devconf import config
    from devconf.errors import StartupError
    from devconf.store import opening

    text = resources.files("devconf.cli").joinpath(CONFIG).read_text("utf-8")
    values = {"listen": [listen], "database": f"sqlite:///{database}"}
    for name, value in values.items():
        # TOML writes these as JSON does.
        before, after = re.split(rf"^{name} = .*$", text, flags=re.MULTILINE)
        text = f"{before}{name} = {json.dumps(value, ensure_ascii=False)}{after}"
    try:
        settings = config.parse(text, CONFIG)
    except StartupError as error:
        raise Failed(f"{database.parent} cannot be used: {error}; name another folder") from None
    if opening.sqlite_path(settings.database) != str(database):
        raise Failed(f"{database.parent} cannot stand in the address of a database; name another folder")
    return text


def _make_account(path: Path, user: str, password: str) -> None:
    from devconf.clock import Random
    from devconf.errors import StartupError
    from devconf.model import Role
    from devconf.passwords import hash_password
    from devconf.store import accounts, migrations, opening

    hashed = hash_password(password)
    try:
        connection = opening.connect(f"sqlite:///{path}")
        try:
            migrations.upgrade(connection)
            with connection.begin():
                accounts.insert_user(connection, time.time(), Random().identifier(), user, Role.ADMIN, hashed)
        finally:
            opening.close(connection)
    except StartupError as error:
        raise Failed(error) from None


def _tell(out: Output, home: Path, url: str, user: str, password: str) -> None:
    credentials = home / CREDENTIALS
    start = shlex.join([program("twistd"), "--nodaemon", "devconf", "--config", str(home / CONFIG)])
    devconf = program("devconf")
    try_it = [
        shlex.join([devconf, *words, "--credentials", str(credentials)])
        for words in (["devices", "add", "gate-7"], ["devices", "list"])
    ]
    if out.as_json:
        made = {"config": str(home / CONFIG), "database": str(home / DATABASE), "credentials": str(credentials)}
        out.document({**made, "url": url, "user": user, "password": password, "next": [start, *try_it]})
        return
    click.echo(f"Made {CONFIG}, {DATABASE} and {CREDENTIALS} in {home}.")
    click.echo(f"Address {url}   user {user}   password {password}")
    click.echo(f"The password is not printed again; it is in {credentials}, which only you may read.")
    click.echo(f"\nStart the server:\n  {start}\n\nThen, in another terminal:")
    for command in try_it:
        click.echo(f"  {command}")


def program(name: str) -> str:
    """Return how a program that was installed with this one is called from here."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    return name if found and Path(found).resolve() == beside.resolve() else str(beside)
