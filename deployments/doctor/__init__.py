"""The checks of `restyle doctor` that need Prefect, and running them together with those of the engine."""
