"""The command line, ``devconf``.

A shell asks this program at each TAB what could come next. So what takes long to load, such as Twisted, SQLAlchemy and
Rich, is imported in the functions that use it.
"""

from __future__ import annotations

import click

import devconf
from devconf.cli import credentials
from devconf.cli.accounts import user
from devconf.cli.backup import backup
from devconf.cli.call import call
from devconf.cli.check import check
from devconf.cli.completion import completion
from devconf.cli.devices import devices
from devconf.cli.history import history
from devconf.cli.init import init
from devconf.cli.program import Program
from devconf.cli.restore import restore
from devconf.cli.simulate import simulate
from devconf.cli.store_confs import store_confs
from devconf.cli.tasks import subtasks, tasks
from devconf.cli.users import users
from devconf.cli.watch import watch

HELP = f"""Work with a devconf server.

Who logs in, and where: {credentials.HELP}

With --json the result is one JSON document on the standard output. Notes, progress and errors are on the standard
error."""


@click.group(cls=Program, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(devconf.__version__)
@click.option("--config", "-c", metavar="FILE", help="The server's configuration; for commands on its machine.")
@click.pass_context
def main(context: click.Context, config: str | None) -> None:
    """Run the command line; see its help."""
    context.obj = config


main.add_section(
    "Ask a running server, as an operator who logs in",
    [devices, tasks, subtasks, store_confs, users, history, watch, call, backup],
)
main.add_section("On the machine of the server", [init, check])
main.add_section("On the machine of the server, which must be stopped", [user, restore])
main.add_section("Others", [simulate, completion])
