"""What help says beyond the options: how commands are grouped, and examples to copy."""

from __future__ import annotations

import re
from typing import Literal

from cyclopts import App, CycloptsError, Group, MissingArgumentError

RESTYLE = Group.create_ordered("Restyle")
SET_UP = Group.create_ordered("Set up and check")
SERVE = Group.create_ordered("Serve")
ABOUT = Group.create_ordered("Help")

EXAMPLES = {
    "image": """
# One photograph, into a folder
restyle image photo.jpg --out ./restyled
# Four pictures of an object in S3, for 20 cents at the most
restyle image s3://bucket/in/1.jpg --out s3://bucket/restyled \\
    --num-images 4 --max-cost-usd 0.2
# Another picture of the same source, for a script
restyle image photo.jpg --out ./restyled --variant 1 --json
""",
    "batch": """
# What it would cost; spends nothing
restyle batch catalogue.jsonl --out s3://bucket/restyled --dry-run
# All of it, for 50 USD at the most, 100 at a time
restyle batch catalogue.jsonl --out s3://bucket/restyled \\
    --max-cost-usd 50 --concurrency 100
# Every image below a prefix; one in twenty may fail
restyle batch s3://bucket/in/ --out s3://bucket/restyled --max-failed 0.05
# Submit and go; store the pictures later
restyle batch catalogue.jsonl --out s3://bucket/restyled --no-wait
restyle settle --out s3://bucket/restyled
""",
    "settle": """
# After a crash, or after `restyle batch --no-wait`
restyle settle --out s3://bucket/restyled
# What still needs a look, for a script
restyle settle --out s3://bucket/restyled --json
""",
    "costs": """
# This week, against what WaveSpeedAI billed
restyle costs --out s3://bucket/restyled --since 7d
""",
    "setup": """
# Key from WAVESPEED_API_KEY, pictures to S3, limits of the account's level
restyle setup --out s3://bucket/restyled --tier silver
# New objects are restyled as they come
restyle setup --out s3://bucket/restyled --watch s3://bucket/in/
""",
    "init": """
# In the folder you are in, or in a new one
restyle init
restyle init our-pictures
""",
    "completion": """
# bash: in this shell; in every new one, if it has bash-completion
source <(restyle completion bash)
mkdir -p ~/.local/share/bash-completion/completions
restyle completion bash > ~/.local/share/bash-completion/completions/restyle
# zsh: in this shell; in every new one, if ~/.zshrc says
# fpath=(~/.zfunc $fpath) before it calls compinit
source <(restyle completion zsh)
mkdir -p ~/.zfunc
restyle completion zsh > ~/.zfunc/_restyle
# fish: in this shell; in every new one
restyle completion fish | source
mkdir -p ~/.config/fish/completions
restyle completion fish > ~/.config/fish/completions/restyle.fish
""",
}
"""What to copy, by command."""


def examples(command: str) -> str:
    """The examples of a command, as Markdown for the end of its help."""
    lines = EXAMPLES[command].strip().split("\n")
    shown = [line if line.startswith(("#", " ")) else f"$ {line}" for line in lines]
    return "\n".join(["Examples:", "```console", *shown, "```"])


def mistake(problem: CycloptsError, command: App) -> str:
    """What is wrong with a command line; of what is missing also what it is."""
    said, argument = str(problem), problem.argument
    if isinstance(problem, MissingArgumentError) and argument:
        described = command.assemble_argument_collection(parse_docstring=True)
        help_of = {one.name: one.parameter.help for one in described}
        missing = "needs a value" if problem.keyword else "is missing"
        _, near, name = said.partition(" Did you mean ")
        said = f"{argument.name} {missing}: {help_of[argument.name]}{near}{name}"
    return " ".join(said.split())


def completion(app: App, shell: Literal["bash", "zsh", "fish"]) -> str:
    """The script by which a shell completes the command.

    Where it knows nothing better it offers names of files, as sources and manifests are.
    """
    script = app.generate_completion(shell=shell)
    if shell == "bash":
        return script.replace("complete -F", "complete -o default -F")
    if shell == "zsh":
        return _ZSH_VALUE.sub(r"\1:_files\2", script.replace("_cyclopts_restyle", "_restyle")) + _ZSH_BEGIN
    return script  # fish does so by itself


_ZSH_VALUE = re.compile(r"^( +'(?:\d+:(?! )|\*--).*)(' \\)$", re.MULTILINE)
"""What `_arguments` is told of an argument, or of an option's value, that is none of some choices."""

_ZSH_BEGIN = """\
# found in $fpath by its name, and called; or sourced
if [[ $funcstack[1] == _restyle ]]; then _restyle "$@"; else compdef _restyle restyle; fi
"""
