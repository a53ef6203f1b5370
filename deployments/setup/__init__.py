"""What deployments need in Prefect: created where it is missing (`set_up`), and looked at (`checks`)."""
