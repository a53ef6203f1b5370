"""What `restyle` says of itself: help on terminals of any width and colour, its examples, completion."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from deployments._help import EXAMPLES
from deployments.cli import app, main
from tests.batches import restyle_all
from tests.emulator_process import Emulator
from tests.engine import PHOTO

_ROOT = Path(__file__).resolve().parent.parent
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")
COMMANDS = sorted(name for name in app if name != "emulator" and not name.startswith("-"))
"""All but the emulator's own, which is another program's."""
LINES = [
    shlex.split(line)
    for text in EXAMPLES.values()
    for line in re.sub(r"\\\n| > .*", "", text).splitlines()
    if line.startswith("restyle ")
]


def environment(**more: str) -> dict[str, str]:
    told = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**told, "PYTHONPATH": str(_ROOT), "TERM": "xterm-256color", **more}


def on_terminal(*arguments: str, columns: int = 80, env: Mapping[str, str] | None = None) -> str:
    """What a command shows on a terminal that is so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = environment(**(env or {}))
    environ.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environ,
    )
    os.close(theirs)
    shown = _all_of(ours)
    process.wait(60)
    return shown


def _all_of(terminal: int) -> str:
    """What is written to a terminal until its other end is closed."""
    shown = b""
    with suppress(OSError):  # which is how that is told
        while more := os.read(terminal, 65536):
            shown += more
    os.close(terminal)
    return shown.decode().replace("\r\n", "\n")


def piped(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)


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


@pytest.mark.parametrize("columns", [50, 80, 140])
def test_help_is_as_wide_as_the_terminal_and_no_wider(columns: int) -> None:
    lines = _ESCAPE.sub("", on_terminal("costs", "--help", columns=columns)).splitlines()
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


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("restyle ba", ["batch"]),
        ("restyle se", ["settle", "setup"]),
        ("restyle batch --max", ["--max-cost-usd", "--max-failed"]),
        ("restyle setup --tier si", ["silver"]),
    ],
)
def test_bash_completes_commands_options_and_choices(
    typed: str, completed: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "restyle.bash"
    script.write_text(piped("completion", "bash").stdout)
    words = typed.split()
    asked = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; COMP_LINE='{typed}'; "
        f"COMP_POINT={len(typed)}; _restyle restyle {words[-1]} {words[-2]}; "
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    told = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    assert sorted(told.stdout.split()) == completed


def test_tab_completes_a_command_in_an_interactive_bash(tmp_path: Path) -> None:
    script = tmp_path / "restyle.bash"
    script.write_text(piped("completion", "bash").stdout)
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=environment(PS1="$ "),
        cwd=tmp_path,
    )
    os.close(theirs)
    typed = f"source {script}; restyle() {{ echo got:$*.; }}\nrestyle ba\t--dry\t\nexit\n"
    os.write(ours, typed.encode())
    shown = _all_of(ours)
    shell.wait(60)
    assert "got:batch --dry-run." in shown


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_script(shell: str) -> None:
    ended = piped("completion", shell)
    assert ended.returncode == 0
    assert "batch" in ended.stdout


async def test_what_a_command_found_is_as_wide_as_the_terminal_and_coloured_only_where_it_may_be(
    emulator: Emulator, tmp_path: Path
) -> None:
    images = [str(photo) for photo in PHOTO.parent.glob("*.jpg")]
    await restyle_all(emulator.url, str(tmp_path), images)
    listed = on_terminal("list", "--out", str(tmp_path), columns=100, env={"NO_COLOR": "1"})
    assert max(map(len, _ESCAPE.sub("", listed).splitlines())) <= 100
    for asked in (["list"], ["show", PHOTO.name]):
        command = [*asked, "--out", str(tmp_path)]
        shown = on_terminal(*command, columns=100, env={"NO_COLOR": "1"})
        assert PHOTO.name in shown
        assert not _COLOUR.search(shown)
        told = piped(*command)
        assert PHOTO.name in told.stdout
        assert "\x1b" not in told.stdout + told.stderr
    assert _COLOUR.search(on_terminal("list", "--out", str(tmp_path)))
