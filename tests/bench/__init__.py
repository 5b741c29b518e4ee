"""The measured claims, each beside what LangGraph ships.

`python -m tests.bench [NAME …]` runs all of them or the named ones; all of them write
docs/benchmarks.md and docs/profile.md. Numbers of one run compare; numbers of two runs do not, for
the machine is another one each time.

To add a row, give a module `run(bench)`, call `bench.compare` in it, and add its name to `NAMES`
in `__main__`.
"""
