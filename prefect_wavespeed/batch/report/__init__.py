"""The report of a batch: its rows and figures, and the files they are written to."""
