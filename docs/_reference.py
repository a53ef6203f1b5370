"""MkDocs hook: the parts of the reference that are made from the code: command, settings, blocks, files.

A line ``{{ name }}`` of a page is replaced by what `MADE` has for that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_DOCS = Path(__file__).parent
_LINE = re.compile(r"^\{\{ ([\w-]+) \}\}$", re.MULTILINE)
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Replace such lines; MkDocs calls this for every page."""

    def made(line: re.Match[str]) -> str:
        if line[1] not in MADE:
            raise PluginError(f"{page.file.src_uri}: nothing makes {line[0]}: name one of {', '.join(MADE)}")
        return MADE[line[1]]()

    return _LINE.sub(made, markdown)


def _command() -> str:
    from prefect_wavespeed.deployments.cli.app import app

    text: str = app.generate_docs(output_format="markdown")
    commands = text[text.index("\n## restyle ") :]  # the page has a title and a table of contents of its own
    commands = commands.replace(" *[default: False]*", "")  # of a flag
    # to be pasted, so without the prompt
    commands = re.sub(r"^\$ ", "", commands.replace("```console", "```bash"), flags=re.MULTILINE)
    return commands.replace("[default: 1024*1024]", r"[default: 1024\*1024]")


def _emulator() -> str:
    from prefect_wavespeed.emulator.cli import make_parser

    return f"```text\n{make_parser('restyle emulator').format_help()}```"


def _settings() -> str:
    from prefect_wavespeed.settings import Settings

    return _table(Settings.model_json_schema(), named=lambda name: f"RESTYLE_{name.upper()}")


def _wavespeed() -> str:
    from prefect_wavespeed.blocks import WaveSpeed

    return _table(WaveSpeed.model_json_schema())


def _params() -> str:
    from prefect_wavespeed.api.models import ReduxParams

    return _table(ReduxParams.model_json_schema())


def _batch_options() -> str:
    from prefect_wavespeed.batch.options import BatchOptions

    return _table(BatchOptions.model_json_schema())


def _file(name: str) -> str:
    schema = json.loads((_DOCS / f"{name}.schema.json").read_text())
    parts = [_description(schema), _table(schema, home=name)]
    for part, about in schema.get("$defs", {}).items():
        parts += [f"### {part} {{ #{name}-{part.lower()} }}", _description(about), _table(about, home=name)]
    return "\n\n".join(parts)


def _policy() -> str:
    return f"```json\n{(_DOCS / 'iam-policy.json').read_text()}```"


def _description(schema: dict[str, Any]) -> str:
    return str(schema.get("description", "")).partition("\n\n")[0]


def _table(schema: dict[str, Any], named: Callable[[str], str] = str, home: str = "") -> str:
    """The fields of a JSON Schema's object; ``home`` begins the anchors of its parts, if it has any."""
    rows = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for name, about in schema["properties"].items():
        default = f"`{json.dumps(about['default'])}`" if about.get("default") is not None else ""
        what = " ".join(str(about.get("description", "")).split())
        rows.append(f"| `{named(name)}` | {_type(about, home)} | {default} | {what} |")
    return "\n".join(rows)


def _type(about: dict[str, Any], home: str) -> str:
    """A schema's type in a few words."""
    if part := str(about.get("$ref", "")).rpartition("/")[2]:
        return f"[{part}](#{home}-{part.lower()})" if home else part
    if "const" in about:
        return f"`{json.dumps(about['const'])}`"
    if "enum" in about:
        return " or ".join(f"`{json.dumps(value)}`" for value in about["enum"])
    if kinds := about.get("anyOf") or about.get("allOf"):
        return " or ".join(dict.fromkeys(_type(kind, home) for kind in kinds))
    if about.get("type") == "array" and about.get("items"):
        return f"array of {_type(about['items'], home)}"
    return " ".join([str(about.get("format") or about.get("type") or "any"), *_limits(about)])


def _limits(about: dict[str, Any]) -> Iterator[str]:
    for key, sign in _SIGNS.items():
        if key in about:
            yield f"{sign} {about[key]}"


MADE: dict[str, Callable[[], str]] = {
    "command": _command,
    "emulator": _emulator,
    "settings": _settings,
    "wavespeed": _wavespeed,
    "params": _params,
    "batch-options": _batch_options,
    "metadata": lambda: _file("metadata"),
    "report": lambda: _file("report"),
    "summary": lambda: _file("summary"),
    "dead-letter": lambda: _file("dead-letter"),
    "policy": _policy,
}
