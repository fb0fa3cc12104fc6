"""``devconf check``: whether this machine is fit for a server, and what is there already."""

from __future__ import annotations

import click
from attrs import asdict

from devconf.cli.database import option_config
from devconf.cli.machine import ERROR, look
from devconf.cli.output import Output
from devconf.cli.session import option_json
from devconf.cli.status import Status


@click.command()
@option_config
@option_json
def check(config_path: str | None, as_json: bool) -> Status:
    """Check configuration, database, versions, and limits.

    It is for the user and the machine that the server runs on. The exit status is 1 if anything is an error.
    """
    lines = list(look(config_path))
    Output(as_json).items([asdict(line) for line in lines], [("CHECK", "check"), ("STATE", "state"), ("WHAT", "text")])
    return Status.FAILED if any(line.state == ERROR for line in lines) else Status.DONE
