"""Completion by the Tab key in real shells, with the scripts of `restyle completion`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_wavespeed.deployments.cli.shared.examples import EXAMPLES
from tests.support.terminal import environment, on_terminal

e2e = pytest.mark.e2e  # bash is everywhere; zsh and fish are Debian packages
SHELLS = ["bash", pytest.param("zsh", marks=e2e), pytest.param("fish", marks=e2e)]

_STARTUP_FILES = {"bash": ".bashrc", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}
_USUAL_STARTUP = {
    "bash": ". /usr/share/bash-completion/bash_completion",
    "zsh": "fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit",
    "fish": "",
}
"""What users have in their startup file, to which the help refers."""

_INSERT_ALL = {  # makes Tab write all candidates into the line
    "bash": r"""bind '"\t": insert-completions'; restyle() { echo "got:$*"; }""",
    "zsh": "zstyle ':completion:*' completer _all_matches _complete; zstyle ':completion:*' insert true\n"
    'restyle() { echo "got:$*" }',
}


class Shell:
    """A shell in a home directory with a photograph and a manifest."""

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
        """Run commands, and return what they print."""
        command = [self.name, "-c", "\n".join(lines)]
        ended = subprocess.run(
            command, cwd=self._home, env=self._env, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout

    def completions(self, startup: list[str], *lines: str) -> list[list[str]]:
        """Return the candidates for each line, in a shell with this startup file."""
        file = self._home / _STARTUP_FILES[self.name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*startup, _INSERT_ALL.get(self.name, ""), ""]))
        if self.name == "fish":
            outputs = [self.run(f"complete -C '{line}'") for line in lines]
            return [sorted(line.partition("\t")[0] for line in output.splitlines()) for output in outputs]
        keys = "".join(f"{line}\t\n" for line in lines) + "exit\n"
        shown = on_terminal([self.name, "-i"], typed=keys, columns=200, env=self._env, cwd=self._home)
        got = [line.split() for line in re.findall(r"got:(.*)$", shown, re.MULTILINE)]
        assert len(got) == len(lines), shown
        return [sorted(words[len(line.split()) - 2 :]) for words, line in zip(got, lines, strict=True)]


def examples(shell: str) -> list[str]:
    """Return the commands of the help for a shell: the first is for this shell, the others install it."""
    _, _, of_shell = EXAMPLES["completion"].partition(f"# {shell}: ")
    lines = re.split(r"\n(?=# \w+: )", of_shell)[0].splitlines()[1:]
    return [line for line in lines if not line.startswith("#")]


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    return Shell(request.param, tmp_path)


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_tab_completes_commands_options_choices_and_file_names(shell: Shell) -> None:
    expected = {
        "restyle bat": ["batch"],
        "restyle se": ["settle", "setup"],
        "restyle batch --max": ["--max-cost-usd", "--max-failed"],
        "restyle setup --tier si": ["silver"],
        "restyle image ph": ["photo.jpg"],
        "restyle batch --out restyled cat": ["catalogue.jsonl"],
    }
    for_this_shell, *_ = examples(shell.name)
    startup = ["autoload -Uz compinit; compinit"] if shell.name == "zsh" else []
    found = shell.completions([*startup, for_this_shell], *expected)
    assert dict(zip(expected, found, strict=True)) == expected


@e2e
@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_an_installed_script_completes_in_every_new_shell(shell: Shell) -> None:
    _, *install = examples(shell.name)
    shell.run(*install)
    # twice: the first Tab loads the script
    found = shell.completions([_USUAL_STARTUP[shell.name]], "restyle bat", "restyle bat")
    assert found == [["batch"]] * 2
