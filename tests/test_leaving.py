"""Ctrl-C does not wait for worker threads: what they run is recorded and not run again."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from crash.processes import fork
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Send
from support.checks import State, chain
from support.running import Ledger

import notebook_agents as na
from notebook_agents.errors import ThreadBusyError
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.events import StepEvent, observe
from notebook_agents.runtime.leaving import wait_for_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crash.processes import Child

HUNG_SECONDS = 20.0
WIDE = 4


@dataclass
class Doors:
    """Pipes that say what a child's nodes do and let them go on.

    Attributes:
        path: The folder of the ledger.
        news: The child writes a byte for each node that began, and for what else happened.
        gate: Each node takes a byte from here before it returns.
        children: Who lives no longer than the test.
    """

    path: Path
    news: tuple[int, int] = field(default_factory=os.pipe)
    gate: tuple[int, int] = field(default_factory=os.pipe)
    children: list[Child] = field(default_factory=list)

    def say(self, word: str) -> None:
        """Say one letter, in the child."""
        os.write(self.news[1], word.encode())

    def pass_through(self) -> None:
        """Wait at the gate, in the child."""
        os.read(self.gate[0], 1)

    def hear(self, words: str) -> None:
        """Wait until the child said these letters."""
        for word in words:
            ready, _, _ = select.select([self.news[0]], [], [], HUNG_SECONDS)
            assert ready, f"waited for {word!r} of {words!r}"
            assert os.read(self.news[0], 1).decode() == word

    def open(self, count: int = WIDE) -> None:
        """Let nodes go on."""
        os.write(self.gate[1], b"x" * count)

    @property
    def ledger(self) -> Ledger:
        """What the nodes did."""
        return Ledger(self.path / "ledger")


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    """Make the pipes between this process and its child."""
    made = Doors(tmp_path)
    yield made
    for child in made.children:
        with suppress(ChildProcessError):  # it was waited for
            if os.waitpid(child.pid, os.WNOHANG) == (0, 0):
                child.kill()
                os.waitpid(child.pid, 0)
            os.close(child.alive)
    for end in (*made.news, *made.gate):
        os.close(end)


def wide(doors: Doors, inner: Callable[[State], Any] | None = None) -> StateGraph[Any, Any, Any]:
    """Return a graph with a superstep of `WIDE` nodes that wait at the gate, and one behind it."""

    def part(state: Any) -> State:
        doors.say("n")
        doors.pass_through()
        doors.ledger.note(state["n"])
        if inner is not None:
            inner(state)
        return {"items": [state["n"]]}

    def end(state: State) -> State:
        doors.ledger.note("end")
        return {"items": ["end"]}

    graph = StateGraph(State)
    graph.add_node(part)
    graph.add_node(end)
    graph.add_conditional_edges(
        START, lambda _: [Send("part", {"n": n}) for n in range(WIDE)], ["part"]
    )
    graph.add_edge("part", "end")
    return graph


def inside(graph: StateGraph[Any, Any, Any]) -> StateGraph[Any, Any, Any]:
    """Return a graph with another one as its node."""
    outer = StateGraph(State)
    outer.add_node("sub", graph.compile())
    outer.add_edge(START, "sub")
    return outer


def before_async(graph: StateGraph[Any, Any, Any]) -> StateGraph[Any, Any, Any]:
    """Return it with a node behind it that has no sync function: all runs on an event loop."""

    async def rest(state: State) -> State:
        return {}

    graph.add_node(rest)
    graph.add_edge("end", "rest")
    return graph


def by_run(agent: na.Agent) -> None:
    """Run it."""
    agent.run({"n": 0}, thread="t")


def by_stream(agent: na.Agent) -> None:
    """Read its stream, in a `with`."""
    with agent.stream({"n": 0}, thread="t") as chunks:
        list(chunks)


def by_messages(agent: na.Agent) -> None:
    """Read a stream of messages, for which LangGraph has a worker thread of its own."""
    for _ in agent.stream({"n": 0}, thread="t", stream_mode=["messages", "custom"], subgraphs=True):
        pass


def of(doors: Doors, home: Path, program: Callable[[na.Journal], None]) -> Child:
    """Fork a child that runs a program, says when it was interrupted, and ends in order."""

    def body() -> None:
        with na.Journal.open(home) as journal:
            try:
                program(journal)
            except KeyboardInterrupt:
                doors.say("i")
        wait_for_all()

    doors.children.append(fork(body, doors.path / "child.log"))
    return doors.children[-1]


def returned(run: na.Run) -> list[int]:
    """Return how often each node of the wide superstep was begun, where all returned."""
    parts = [step for step in run.steps if step.name == "part"]
    assert {step.attempts[-1].outcome for step in parts} <= {Outcome.RETURNED}
    return [len(step.attempts) for step in parts]


@pytest.mark.parametrize(
    "shape", [lambda graph: graph, inside, before_async], ids=["graph", "subgraph", "async"]
)
@pytest.mark.parametrize("call", [by_run, by_stream, by_messages])
def test_ctrl_c_does_not_wait_for_nodes(home, doors, call, shape):
    """It comes out while all nodes block; what they return is kept and none runs again."""
    graph = shape(wide(doors))
    child = of(doors, home, lambda journal: call(na.Agent(graph, "wide", journal)))
    doors.hear("n" * WIDE)
    child.interrupt()
    doors.hear("i")
    with na.Journal.open(home) as journal:
        assert journal.thread("t").status is RunStatus.RUNNING
        doors.open()
        assert child.end() == 0, child.log.read_text()
        info = journal.thread("t")
        assert (info.status, info.driver) == (RunStatus.ORPHANED, None)
        assert returned(na.Agent(graph, "wide", journal).run({"n": 0}, thread="t")) == [1] * WIDE
    assert sorted(doors.ledger.lines()) == ["0", "1", "2", "3", "end"]


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("again", ["run", "resume"])
def test_who_takes_the_thread_up_again_waits(home, doors, reopened, again):
    """In the same process the next run waits for the steps and names one; others are refused."""
    graph = wide(doors)

    def program(journal: na.Journal) -> None:
        agent = na.Agent(graph, "wide", journal)
        try:
            by_run(agent)
        except KeyboardInterrupt:
            if reopened:
                journal.close()
                agent = agent.on(na.Journal.open(home))
            doors.say("i")
            if again == "run":
                run = agent.run({"n": 0}, thread="t")
            else:
                run = na.resume(journal=agent.journal)
            assert returned(run) == [1] * WIDE
            assert run.status is RunStatus.SUCCEEDED

    child = of(doors, home, program)
    doors.hear("n" * WIDE)
    child.interrupt()
    doors.hear("i")
    with (
        na.Journal.open(home) as journal,
        pytest.raises(ThreadBusyError, match=f"process {child.pid}"),
    ):
        na.Agent(graph, "wide", journal).run({"n": 0}, thread="t")
    doors.open()
    assert child.end() == 0, child.log.read_text()
    assert "waiting for step 'part' (" in child.log.read_text()
    assert sorted(doors.ledger.lines()) == ["0", "1", "2", "3", "end"]


def test_arun_waits_without_blocking_its_loop(home, doors):
    """On an event loop others go on while a run waits for steps that were left."""
    graph = wide(doors)

    async def again(agent: na.Agent) -> na.Run:
        running = asyncio.ensure_future(agent.arun({"n": 0}, thread="t"))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not running.done()
        doors.open()
        return await running

    def program(journal: na.Journal) -> None:
        agent = na.Agent(graph, "wide", journal)
        try:
            by_run(agent)
        except KeyboardInterrupt:
            assert returned(asyncio.run(again(agent))) == [1] * WIDE
            doors.say("d")

    child = of(doors, home, program)
    doors.hear("n" * WIDE)
    child.interrupt()
    doors.hear("d")
    assert child.end() == 0, child.log.read_text()


def test_no_other_step_begins(home, doors):
    """Neither what is queued behind the steps that run nor a durable call inside one of them."""

    @na.step
    def call() -> None:
        doors.ledger.note("call")

    graph = wide(doors, lambda _: call())

    def program(journal: na.Journal) -> None:
        agent = na.Agent(graph, "wide", journal)
        agent.run({"n": 0}, thread="t", config={"max_concurrency": 2})

    child = of(doors, home, program)
    doors.hear("nn")
    child.interrupt()
    doors.hear("i")
    doors.open()
    assert child.end() == 0, child.log.read_text()
    assert sorted(doors.ledger.lines()) == ["0", "1"]
    with na.Journal.open(home) as journal:
        assert [step.name for step in na.Run(journal, "t", 1).steps] == ["part", "part"]


def test_nor_a_node_of_a_graph_that_a_step_calls(home, doors):
    """A graph that a node's function calls is left too: its nodes in the queue never begin."""
    inner = wide(doors).compile()

    def calling(state: State) -> State:
        return inner.invoke({"n": 0}, {"max_concurrency": 2})

    child = of(doors, home, lambda journal: by_run(na.Agent(chain(calling), "calling", journal)))
    doors.hear("nn")
    child.interrupt()
    doors.hear("i")
    doors.open()
    assert child.end() == 0, child.log.read_text()
    assert sorted(doors.ledger.lines()) == ["0", "1"]
    with na.Journal.open(home) as journal:
        assert journal.thread("t").driver is None
        assert [step.attempts[-1].outcome for step in _steps(journal)] == [Outcome.UNCERTAIN]


