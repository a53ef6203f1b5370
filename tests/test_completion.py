"""What the Tab key completes in real shells, for which `restyle completion` prints scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_wavespeed.deployments.cli.shared.examples import EXAMPLES
from tests.support.terminal import environment, on_terminal

e2e = pytest.mark.e2e  # bash is everywhere; the others are Debian's packages
SHELLS = ["bash", pytest.param("zsh", marks=e2e), pytest.param("fish", marks=e2e)]

_STARTS = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
_BEFORE = {
    "bash": ". /usr/share/bash-completion/bash_completion",
    "zsh": "fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit",
    "fish": "",
}
"""What users have in the file that their shell starts with, and our help refers to."""

_INSERT_ALL = {  # Tab then writes all that fits into the line
    "bash": r"""bind '"\t": insert-completions'; restyle() { echo "got:$*"; }""",
    "zsh": "zstyle ':completion:*' completer _all_matches _complete; zstyle ':completion:*' insert true\n"
    'restyle() { echo "got:$*" }',
}


class Shell:
    """A shell whose user has nothing but a photograph and a manifest."""

    def __init__(self, name: str, home: Path) -> None:
        self.name, self._home = name, home
        self._env = environment(
            HOME=str(home), PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        )
        for name in [name for name in self._env if name.startswith("XDG_")]:
            del self._env[name]
        for file in ("photo.jpg", "catalogue.jsonl"):
            (home / file).touch()

    def run(self, *lines: str) -> str:
        """Run commands."""
        command = [self.name, "-c", "\n".join(lines)]
        ended = subprocess.run(
            command, cwd=self._home, env=self._env, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    def completed(self, start: list[str], *typed: str) -> list[list[str]]:
        """What it offers for each of these lines, after it has started with these."""
        file = self._home / _STARTS[self.name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*start, _INSERT_ALL.get(self.name, ""), ""]))
        if self.name == "fish":
            told = [self.run(f"complete -C '{line}'") for line in typed]
            return [sorted(line.partition("\t")[0] for line in lines.splitlines()) for lines in told]
        keys = "".join(f"{line}\t\n" for line in typed) + "exit\n"
        shown = on_terminal([self.name, "-i"], typed=keys, columns=200, env=self._env, cwd=self._home)
        got = [line.split() for line in re.findall(r"got:(.*)$", shown, re.MULTILINE)]
        assert len(got) == len(typed), shown
        return [sorted(words[len(line.split()) - 2 :]) for words, line in zip(got, typed, strict=True)]


def examples(shell: str) -> list[str]:
    """What the help tells users of a shell to type: a line for this shell, and others for good."""
    _, _, theirs = EXAMPLES["completion"].partition(f"# {shell}: ")
    lines = re.split(r"\n(?=# \w+: )", theirs)[0].splitlines()[1:]
    return [line for line in lines if not line.startswith("#")]


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    return Shell(request.param, tmp_path)


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_tab_completes_commands_options_choices_and_names_of_files(shell: Shell) -> None:
    expected = {
        "restyle ba": ["batch"],
        "restyle se": ["settle", "setup"],
        "restyle batch --max": ["--max-cost-usd", "--max-failed"],
        "restyle setup --tier si": ["silver"],
        "restyle image ph": ["photo.jpg"],
        "restyle batch --out restyled cat": ["catalogue.jsonl"],
    }
    for_this_shell, *_ = examples(shell.name)
    start = ["autoload -Uz compinit; compinit"] if shell.name == "zsh" else []
    told = shell.completed([*start, for_this_shell], *expected)
    assert dict(zip(expected, told, strict=True)) == expected


@e2e
@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_every_new_shell_completes_once_the_script_lies_where_the_help_says(shell: Shell) -> None:
    _, *for_good = examples(shell.name)
    shell.run(*for_good)
    # twice: the first loads it
    assert shell.completed([_BEFORE[shell.name]], "restyle ba", "restyle ba") == [["batch"]] * 2
