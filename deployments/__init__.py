"""How it runs: the command, the demo, set-up."""
