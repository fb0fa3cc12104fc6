"""``devconf completion``: what a shell needs to complete the command line at TAB."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from devconf.cli.status import Failed


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete at TAB.

    \b
    bash, in ~/.bashrc:                     source <(devconf completion bash)
    zsh, in ~/.zshrc:                       source <(devconf completion zsh)
    fish, in ~/.config/fish/config.fish:    devconf completion fish | source
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Failed(f"completion for {shell} is not known to this version of click")
    click.echo(kind(context.find_root().command, {}, "devconf", "_DEVCONF_COMPLETE").source())
