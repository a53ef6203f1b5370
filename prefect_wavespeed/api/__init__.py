"""WaveSpeedAI over HTTP."""
