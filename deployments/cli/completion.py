"""`restyle completion`: a script by which a shell completes the command line."""

from __future__ import annotations

import re
from typing import Literal

from cyclopts import App

from prefect_wavespeed.deployments.cli.shared.examples import epilogue
from prefect_wavespeed.deployments.cli.shared.help import SET_UP

Shell = Literal["bash", "zsh", "fish"]

_ZSH_VALUE = re.compile(r"^( +'(?:\d+:(?! )|\*--).*)(' \\)$", re.MULTILINE)
"""In `_arguments`: an argument, or an option's value, that is not limited to choices."""

_ZSH_START = """\
# autoloaded from $fpath and called, or sourced
if [[ $funcstack[1] == _restyle ]]; then _restyle "$@"; else compdef _restyle restyle; fi
"""


def add_completion(app: App) -> None:
    """Add the command, which needs the whole app, to an app."""

    @app.command(group=SET_UP, help_epilogue=epilogue("completion"))
    def completion(shell: Shell, /) -> int:
        """Print a script that completes this command and its options in your shell.

        Args:
            shell: The shell that you use.
        """
        print(_script(app, shell))
        return 0


def _script(app: App, shell: Shell) -> str:
    """Generate the script; it falls back to file names, which sources and manifests are."""
    script = app.generate_completion(shell=shell)
    if shell == "bash":
        return script.replace("complete -F", "complete -o default -F")
    if shell == "zsh":
        return _ZSH_VALUE.sub(r"\1:_files\2", script.replace("_cyclopts_restyle", "_restyle")) + _ZSH_START
    return script  # fish completes file names by default
