"""The help of `restyle`, its examples, and terminals of any width and colour."""

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
from prefect_wavespeed.storage.open_store import directory_store
from tests.support import terminal
from tests.support.emulator_process import Emulator
from tests.support.records import put, side_car
from tests.support.terminal import environment, plain

_RESTYLE = [sys.executable, "-m", "prefect_wavespeed"]
_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
COMMANDS = sorted(name for name in app if name != "emulator" and not name.startswith("-"))
"""All but the emulator, which has its own parser."""
EXAMPLE_LINES = [
    shlex.split(line)
    for text in EXAMPLES.values()
    for line in re.sub(r"\\\n| [>|] .*", "", text).splitlines()
    if line.startswith("restyle ")
]


def on_terminal(*arguments: str, columns: int = 80, env: Mapping[str, str] | None = None) -> str:
    """Return what the command shows on a terminal of that width."""
    return terminal.on_terminal([*_RESTYLE, *arguments], columns=columns, env=environment(**(env or {})))


def piped(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_RESTYLE, *arguments], capture_output=True, text=True, env=environment(**(env or {})), timeout=300
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"restyle {command}" in text
    assert len(text.splitlines()) > 4


def test_the_help_lists_every_command_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in [*COMMANDS, "emulator"]:
        assert re.search(rf"^│ {command} +\S", text, re.MULTILINE), command


@pytest.mark.parametrize("line", EXAMPLE_LINES, ids=" ".join)
def test_an_example_in_the_help_is_a_valid_command_line(line: list[str]) -> None:
    assert line[0] == "restyle"
    app.parse_args(line[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", ["image", "batch", "settle"])
def test_the_help_ends_with_examples_to_copy(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "--help"])
    _, _, examples = capsys.readouterr().out.partition("Examples:")
    shown = [line.strip() for line in examples.splitlines()]
    for line in EXAMPLES[command].strip().splitlines():
        expected = f"$ {line}" if line.startswith("restyle") else line.strip()
        assert expected in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("image photo.jpg", "--out is missing: s3://bucket/prefix, a directory, "),
        ("image photo.jpg --out", "--out needs a value: s3://bucket/prefix, a directory, "),
        ("image photo.jpg --ouf here", "--out is missing: s3://bucket/prefix, a directory, "),
        ("image --out here", "SOURCE is missing: https URL, s3://bucket/key, or the path of a picture. See "),
        ("show --out here", "JOB is missing: Its key or the first 8 characters of it, "),
        ("list one --out here", "one: 1 argument too many: put a name with blanks in quotes, and a pattern"),
        ("batch a.jpg b.jpg c.jpg --out here", "b.jpg c.jpg: 2 arguments too many: "),
        ("batch m.csv --out here --max-failed", "--max-failed needs a value: Share of the rows that "),
    ],
)
def test_an_argument_that_is_missing_or_too_many_is_reported_with_what_to_do(
    arguments: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {expected}")
    assert error.count("\n") == 1
    assert ("Did you mean --out instead of --ouf?" in error) == ("--ouf" in arguments)


@pytest.mark.parametrize("columns", [50, 140])
def test_the_help_is_as_wide_as_the_terminal(columns: int) -> None:
    lines = plain(on_terminal("costs", "--help", columns=columns)).splitlines()
    assert max(map(len, lines)) == columns


def test_the_help_has_colours_on_a_terminal_unless_they_are_unwanted_and_never_in_a_pipe() -> None:
    assert _COLOUR.search(on_terminal("settle", "--help"))
    assert not _COLOUR.search(on_terminal("settle", "--help", env={"NO_COLOR": "1"}))
    assert "\x1b" not in piped("settle", "--help").stdout


def test_an_error_is_plain_text_anywhere() -> None:
    wrong = ("settle", "--out", "out", "--no-such-option")
    shown = on_terminal(*wrong)
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    ended = piped(*wrong)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", shown)


async def test_results_fit_the_terminal_with_colours_unless_they_are_unwanted_and_never_in_a_pipe(
    tmp_path: Path,
) -> None:
    await put(directory_store(tmp_path), side_car("p"))
    command = ("list", "--out", str(tmp_path))
    shown = on_terminal(*command)
    assert _COLOUR.search(shown)
    assert max(map(len, plain(shown).splitlines())) <= 80
    assert not _COLOUR.search(on_terminal(*command, env={"NO_COLOR": "1"}))
    ended = piped(*command)
    assert "coffee.jpg" in ended.stdout
    assert "\x1b" not in ended.stdout + ended.stderr


@pytest.mark.e2e
def test_on_a_terminal_the_start_of_a_temporary_prefect_server_is_announced_once(
    emulator: Emulator, tmp_path: Path
) -> None:
    env = {
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(tmp_path / "home"),
        "WAVESPEED_API_KEY": "any",
        "WAVESPEED_BASE_URL": emulator.url,
    }
    announcement = "no PREFECT_API_URL: starting a temporary Prefect server\n"
    out = ("--out", str(tmp_path))
    assert on_terminal("settle", *out, env=env).count(announcement) == 1  # runs a flow
    assert on_terminal("costs", *out, env=env).count(announcement) == 1  # loads a block
    assert announcement not in on_terminal("list", *out, env=env)  # does neither
    ended = piped("settle", *out, env=env)
    assert ended.stdout == "nothing is open\n"
    assert announcement not in ended.stderr
