"""Graph state and objects come back together, wherever a process was killed between two steps.

One program forks a process for each place to be killed at; a fresh one, in whose `__main__` none of
the graph's code was run, looks at what is there, resumes each thread and looks again.
"""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.crash

CELLS = """
import operator, os, signal, sys
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
import notebook_agents as na
from notebook_agents import faults
from notebook_agents.faults import Fault

class Entry:
    def __init__(self, name): self.name = name
class State(TypedDict):
    done: Annotated[list[str], operator.add]
@na.step
def note(name):
    na.objects()[name[0]].append(Entry(name))
    return name
def node(name):
    def work(state):
        objects = na.objects()
        objects[name].append(Entry(name + "1"))
        note(name + "2")
        objects[name].append(Entry(name + "3"))
        return {"done": [name + "1", name + "2", name + "3"]}
    return work
graph = StateGraph(State)
for name in "abpqc":
    graph.add_node(name, node(name))
graph.add_edge(START, "a")
graph.add_edge("a", "b")
graph.add_edge("b", "p")
graph.add_edge("b", "q")
graph.add_edge(["p", "q"], "c")
graph.add_edge("c", END)

PLACES = [(fault, hit) for fault in (
    Fault.INTENT_AFTER, Fault.RESULT_BEFORE, Fault.COMMIT_BEFORE, Fault.COMMIT_AFTER,
    Fault.RESULT_AFTER, Fault.CHECKPOINT_AFTER) for hit in (2, 5, 8)]

def killed_at(fault, hit):
    left = hit
    def arrive(at):
        nonlocal left
        left -= at is fault
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    with na.Journal.open("journal") as journal:
        thread = f"{fault}-{hit}"
        agent = na.Agent(graph, "writer", journal)
        objects = agent.thread(thread, new=True).objects
        for name in "abpqc":
            objects[name] = []
        faults.arm(arrive)
        agent.run({"done": []}, thread=thread)

deaths = 0
for fault, hit in PLACES:
    pid = os.fork()
    if not pid:
        try:
            killed_at(fault, hit)
        finally:
            sys.stderr.flush()
            os._exit(0)
    deaths += os.waitpid(pid, 0)[1] == signal.SIGKILL
print(deaths, len(PLACES))
"""

LATER = """
import json
import notebook_agents as na
from notebook_agents.graph.objects import Objects
from notebook_agents.model import Outcome
from notebook_agents.runtime.view import run_view

def kept(thread):
    objects = Objects(journal, thread)
    return {name: [entry.name for entry in objects[name]] for name in objects}

journal = na.Journal.open("journal")
wrong = []
for info in journal.threads():
    thread = info.thread
    if info.run:
        steps = run_view(journal, thread, info.run).steps
        returned = {s.name for s in steps if s.parent is None and s.outcome is Outcome.RETURNED}
        expected = {n: [n + "1", n + "2", n + "3"] if n in returned else [] for n in "abpqc"}
        if kept(thread) != expected:
            wrong.append(["before", thread, sorted(returned), kept(thread)])
        run = na.resume(thread, journal=journal)
        everything = {name: [name + "1", name + "2", name + "3"] for name in "abpqc"}
        after = {n: [d for d in run.value["done"] if d[0] == n] for n in "abpqc"}
        if not kept(thread) == everything == after:
            wrong.append(["after", thread, kept(thread), run.value])
print(json.dumps(wrong))
"""


def test_state_and_objects_come_back_together(python):
    """What is there is what the steps left that returned, before a resume and after it."""
    began = python(CELLS)
    assert began.code == 0, began.err
    deaths, places = map(int, began.out.split())
    assert deaths > places // 2, began.err
    later = python(LATER)
    assert later.code == 0, later.err
    assert json.loads(later.out.splitlines()[-1]) == []
