"""Who may submit a job, what came of it, and that it is done."""
