"""The public face: ``from prefect_wavespeed import …``, and what a bare import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import prefect_wavespeed
from tests.support.emulator_process import Emulator
from tests.support.engine import PHOTO, QUICK, SMALL

HEAVY = ("prefect", "boto3", "obstore", "httpx", "aiohttp", "PIL", "pydantic", "pyarrow")


def _imports_for_type_checkers() -> dict[str, str]:
    """Name to module, as the block under ``TYPE_CHECKING`` spells them."""
    tree = ast.parse(Path(prefect_wavespeed.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: f"{node.module}" for node in imports for alias in node.names}


def test_type_checkers_and_dir_see_the_names_of_all() -> None:
    assert sorted(_imports_for_type_checkers()) == sorted(prefect_wavespeed.__all__)
    assert set(prefect_wavespeed.__all__) <= set(dir(prefect_wavespeed))


@pytest.mark.parametrize("name", prefect_wavespeed.__all__)
def test_a_name_is_what_type_checkers_take_it_for(name: str) -> None:
    module = _imports_for_type_checkers()[name]
    assert getattr(prefect_wavespeed, name) is getattr(import_module(module), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'restyle_video'"):
        getattr(prefect_wavespeed, "restyle_video")  # noqa: B009  # the type checker knows it, too
    assert not hasattr(prefect_wavespeed, "restyle_video")


def test_a_bare_import_loads_nothing_heavy() -> None:
    script = f"import sys, prefect_wavespeed; print([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_the_engine_needs_no_prefect() -> None:
    script = "import sys; from prefect_wavespeed import Engine, open_store; print('prefect' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_a_flow_is_made_when_it_is_used_and_goes_by_the_name_of_its_module() -> None:
    script = (
        "import sys; from prefect_wavespeed.flows.restyle_batch import CHUNKS;"
        "from prefect_wavespeed.flows import arestyle_batch, restyle_batch; from prefect import Flow;"
        "assert isinstance(restyle_batch, Flow) and isinstance(arestyle_batch, Flow);"
        "print([name for name in ('restyle_image', 'restyle_object', 'settle')"
        " if f'prefect_wavespeed.flows.{name}' in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


async def test_the_engine_restyles_an_image_once(emulator: Emulator, tmp_path: Path) -> None:
    from prefect_wavespeed import Engine, WaveSpeedClient, open_store

    async with WaveSpeedClient("test-key", emulator.url, submit_timeout=1) as client:
        engine = Engine(client, open_store(str(tmp_path)), QUICK)
        restyled = await engine.restyle(str(PHOTO), SMALL)
        again = await engine.restyle(str(PHOTO), SMALL)
    assert not restyled.cached
    assert again.cached
    assert again.outputs == restyled.outputs
    assert emulator.ledger()["calls"]["submit"] == 1


def test_python_dash_m_is_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "prefect_wavespeed", "--help"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("Usage: restyle ")
