"""Many jobs, one budget, one report."""
