"""Prefect blocks: what a run is given to work with."""

from blocks.wavespeed import WaveSpeed

__all__ = ["WaveSpeed"]
