"""The code in README.md and docs/: its blocks, and one script of all that a page tells its reader to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/reference").glob("*.md")),
]
RUN = ("bash", "python")
DEPLOYED = [
    ROOT / "docs/secrets.md",
    ROOT / "docs/objects.md",
    ROOT / "docs/scaling.md",
    ROOT / "docs/prefect-ui.md",
    ROOT / "docs/notifications.md",
    ROOT / "docs/metrics.md",
    ROOT / "docs/containers.md",  # at last: it moves the deployments to other pools
]
"""Pages for readers who have done what docs/deploying.md tells."""

PREFECT_MENU = (
    "Dashboard",
    "Runs",
    "Flows",
    "Deployments",
    "Work Pools",
    "Blocks",
    "Variables",
    "Automations",
    "Event Feed",
    "Concurrency",
)
"""The pages that Prefect's UI has in its menu, as tests/e2e/test_ui.py reads them there."""

# What never ends by itself, and what it says when it is ready: a script lets it run beside the rest.
SERVERS = {
    "restyle receiver": "listening on",
    "restyle emulator": "listening on",
    "restyle gallery": "http://127.0.0.1:",
    "prefect worker start": "started!",
    "python serve.py": "is being served",
}

_FENCE = re.compile(r"^(\s*)```(\w*)(?: title=\"([^\"]+)\")?\s*$")
_NOT_RUN = re.compile(r"^\s*<!-- not run: (.+) -->$")
_MAKE = re.compile(r"^make (\w+)\b.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its page, relative to the repository.
        line: of its fence.
        language: what the fence says; empty where it says nothing.
        title: the file that it is, where it is one.
        text: what stands in it.
        not_run: why it is not run, as ``<!-- not run: … -->`` before it says; None where nothing says so.
        follows: whether nothing stands between the block before it and this one.
    """

    page: str
    line: int
    language: str
    title: str | None
    text: str
    not_run: str | None
    follows: bool

    @property
    def runs(self) -> bool:
        """Whether it is something to type or to save as a file."""
        return self.not_run is None and (self.language in RUN or self.title is not None)

    @property
    def commands(self) -> list[str]:
        """What is typed, line by line."""
        return self.text.splitlines()


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in options."""
    lines = iter(enumerate(page.read_text().splitlines(), 1))
    not_run: str | None = None
    follows = False
    for number, line in lines:
        if mark := _NOT_RUN.match(line):
            not_run = mark[1]
        elif fence := _FENCE.match(line):
            indent, language, title = fence.groups()
            text = []
            for _, inside in lines:
                if inside.strip() == "```":
                    break
                text.append(inside.removeprefix(indent))
            name = str(page.relative_to(ROOT))
            yield Block(name, number, language, title, "\n".join(text), not_run, follows)
            not_run, follows = None, True
        elif line.strip():
            assert "```" not in line or "`` ```" in line, f"{page}:{number}: what fence is this? {line}"
            not_run, follows = None, False


def make_targets(page: Path) -> set[str]:
    """What a page tells its reader to make: `.ci/run` does that, not a test."""
    typed = (line for block in blocks(page) if block.runs for line in block.commands)
    return {make[1] for line in typed if (make := _MAKE.match(line))}


def documented_events() -> dict[str, set[str]]:
    """The events that docs/reference/events.md tells of, and the fields of their payloads."""
    events = {}
    for line in (ROOT / "docs/reference/events.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name := re.fullmatch(r"`((?:wavespeed|restyle)\.[\w.]+)`", cells[0]):
            events[name[1]] = set(re.findall(r"`(\w+)`", cells[-1]))
    return events


def script(page: Path, substitutes: Mapping[str, str]) -> str:
    """A bash script that does what the page says, in options, and stops at the first thing that fails.

    Args:
        page: the page.
        substitutes: texts of the page, and what stands in for them here.
    """
    parts = [_PRELUDE]
    for block in blocks(page):
        if block.runs:
            parts += [f"HERE={block.page}:{block.line}", *_typed(block)]
    text = "\n".join([*parts, "HERE=", ""])
    for original, substitute in substitutes.items():
        text = text.replace(original, substitute)
    return text


def shown(page: Path) -> Iterator[re.Pattern[str]]:
    """What a page shows its commands to say, a line each: any number, any id, anything for an ellipsis."""
    before: Block | None = None
    for block in blocks(page):
        if block.language == "text" and block.follows and before and before.runs:
            for line in filter(str.strip, block.text.splitlines()):
                yield re.compile(_VARIES.sub(_as_pattern, line.strip()))
        before = block


_VARIES = re.compile(
    r"(?P<id>\b[0-9a-f]{8}[0-9a-f-]{8,})|(?P<number>\d[\d,.]*)|(?P<any>…)|(?P<space>\s+)|(?P<same>.)"
)


def _as_pattern(found: re.Match[str]) -> str:
    kinds = {"id": "[0-9a-f-]+", "number": r"[\d,.]+", "any": ".*", "space": r"\s+"}
    return kinds.get(found.lastgroup or "", re.escape(found[0]))


def _typed(block: Block) -> Iterator[str]:
    if block.title:
        yield f"cat > {shlex.quote(block.title)} <<'END_OF_FILE'\n{block.text}\nEND_OF_FILE"
    elif block.language == "python":
        yield f"python - <<'END_OF_FILE'\n{block.text}\nEND_OF_FILE"
    else:
        for line in block.commands:
            server = next((name for name in SERVERS if line.startswith(name)), None)
            if _MAKE.match(line):
                yield f": {line}"
            elif server and "&" not in line:
                yield f"serve {shlex.quote(SERVERS[server])} {line}"
            else:
                yield line
                if server and (log := re.search(r"> (\S+) 2>&1 &$", line)):
                    yield f"ready {shlex.quote(SERVERS[server])} {log[1]}"


_PRELUDE = """\
set -Eemo pipefail
trap 'echo "failed: $HERE" >&2' ERR
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
serve() { # serve READY COMMAND...: until it says that it is ready
  local log=served-$((++served)).log
  "${@:2}" > "$log" 2>&1 &
  ready "$1" "$log"
}
ready() { # ready READY LOG: wait until what was started last says so
  for _ in $(seq 1200); do
    grep -q "$1" "$2" && return
    kill -0 $! || break
    sleep 0.1
  done
  cat "$2" >&2
  return 1
}"""
