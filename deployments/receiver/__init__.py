"""`restyle receiver`: the verifying gate in front of Prefect's event API.

Stores tell of new objects, over HTTP or through an SQS queue, and WaveSpeedAI of predictions that ended.
What is believed becomes one Prefect event, under an id derived from what it tells, and is acknowledged only
after Prefect has taken it.
"""
