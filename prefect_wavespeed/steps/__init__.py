"""The steps of a job: submit, await its prediction, collect its outputs."""
