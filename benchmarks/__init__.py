"""Benchmarks: server subjects side by side, in interleaved rounds, on loopback.

`python -m benchmarks` says what there is. Subjects are servers in processes of
their own; one cheap client process loads them; CPU and memory are read from the
operating system's accounts, so that every subject is measured in the same way.
"""
