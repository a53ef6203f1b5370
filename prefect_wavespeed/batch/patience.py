"""How long a batch keeps trying: about a minute, because a server may restart meanwhile."""

from __future__ import annotations

from functools import partial

from prefect_wavespeed.retry import retrying

patiently = partial(retrying, tries=6, first=2, most=20)
"""A step that is tried again after an error that may pass."""
