"""The engine: one image, restyled, billed once and stored. Plain Python, no Prefect in it."""
