"""Restyle images with WaveSpeedAI's FLUX.1 Redux [dev], each billed once. Plain Python, without Prefect.

``prefect_wavespeed.steps.step_set`` is where to begin: ``make_job``, the three ``StepSet``, and ``run_job``.
"""
