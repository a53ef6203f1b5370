"""Prefect blocks: what a run is given to work with."""

from prefect_wavespeed.blocks.wavespeed import WaveSpeed

__all__ = ["WaveSpeed"]
