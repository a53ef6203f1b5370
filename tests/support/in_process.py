"""The command `restyle` run in this process: Prefect, which takes seconds to import, is imported once."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from unittest.mock import patch

from prefect_wavespeed.deployments.cli.app import main
from prefect_wavespeed.settings import get_settings
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Ended

_NOT_INHERITED = ("RESTYLE_", "WAVESPEED_", "AWS_")
_NO_AWS = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def restyle(
    *arguments: str,
    prefect: PrefectServer | None = None,
    api_url: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run the command.

    Args:
        arguments: of the command.
        prefect: the server that it uses; a command that needs none may leave it out.
        api_url: another URL for Prefect's API than the server's.
        env: added to an environment without settings of this project and of AWS.

    Returns:
        Its exit status, and what it printed. What Prefect logs to the console is not in there: that no log
        reaches the terminal is shown by tests that start a process.
    """
    stdout, stderr = io.StringIO(), io.StringIO()
    using = prefect.used_here(api_url) if prefect else nullcontext()
    with _environment(env or {}), using, redirect_stdout(stdout), redirect_stderr(stderr):
        status = main(arguments)
    return Ended(status, stdout.getvalue(), stderr.getvalue())


@contextmanager
def _environment(env: Mapping[str, str]) -> Iterator[None]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    get_settings.cache_clear()
    with patch.dict(os.environ, {**inherited, **_NO_AWS, **env}, clear=True):
        yield
    get_settings.cache_clear()
