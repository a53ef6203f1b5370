"""`restyle receiver`: the verifying gate in front of Prefect's event API.

Stores announce new objects, over HTTP or through an SQS queue, and WaveSpeedAI announces predictions that
have ended. What passes verification becomes one Prefect event, whose id derives from its content, and is
acknowledged only once Prefect has accepted it.
"""
