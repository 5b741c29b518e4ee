"""Damage: real journals, spoilt file by file and page by page, then opened, checked and repaired.

`python -m tests.damage 5000` does it at length; `test_*.py` does a part of it in the suite.
"""
