"""What `restyle` says of itself: help on terminals of any width and colour, its examples."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from prefect_wavespeed.deployments.cli.app import app, main
from prefect_wavespeed.deployments.cli.shared.examples import EXAMPLES
from tests.support import terminal
from tests.support.batches import restyle_all
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO
from tests.support.terminal import environment, plain

_RESTYLE = [sys.executable, "-m", "prefect_wavespeed"]
_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
COMMANDS = sorted(name for name in app if name != "emulator" and not name.startswith("-"))
"""All but the emulator's own, which is another program's."""
LINES = [
    shlex.split(line)
    for text in EXAMPLES.values()
    for line in re.sub(r"\\\n| [>|] .*", "", text).splitlines()
    if line.startswith("restyle ")
]


def on_terminal(*arguments: str, columns: int = 80, env: Mapping[str, str] | None = None) -> str:
    """What a command shows on a terminal that is so wide."""
    return terminal.on_terminal([*_RESTYLE, *arguments], columns=columns, env=environment(**(env or {})))


def piped(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_RESTYLE, *arguments], capture_output=True, text=True, env=environment(**(env or {})), timeout=300
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_says_what_it_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"restyle {command}" in said
    assert len(said.splitlines()) > 4


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_an_example_in_the_help_is_a_command_that_is_understood(line: list[str]) -> None:
    assert line[0] == "restyle"
    app.parse_args(line[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", ["image", "batch", "settle"])
def test_help_ends_with_examples_to_copy(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    _, _, examples = capsys.readouterr().out.partition("Examples:")
    copied = [line.strip() for line in examples.splitlines()]
    for line in EXAMPLES[command].strip().splitlines():
        assert (
            line if line.startswith("#") else f"$ {line}" if line.startswith("r") else line.strip()
        ) in copied


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("image photo.jpg", "--out is missing: s3://bucket/prefix, a directory, "),
        ("image photo.jpg --out", "--out needs a value: s3://bucket/prefix, a directory, "),
        ("image photo.jpg --ouf here", "--out is missing: s3://bucket/prefix, a directory, "),
        ("image --out here", "SOURCE is missing: https URL, s3://bucket/key, or the path of a picture. See "),
        ("show --out here", "JOB is missing: Its key or the first 8 characters of it, "),
        ("batch m.csv --out here --max-failed", "--max-failed needs a value: Share of the rows that "),
    ],
)
def test_what_is_missing_is_told_with_what_it_is(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {told}")
    assert said.count("\n") == 1
    assert ("Did you mean --out instead of --ouf?" in said) == ("--ouf" in arguments)


@pytest.mark.parametrize("columns", [50, 80, 140])
def test_help_is_as_wide_as_the_terminal_and_no_wider(columns: int) -> None:
    lines = plain(on_terminal("costs", "--help", columns=columns)).splitlines()
    assert max(map(len, lines)) == columns


def test_help_is_coloured_on_a_terminal_but_not_where_the_user_wants_none_and_never_in_a_pipe() -> None:
    assert _COLOUR.search(on_terminal("image", "--help"))
    assert not _COLOUR.search(on_terminal("image", "--help", env={"NO_COLOR": "1"}))
    assert "\x1b" not in piped("image", "--help").stdout


def test_an_error_is_plain_wherever_it_is_shown() -> None:
    wrong = ("image", "photo.jpg", "--out", "out", "--steps", "many")
    shown = on_terminal(*wrong)
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    ended = piped(*wrong)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", shown)


async def test_what_a_command_found_is_as_wide_as_the_terminal_and_coloured_only_where_it_may_be(
    emulator: Emulator, tmp_path: Path
) -> None:
    images = [str(photo) for photo in PHOTO.parent.glob("*.jpg")]
    await restyle_all(emulator.url, str(tmp_path), images)
    listed = on_terminal("list", "--out", str(tmp_path), columns=100, env={"NO_COLOR": "1"})
    assert max(map(len, plain(listed).splitlines())) <= 100
    for asked in (["list"], ["show", PHOTO.name]):
        command = [*asked, "--out", str(tmp_path)]
        shown = on_terminal(*command, columns=100, env={"NO_COLOR": "1"})
        assert PHOTO.name in shown
        assert not _COLOUR.search(shown)
        told = piped(*command)
        assert PHOTO.name in told.stdout
        assert "\x1b" not in told.stdout + told.stderr
    assert _COLOUR.search(on_terminal("list", "--out", str(tmp_path)))


@pytest.mark.e2e
def test_who_waits_at_a_terminal_for_a_server_of_the_commands_own_is_told_so_once(
    emulator: Emulator, tmp_path: Path
) -> None:
    env = {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(tmp_path / "home"),
        "WAVESPEED_API_KEY": "any",
        "WAVESPEED_BASE_URL": emulator.url,
    }
    told = "no PREFECT_API_URL: starting a temporary Prefect server\n"
    out = ("--out", str(tmp_path))
    assert on_terminal("settle", *out, env=env).count(told) == 1  # a flow
    assert on_terminal("costs", *out, env=env).count(told) == 1  # a block
    assert told not in on_terminal("list", *out, env=env)  # neither
    ended = piped("settle", *out, env=env)
    assert ended.stdout == "nothing is open\n"
    assert told not in ended.stderr
