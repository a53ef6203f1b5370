"""Telling an output that is new from one whose disk is not mounted.

Both are an empty directory, but what the second one held would be billed again. So a directory has a marker,
and a Prefect variable tells that it was used: workers may be containers, and keep nothing themselves.
"""

from __future__ import annotations

import asyncio
import shlex
from contextlib import suppress
from hashlib import sha256

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists

from prefect_wavespeed.blocks.names import TAG, used_output
from prefect_wavespeed.errors import OutputMissingError
from prefect_wavespeed.storage import layout
from prefect_wavespeed.storage.store import Store


class UsedOutput:
    """Refuses an output that runs have used and whose marker is missing.

    Args:
        store: the output. Only directories have a marker: a bucket that is missing is an error by itself.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._variable = used_output(sha256(store.uri.encode()).hexdigest()[:16])
        self._is_remembered = False
        self._remembering = asyncio.Lock()

    async def check(self) -> None:
        """Refuse it before anything is looked up in it.

        Raises:
            OutputMissingError: runs have used it, and its marker is missing.
        """
        if await self._store.is_marked():
            return
        async with get_client() as client:
            if await client.read_variable_by_name(self._variable) is None:
                return
        await self._store.discard_if_empty()
        raise self._missing()

    async def use(self) -> None:
        """Mark and remember it, before something is spent on it for the first time.

        Raises:
            OutputMissingError: its marker is missing.
        """
        if not self._is_remembered:
            async with self._remembering:
                if not self._is_remembered:
                    await self._remember()
        if not await self._store.is_marked():
            raise self._missing()

    async def _remember(self) -> None:
        if self._store.is_directory:
            async with get_client() as client:
                if await client.read_variable_by_name(self._variable) is None:
                    await self._store.mark()  # first: another run may see the variable at once
                    await self._create_variable(client)
        self._is_remembered = True

    async def _create_variable(self, client: PrefectClient) -> None:
        variable = VariableCreate(name=self._variable, value=self._store.uri, tags=[TAG])
        with suppress(ObjectAlreadyExists):  # another run was quicker
            await client.create_variable(variable)

    def _missing(self) -> OutputMissingError:
        marker = self._store.uri_of(layout.MARKER)
        return OutputMissingError(
            f"no marker {layout.MARKER} in output {self._store.uri}, which runs have used: its disk may not "
            "be mounted, and every image would be billed again: mount it. If it was emptied on purpose: "
            f"mkdir -p {shlex.quote(self._store.uri)} && touch {shlex.quote(marker)}"
        )
