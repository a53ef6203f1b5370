"""What the documentation promises of itself. That its commands work is shown by tests/e2e/test_docs.py."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml  # type: ignore[import-untyped]  # Prefect's own
from prefect import Flow, Task

import prefect_wavespeed.flows
import prefect_wavespeed.tasks
from prefect_wavespeed.api.predictions import Prediction
from prefect_wavespeed.batch.created_object import ObjectCreated
from prefect_wavespeed.deployments.receiver.events import object_created, prediction_ended
from tests.support.doc_pages import (
    DEPLOYED,
    PAGES,
    PREFECT_MENU,
    ROOT,
    RUN,
    Block,
    blocks,
    documented_events,
    make_targets,
)

# Commands on pages that no test runs: why, and how it begins. Everything else is run.
NOT_RUN = {
    "docs/containers.md": [
        ("needs Docker", "docker build"),
        ("needs Docker", "docker run"),
        ("needs Docker", "prefect worker start --pool restyle-docker"),
        ("needs a Kubernetes cluster", "prefect worker start --pool restyle-k8s"),
        ("needs an ECS cluster", "prefect worker start --pool restyle-ecs"),
    ],
    "docs/install.md": [("takes minutes", "pip install")],
    "docs/performance.md": [("takes minutes", "make bench")],
    "docs/troubleshooting.md": [("needs a job in doubt", "restyle resolve")],
    "docs/objects.md": [("needs a MinIO server and its command", "mc admin config set")],
}
COMMANDS = re.compile(r"^(\$|restyle|prefect|make|pip|python -m|aws|mc|docker|kubectl|helm) \S", re.MULTILINE)
SHOWN = ("", "text", "json", "yaml", "ini", "promql", "python", *RUN)  # what a block may be

BLOCKS = [block for page in PAGES for block in blocks(page)]


def _named(block: Block) -> str:
    return f"{block.page}:{block.line}"


def test_the_navigation_names_every_page_or_leaves_it_out_on_purpose() -> None:
    pages = set(re.findall(r"\w[\w/-]*\.md", (ROOT / "mkdocs.yml").read_text()))
    docs = ROOT / "docs"
    assert pages == {str(page.relative_to(docs)) for page in docs.rglob("*.md")}


@pytest.mark.parametrize("block", BLOCKS, ids=_named)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language in SHOWN
    if block.language in ("", "text"):
        assert not COMMANDS.search(block.text), "what is typed is bash"
    if block.language == "json":
        json.loads(block.text)
    if block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    if block.language == "bash":
        assert "$ " not in {line[:2] for line in block.commands}, "a prompt would be pasted"


def test_only_what_cannot_be_run_here_is_not_run() -> None:
    marked: dict[str, list[tuple[str, str]]] = {}
    for block in BLOCKS:
        if block.not_run is not None:
            assert block.language in RUN, "what is shown needs no mark"
            begins = next(begins for _, begins in NOT_RUN[block.page] if block.commands[0].startswith(begins))
            marked.setdefault(block.page, []).append((block.not_run, begins))
    assert marked == NOT_RUN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_to_be_typed_stands_in_a_fence(page: Path) -> None:
    fenced = {
        line for block in blocks(page) for line in range(block.line, block.line + block.text.count("\n") + 3)
    }
    for number, line in enumerate(page.read_text().splitlines(), 1):
        typed = re.match(rf"(?:    |\t)\s*{COMMANDS.pattern[1:]}", line)
        assert number in fenced or not typed, f"{page}:{number}: {line}"


@pytest.mark.parametrize("page", DEPLOYED, ids=lambda page: page.name)
def test_a_page_that_relies_on_what_deploying_sets_up_says_so_before_its_first_command(page: Path) -> None:
    first = next(block for block in blocks(page) if block.runs)
    assert "(deploying.md" in "\n".join(page.read_text().splitlines()[: first.line])


def test_a_page_of_prefects_ui_is_one_of_its_menu() -> None:
    named = {name for page in PAGES for name in re.findall(r"\bpages?\s+\*(\w[\w ]*)\*", page.read_text())}
    assert {"Runs", "Blocks", "Event Feed"} <= named <= set(PREFECT_MENU)


def test_what_the_pages_leave_in_the_clone_is_ignored_by_git(tmp_path: Path) -> None:
    elsewhere = {block.page for block in BLOCKS if re.search(r"(?m)(^|&& )cd ", block.text)}
    in_clone = [block for block in BLOCKS if block.runs and block.page not in elsewhere]
    left = {block.title for block in in_clone if block.title}
    for block in in_clone:
        left.update(re.findall(r"(?:--out |(?<!-)> )([\w-][\w.-]*)(?![\w.-]*[:/])", block.text))
    assert {"pictures", "catalogue.jsonl", "prefect.log"} <= left
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / "pictures").mkdir()  # a rule for folders does not match what does not exist
    asked = ["git", "check-ignore", "--no-index", *left]
    ignored = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True).stdout
    assert left - set(ignored.splitlines()) == set()


def test_what_is_to_be_made_is_made_by_ci() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for page in PAGES:
        for target in make_targets(page):
            assert f"make {target}\n" in ci


def test_the_reference_names_all_commands_and_settings() -> None:
    from prefect_wavespeed.deployments.cli.app import app

    made = runpy.run_path(str(ROOT / "docs" / "_reference.py"))["MADE"]
    page = made["command"]()
    commands = [name for name in app if not name.startswith("-")]
    assert commands
    for name in commands:
        assert f"## restyle {name}\n" in page
    assert "RESTYLE_LEASE_SECONDS" in made["settings"]()
    assert "webhook_url" in made["wavespeed"]()


@pytest.mark.parametrize(
    "package", [prefect_wavespeed.flows, prefect_wavespeed.tasks], ids=lambda package: package.__name__
)
def test_the_reference_has_all_flows_and_tasks(package: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / f"{package.__name__.rpartition('.')[2]}.md").read_text()
    listed = re.findall(rf"^::: {package.__name__}\.(\w+)\.\1$", page, re.MULTILINE)
    public = {name for name in package.__all__ if isinstance(getattr(package, name), Flow | Task)}
    of_async_code = {f"a{name}" for name in listed}  # the same
    assert set(listed) == public - of_async_code - {"restyle_chunk"}  # works inside restyle_batch only


def test_the_reference_has_all_names_of_the_face() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    listed = re.findall(r"`(\w+)`", "".join(line for line in page.splitlines() if line.startswith("| `")))
    assert sorted(listed) == sorted(prefect_wavespeed.__all__)


def test_the_receivers_events_are_documented() -> None:
    prediction = Prediction.model_validate({"id": "p", "model": "m", "status": "completed"})
    for event in (
        object_created(ObjectCreated(bucket="b", key="k")),
        prediction_ended(prediction, "whsec_secret", waited=True),
    ):
        assert documented_events()[event.event] == set(event.payload)
