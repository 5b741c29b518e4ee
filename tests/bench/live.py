"""What showing a run under its cell costs the run, in a real kernel."""

from __future__ import annotations

import json
import statistics
from functools import partial
from itertools import count

from .kernels import kernel
from .measure import Bench, Cost, quartiles, sandbox

BAR = 1.05
ROUNDS = 15
_SETUP = """
import gc, json, operator, time
from typing import Annotated, TypedDict
from langgraph.graph import END, START, StateGraph
import notebook_agents as na

class State(TypedDict):
    n: int
    log: Annotated[list, operator.add]

@na.step
def note(what, more):
    return what.upper()

def work(state):
    said = note(f"step {state['n']}", more={"n": state["n"]})
    return {"n": state["n"] + 1, "log": [said]}

builder = StateGraph(State)
builder.add_node("work", work)
builder.add_edge(START, "work")
builder.add_conditional_edges("work", lambda s: "work" if s["n"] < LAPS else END, ["work", END])
agent = na.Agent(builder, name="bench")

def once(thread, show):
    agent.show = show
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    agent.run({"n": 0, "log": []}, thread=thread, config={"recursion_limit": LAPS + 1})
    return time.perf_counter() - wall, time.process_time() - cpu
"""


def run(bench: Bench) -> None:
    """Compare runs that are shown with runs that are not, and judge the ratio."""
    steps = bench.size(1_000, 4)
    threads = count()
    with sandbox() as home, kernel(home) as ask:
        ask(f"LAPS = {steps // 2}" + _SETUP, cell=True)

        def once(*, show: bool) -> Cost:
            said = ask(f"print(json.dumps(once('t{next(threads)}', {show})))", cell=True)
            return Cost(*json.loads(said.splitlines()[-1]))

        work = f"a run of {steps} steps in a kernel, half of them @step calls"
        arms = {"not shown": partial(once, show=False), "shown": partial(once, show=True)}
        costs = bench.compare("live", work, arms, rounds=ROUNDS, unit="ms a step", per=steps)
    pairs = zip(costs["not shown"], costs["shown"], strict=True)
    ratios = [shown.wall / without.wall for without, shown in pairs]
    bench.judge(
        f"{work}: shown ÷ not shown", statistics.median(ratios), BAR, spread=quartiles(ratios)
    )