@pytest.mark.parametrize("loop", [False, True], ids=["threads", "loop"])
def test_ctrl_c_does_not_wait_for_the_tools_of_one_node(home, doors, loop):
    """Those that one `ToolNode` runs side by side are kept, and called once."""

    @tool
    def part(at: str) -> str:
        """Look there."""
        doors.say("n")
        doors.pass_through()
        doors.ledger.note(at)
        return at

    graph = StateGraph(MessagesState)
    graph.add_node("tools", ToolNode([part]))
    graph.add_edge(START, "tools")
    graph.add_node("end", lambda _: {})
    graph.add_edge("tools", "end")
    if loop:
        before_async(graph)
    calls = [{"name": "part", "args": {"at": at}, "id": at} for at in "ab"]
    given = {"messages": [AIMessage("", tool_calls=calls)]}
    program = lambda journal: na.Agent(graph, "tooling", journal).run(given, thread="t")  # noqa: E731
    child = of(doors, home, program)
    doors.hear("nn")
    child.kill(signal.SIGINT)
    doors.hear("i")
    doors.open()
    assert child.end() == 0, child.log.read_text()
    with na.Journal.open(home) as journal:
        assert journal.thread("t").driver is None
        assert returned(program(journal)) == [1, 1]
    assert sorted(doors.ledger.lines()) == ["a", "b"]


