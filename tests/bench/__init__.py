"""The measured claims of the README, each beside what LangGraph ships.

`python -m tests.bench [NAME …]` runs all of them or the named ones. Numbers of one run compare;
numbers of two runs do not, for the machine is another one each time.
"""
