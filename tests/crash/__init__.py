"""Crash tests: real processes, killed at named points, at random moments, and all at once.

`python -m tests.crash 5000` runs them at length; `test_*.py` runs a few hundred in the suite.
"""