def test_ctrl_c_while_langgraph_waits_for_the_siblings_of_a_failed_node(home, doors):
    """Where a node has raised, LangGraph waits for the others: that wait is cut short too."""
    begun = os.pipe()

    def part(state: State) -> State:
        doors.say("n")
        os.write(begun[1], b"x")
        doors.pass_through()
        return {"items": ["part"]}

    def broken(state: State) -> State:
        os.read(begun[0], 1)
        raise RuntimeError("out of order")

    graph = StateGraph(State)
    for node in (part, broken):
        graph.add_node(node)
        graph.add_edge(START, node.__name__)

    def tells(event: StepEvent) -> None:
        if event.what == "failed":
            doors.say("f")

    def program(journal: na.Journal) -> None:
        with observe(tells):
            by_run(na.Agent(graph, "broken", journal))

    child = of(doors, home, program)
    doors.hear("nf")
    child.interrupt()
    doors.hear("i")
    doors.open(1)
    assert child.end() == 0, child.log.read_text()
    with na.Journal.open(home) as journal:
        outcomes = {step.name: step.attempts[-1].outcome for step in _steps(journal)}
        assert outcomes == {"part": Outcome.RETURNED, "broken": Outcome.FAILED}
        assert journal.thread("t").driver is None


def _steps(journal: na.Journal) -> list[na.Step]:
    return na.Run(journal, "t", 1).steps


def test_a_run_that_was_left_is_cancelled(home, doors):
    """`cancel` names a step that it waits for; the last that ends marks the run."""
    graph = wide(doors)

    def program(journal: na.Journal) -> None:
        try:
            by_run(na.Agent(graph, "wide", journal))
        except KeyboardInterrupt:
            assert na.cancel("t", journal=journal).status is RunStatus.RUNNING
            raise

    child = of(doors, home, program)
    doors.hear("n" * WIDE)
    child.interrupt()
    doors.hear("i")
    doors.open()
    assert child.end() == 0, child.log.read_text()
    assert "ends when step 'part' (" in child.log.read_text()
    with na.Journal.open(home) as journal:
        assert journal.thread("t").status is RunStatus.CANCELLED
        assert len(_steps(journal)) == WIDE


