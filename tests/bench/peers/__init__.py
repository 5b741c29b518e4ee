"""Systems that need a server or versions of their own: measured by hand, kept in a file.

`python -m tests.bench.peers NAME` makes a virtual environment in a temporary directory, measures
there, and puts the numbers into `docs/peers.json`, of which `docs/benchmarks.md` is made.
"""
