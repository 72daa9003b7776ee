"""The servers that are measured: each prints its port when it listens, and echoes."""