def test_killed_while_steps_that_were_left_run(home, doors):
    """A SIGKILL leaves them in doubt as ever: they run again, and nobody holds the thread."""
    graph = wide(doors)
    child = of(doors, home, lambda journal: by_run(na.Agent(graph, "wide", journal)))
    doors.hear("n" * WIDE)
    child.interrupt()
    doors.hear("i")
    child.kill()
    assert child.end() == -signal.SIGKILL
    doors.open()
    with na.Journal.open(home) as journal:
        run = na.Agent(graph, "wide", journal).run({"n": 0}, thread="t")
        assert returned(run) == [2] * WIDE


SCRIPT = """
import operator, os, sys
from typing import Annotated, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import Send
import notebook_agents as na

class State(TypedDict, total=False):
    items: Annotated[list, operator.add]
    n: int

def part(state):
    with open("gate", "rb") as gate:  # it opens at once: the test has it open for writing
        sys.stdout.write("in\\n")
        sys.stdout.flush()
        gate.read()
    with open("ledger", "a") as ledger:
        ledger.write("part ")
    return {"items": [state["n"]]}

graph = StateGraph(State)
graph.add_node(part)
graph.add_conditional_edges(START, lambda _: [Send("part", {"n": n}) for n in range(4)], ["part"])
agent = na.Agent(graph, "wide")
"""
RUN = 'print(agent.run({"n": 0}, thread="t").value["items"], flush=True)'


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Make a FIFO that every node can open at once; call this, and all read its end."""
    os.mkfifo(tmp_path / "gate")
    monkeypatch.chdir(tmp_path)
    ends = [os.open(tmp_path / "gate", os.O_RDWR)]

    def let_through() -> None:
        if ends:
            os.close(ends.pop())

    yield let_through
    let_through()


@pytest.fixture
def script(gate: Callable[[], None]) -> Iterator[subprocess.Popen[str]]:
    """Start a script whose four nodes wait for a FIFO; give it when all do."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT + RUN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    ) as process:
        assert process.stdout is not None
        try:
            assert [process.stdout.readline() for _ in range(WIDE)] == ["in\n"] * WIDE
            yield process
        finally:
            process.kill()


def interrupt(script: subprocess.Popen[str]) -> None:
    """Press Ctrl-C, and wait for the traceback that ends the script."""
    script.send_signal(signal.SIGINT)
    assert script.stderr is not None
    said = "".join(iter(script.stderr.readline, "KeyboardInterrupt\n"))
    assert "thread 't' was left while step 'part' (" in said


def test_a_scripts_end_waits_for_its_steps(script, home, gate):
    """An interrupted script says that it cannot end before its steps, and gives the thread back."""
    interrupt(script)
    assert script.poll() is None
    gate()
    script.communicate(timeout=HUNG_SECONDS)
    assert script.returncode == -signal.SIGINT
    with na.Journal.open() as journal:
        info = journal.thread("t")
        assert (info.status, info.driver, info.returned) == (RunStatus.ORPHANED, None, WIDE)


def test_a_second_ctrl_c_ends_the_script(script):
    """It ends the process at once: the steps are in doubt, and nobody holds the thread."""
    interrupt(script)
    script.send_signal(signal.SIGINT)
    script.communicate(timeout=HUNG_SECONDS)
    with na.Journal.open() as journal:
        assert journal.thread("t").status is RunStatus.ORPHANED
        outcomes = {step.attempts[-1].outcome for step in _steps(journal)}
        assert outcomes == {Outcome.UNCERTAIN}


def test_the_stop_button_of_a_notebook(tmp_path, gate):
    """An interrupted kernel answers while nodes block; the cell that runs again waits for them."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        began: list[str] = []

        def heard(message: dict[str, Any]) -> None:
            began.extend(message["content"].get("text", "").split())
            if began.count("in") == WIDE and "interrupted" not in began:
                began.append("interrupted")
                manager.interrupt_kernel()

        client.execute_interactive(SCRIPT, timeout=HUNG_SECONDS)
        reply = client.execute_interactive(RUN, output_hook=heard, timeout=HUNG_SECONDS)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert not (tmp_path / "ledger").exists()
        said: list[str] = []

        def seen(message: dict[str, Any]) -> None:
            said.append(message["content"].get("text", ""))
            if "waiting for step 'part'" in said[-1]:
                gate()

        client.execute_interactive(RUN, output_hook=seen, timeout=HUNG_SECONDS)
        assert "[0, 1, 2, 3]" in "".join(said)
        assert (tmp_path / "ledger").read_text().split() == ["part"] * WIDE
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
