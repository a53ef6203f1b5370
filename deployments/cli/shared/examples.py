"""Commands to copy, shown at the end of a command's help. Tests run them."""

from __future__ import annotations

EXAMPLES = {
    "image": """
# One photograph into a folder
restyle image photo.jpg --out ./restyled
# Four pictures of an object in S3, for at most 20 cents
restyle image s3://bucket/in/1.jpg --out s3://bucket/restyled \\
    --num-images 4 --max-cost-usd 0.2
# Another picture of the same source, for a script
restyle image photo.jpg --out ./restyled --variant 1 --json
""",
    "batch": """
# What it would cost; this spends nothing
restyle batch catalogue.jsonl --out s3://bucket/restyled --dry-run
# All of it, for at most 50 USD, 100 at a time
restyle batch catalogue.jsonl --out s3://bucket/restyled \\
    --max-cost-usd 50 --concurrency 100
# Every image below a prefix; one in twenty may fail
restyle batch s3://bucket/in/ --out s3://bucket/restyled --max-failed 0.05
# Submit only; store the pictures later
restyle batch catalogue.jsonl --out s3://bucket/restyled --no-wait
restyle settle --out s3://bucket/restyled
""",
    "backfill": """
# What the first half of a month would cost; this begins nothing
restyle backfill --from 2026-11-01 --to 2026-11-15 --dry-run
# Begin it, for at most 50 USD in all
restyle backfill --from 2026-11-01 --to 2026-11-15 --max-cost-usd 50
# Later, the days that are not whole
restyle backfill --from 2026-11-01 --to 2026-11-15 --missing-only
""",
    "settle": """
# After a crash, or after `restyle batch --no-wait`
restyle settle --out s3://bucket/restyled
# Jobs that need attention, for a script
restyle settle --out s3://bucket/restyled --json
""",
    "resolve": """
# The prediction that WaveSpeed's own list of predictions shows for it
restyle resolve 3f9c2a7b --out s3://bucket/restyled --prediction 8d1f00c2
# There is none: the next run submits the job again
restyle resolve 3f9c2a7b --out s3://bucket/restyled --not-submitted
""",
    "failures": """
# What failed in the last batch, why, and what to do
restyle failures --out s3://bucket/restyled
# The same of another run, for a script
restyle failures --out s3://bucket/restyled --run 7ca2f3ee --json
""",
    "gallery": """
# The last batch; open the address in a browser, Ctrl-C ends it
restyle gallery --out s3://bucket/restyled
# That of another run
restyle gallery --out s3://bucket/restyled --run 7ca2f3ee
""",
    "costs": """
# The last seven days, compared with the billing
restyle costs --out s3://bucket/restyled --since 7d
""",
    "setup": """
# Key from WAVESPEED_API_KEY, pictures in S3, limits for the account's level
restyle setup --out s3://bucket/restyled --tier silver
# Restyle new objects as they arrive
restyle setup --out s3://bucket/restyled --watch s3://bucket/in/
""",
    "doctor": """
# What a run into this output needs
restyle doctor --out ./restyled
# What WaveSpeedAI really does, for at most 10 cents; an hour later, what it billed
restyle doctor --live --spend 0.1 --out ./restyled
restyle doctor --live --resume --out ./restyled
""",
    "init": """
# In the current folder, or in a new one
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


def epilogue(command: str) -> str | None:
    """The examples of a command as Markdown; None for a command without any."""
    if command not in EXAMPLES:
        return None
    lines = EXAMPLES[command].strip().split("\n")
    shown = [line if line.startswith(("#", " ")) else f"$ {line}" for line in lines]
    return "\n".join(["Examples:", "```console", *shown, "```"])
