"""A stand-in for the WaveSpeedAI v3 API, as a process on loopback, for demos, tests and staging.

It shares nothing with the client but the models of a request, so that a mistake in one shows in the other.
"""

from prefect_wavespeed.emulator.cli import main

__all__ = ["main"]
