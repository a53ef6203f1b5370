"""Restyle images with WaveSpeedAI's FLUX.1 Redux [dev], each billed once. Plain Python, without Prefect.

``restyle.steps`` is where to begin: ``make_job``, the three ``Steps``, and ``carry_through``.
"""
