"""What `run` and `resume` do with a thread, line by line of the table in the design."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from crash.processes import fork
from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.types import Command
from support.checks import State, add, ask, chain, refused, says
from support.running import Ledger

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.model import Outcome, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Call = "Callable[..., na.Run]"


@pytest.fixture(params=["run", "arun"])
def call(request: pytest.FixtureRequest) -> Callable[..., na.Run]:
    """Call `run`, or `arun` on a loop of its own: both follow the same table."""

    def sync(agent: na.Agent, given: Any, **options: Any) -> na.Run:
        return agent.run(given, **options)

    def on_a_loop(agent: na.Agent, given: Any, **options: Any) -> na.Run:
        return asyncio.run(agent.arun(given, **options))

    return sync if request.param == "run" else on_a_loop


class Fragile:
    """A two-step agent whose second node fails, waits or kills as long as it is told to.

    Attributes:
        ran: The nodes that ran in this process.
        mood: What the second node does: "fail", "die", "doubt" or nothing.
    """

    def __init__(self, journal: na.Journal, mood: str = "") -> None:
        self.ran: list[str] = []
        self.mood = mood
        ran, told = self.ran, self._told

        def first(state: State) -> State:
            ran.append("first")
            return {"items": ["first"]}

        @na.step(at_most_once=True)
        def effect() -> None:
            ran.append("effect")
            if told() == "doubt":
                raise TimeoutError("no answer")

        def second(state: State) -> State:
            ran.append("second")
            if told() == "fail":
                raise RuntimeError("out of order")
            if told() == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if told() == "wait":
                return ask(state)
            if told() == "doubt":
                effect()
            return {"items": ["second"]}

        self.agent = na.Agent(chain(first, second), "fragile", journal)

    def _told(self) -> str:
        return self.mood

    def __reduce__(self) -> tuple[Any, ...]:
        return _calm, ()  # a definition holds it through its nodes; they ask it for nothing there


def _calm() -> Any:
    return SimpleNamespace(_told=str)


def leave(home: Path, mood: str, tmp_path: Path, given: Any = None) -> RunStatus:
    """Leave an unfinished run on thread `t` behind; return where it stands."""
    given = {"n": 1} if given is None else given

    def program() -> None:
        with na.Journal.open(home) as journal:
            Fragile(journal, mood).agent.run(given, thread="t")

    if mood == "die":
        log = tmp_path / "left.log"
        assert fork(program, log).end() == -signal.SIGKILL, log.read_text()
    elif mood == "doubt":
        with pytest.raises(TimeoutError):
            program()
        program()
    elif mood == "fail":
        with pytest.raises(RuntimeError, match="out of order"):
            program()
    else:
        program()
    with na.Journal.open(home) as journal:
        return journal.thread("t").status


UNFINISHED = {
    "die": RunStatus.ORPHANED,
    "wait": RunStatus.WAITING,
    "doubt": RunStatus.IN_DOUBT,
    "fail": RunStatus.FAILED,
}


# -- unfinished --------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["die", "wait", "fail"])
def test_unfinished_with_the_same_input_resumes(home, tmp_path, call, mood):
    """The run goes on behind what returned, with the code that is here now."""
    assert leave(home, mood, tmp_path) is UNFINISHED[mood]
    with na.Journal.open(home) as journal:
        mended = Fragile(journal)
        run = call(mended.agent, {"n": 1}, thread="t")
        assert (run.number, run.status, run.stored) == (1, RunStatus.SUCCEEDED, False)
        assert mended.ran == ["second"]
        assert run.value["items"] == ["first", "second"]
        assert [step.replayed for step in run.steps] == [True, False]
        assert run.view.sessions == 2


def test_in_doubt_with_the_same_input_stays_in_doubt(home, tmp_path, call):
    """A doubtful step is not run again by asking once more."""
    assert leave(home, "doubt", tmp_path) is RunStatus.IN_DOUBT
    with na.Journal.open(home) as journal:
        again = Fragile(journal, "doubt")
        assert call(again.agent, {"n": 1}, thread="t").status is RunStatus.IN_DOUBT
        assert again.ran == ["second"]


def test_waiting_with_the_same_input_still_waits(home, tmp_path, call):
    """A run that waits for a person is not pushed on by being asked for again."""
    leave(home, "wait", tmp_path)
    with na.Journal.open(home) as journal:
        again = Fragile(journal, "wait")
        run = call(again.agent, {"n": 1}, thread="t")
        assert (run.number, run.status) == (1, RunStatus.WAITING)
        run = call(again.agent, Command(resume=9), thread="t")
        assert (run.number, run.value["n"]) == (1, 9)


@pytest.mark.parametrize("mood", ["die", "wait", "doubt"])
def test_unfinished_with_other_input_is_refused(home, tmp_path, call, mood):
    """Other input neither takes the run over nor starts another; `new=True` does."""
    leave(home, mood, tmp_path)
    with na.Journal.open(home) as journal:
        other = Fragile(journal)
        named = ("'t'", "run 1", str(UNFINISHED[mood]), 'na.resume("t")', "new=True")
        with refused(home, errors.RunUnfinishedError, *named):
            call(other.agent, {"n": 2}, thread="t")
        assert other.ran == []
        run = call(other.agent, {"n": 2}, thread="t", new=True)
        assert (run.number, run.status) == (2, RunStatus.SUCCEEDED)
        assert other.ran == ["first", "second"]


def test_failed_with_other_input_starts_the_next_run(home, tmp_path, call):
    """A failed run is given up by asking something else."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        run = call(Fragile(journal).agent, {"n": 2}, thread="t")
        assert (run.number, run.status) == (2, RunStatus.SUCCEEDED)


def test_new_on_an_unfinished_run_with_the_same_input(home, tmp_path, call):
    """`new=True` runs everything again, also what the unfinished run had done."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        again = Fragile(journal)
        assert call(again.agent, {"n": 1}, thread="t", new=True).number == 2
        assert again.ran == ["first", "second"]


def test_failed_step_runs_again_with_the_live_code(home, tmp_path, call):
    """The failed attempt stays on record beside the one that the mended code made."""
    leave(home, "fail", tmp_path)
    with na.Journal.open(home) as journal:
        run = call(Fragile(journal).agent, {"n": 1}, thread="t")
        outcomes = {step.name: [a.outcome for a in step.attempts] for step in run.steps}
        assert outcomes == {
            "first": [Outcome.RETURNED],
            "second": [Outcome.FAILED, Outcome.RETURNED],
        }
        assert run.steps[1].attempts[0].error == "RuntimeError: out of order"


# -- finished ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "number", "stored"),
    [
        ({"n": 1}, {"key": "monday"}, 1, True),
        ({"n": 1}, {"key": "monday", "new": True}, 2, False),
        ({"n": 2}, {"key": "monday"}, 2, False),
        ({"n": 1}, {"key": "tuesday"}, 2, False),
        ({"n": 1}, {}, 2, False),
    ],
    ids=["same key", "same key, new", "same key, other input", "other key", "no key"],
)
def test_finished(journal, call, given, options, number, stored):
    """The stored answer is given for the same key and input; anything else is the next run."""
    agent = Fragile(journal)
    first = call(agent.agent, {"n": 1}, thread="t", key="monday")
    agent.ran.clear()
    run = call(agent.agent, given, thread="t", **options)
    assert (run.number, run.stored, run.status) == (number, stored, RunStatus.SUCCEEDED)
    assert agent.ran == ([] if stored else ["first", "second"])
    if stored:
        assert run.value == first.value
        assert "stored" in repr(run)


def test_finished_without_any_key(journal, call):
    """Without a key a script that asks twice gets two runs."""
    agent = Fragile(journal).agent
    assert [call(agent, {"n": 1}, thread="t").number for _ in range(3)] == [1, 2, 3]


def test_stored_answer_in_another_process(home, tmp_path):
    """The stored answer outlives the process that made it."""

    def program() -> None:
        with na.Journal.open(home) as journal:
            Fragile(journal).agent.run({"n": 1}, thread="t", key="monday")

    assert fork(program, tmp_path / "log").end() == 0, (tmp_path / "log").read_text()
    with na.Journal.open(home) as journal:
        agent = Fragile(journal)
        run = agent.agent.run({"n": 1}, thread="t", key="monday")
        assert (run.stored, run.value["items"], agent.ran) == (True, ["first", "second"], [])


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have code run as from a notebook's cell, as far as IPython tells."""

    def enter(cell: str, notebook: str = "analysis.ipynb") -> None:
        kernel = SimpleNamespace(get_parent=lambda: {"metadata": {"cellId": cell}})
        shell = SimpleNamespace(
            kernel=kernel, user_ns={"__vsc_ipynb_file__": str(tmp_path / notebook)}
        )
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    return enter


def test_same_cell_gets_the_stored_answer(journal, call, cell):
    """Running a cell a second time shows its answer; another cell asks again."""
    agent = Fragile(journal)
    cell("a")
    assert not call(agent.agent, {"n": 1}, thread="t").stored
    agent.ran.clear()
    assert call(agent.agent, {"n": 1}, thread="t").stored
    assert agent.ran == []
    assert call(agent.agent, {"n": 1}, thread="t", new=True).number == 2
    cell("b")
    assert call(agent.agent, {"n": 1}, thread="t").number == 3
    cell("b", "other.ipynb")
    assert call(agent.agent, {"n": 1}, thread="t").number == 4


def test_edited_cell_asks_again(journal, call, cell):
    """The same cell with other input is the next run of the conversation."""
    agent = Fragile(journal).agent
    cell("a")
    assert call(agent, {"n": 1}, thread="t").number == 1
    assert call(agent, {"n": 2}, thread="t").number == 2


def test_next_run_goes_on_with_the_conversation(journal, call):
    """The next run of a thread begins with the state that the one before it left."""
    agent = Fragile(journal).agent
    call(agent, {"n": 1}, thread="t")
    run = call(agent, {"n": 2}, thread="t")
    assert run.value["items"] == ["first", "second"] * 2
    assert call(agent, {"n": 2}, thread="other").value["items"] == ["first", "second"]


# -- what "the same input" is ------------------------------------------------------------------


class Chat(TypedDict):
    messages: Annotated[list[Any], add_messages]


def test_input_is_compared_as_it_was_given(journal, call):
    """LangGraph writes ids into messages; that neither changes the input nor the comparison."""
    broken = [True]

    def reply(state: Chat) -> Chat:
        if broken:
            raise RuntimeError("out of order")
        return {"messages": [("ai", "hello")]}

    graph = StateGraph(Chat)
    graph.add_node("reply", reply)
    graph.add_edge(START, "reply")
    agent = na.Agent(graph, "chatting", journal)
    given = {"messages": [HumanMessage("hi")]}
    with pytest.raises(RuntimeError):
        call(agent, given, thread="t")
    assert given["messages"][0].id is None
    broken.clear()
    run = call(agent, {"messages": [HumanMessage("hi")]}, thread="t")
    assert run.number == 1
    assert [message.content for message in run.value["messages"]] == ["hi", "hello"]


def test_order_of_fields_does_not_count(home, tmp_path, call):
    """The same fields in another order are the same input."""
    leave(home, "fail", tmp_path, {"n": 1, "at": {"x": 1, "y": 2}})
    with na.Journal.open(home) as journal:
        again = Fragile(journal)
        assert call(again.agent, {"at": {"y": 2, "x": 1}, "n": 1}, thread="t").number == 1
        assert again.ran == ["second"]


# -- without a thread --------------------------------------------------------------------------


def test_thread_is_made_and_said(journal, call, capsys):
    """Without a thread a readable name is made, and said where it does not mix with results."""
    run = call(Fragile(journal).agent, {"n": 1})
    assert re.fullmatch(r"fragile-[a-z]+-[a-z]+-[0-9a-f]{8}", run.thread)
    said = capsys.readouterr()
    assert run.thread in said.err
    assert said.out == ""


def test_unfinished_run_is_found_without_its_thread(home, tmp_path, call):
    """The same agent and input give the same name, so a rerun goes on where the first stopped."""
    with na.Journal.open(home) as journal:
        with pytest.raises(RuntimeError):
            call(Fragile(journal, "fail").agent, {"n": 1})
        (left,) = journal.threads()
    with na.Journal.open(home) as journal:
        mended = Fragile(journal)
        run = call(mended.agent, {"n": 1})
        assert (run.thread, run.number, mended.ran) == (left.thread, 1, ["second"])
        assert call(mended.agent, {"n": 2}).thread != left.thread


def test_finished_run_without_a_thread(journal, call):
    """Outside a notebook, asking again after the end is another conversation."""
    agent = Fragile(journal).agent
    threads = {call(agent, {"n": 1}).thread for _ in range(3)}
    assert len(threads) == 3
    assert call(agent, {"n": 1}, new=True).thread not in threads


def test_stored_answer_without_a_thread(journal, call):
    """The same `key=` gives the stored answer also where no thread is named."""
    agent = Fragile(journal)
    first = call(agent.agent, {"n": 1}, key="monday")
    agent.ran.clear()
    again = call(agent.agent, {"n": 1}, key="monday")
    assert (again.thread, again.stored, agent.ran) == (first.thread, True, [])


def test_same_cell_without_a_thread(journal, call, cell):
    """A cell that is run again finds its own conversation and its stored answer."""
    agent = Fragile(journal)
    cell("a")
    first = call(agent.agent, {"n": 1})
    agent.ran.clear()
    again = call(agent.agent, {"n": 1})
    assert (again.thread, again.stored, agent.ran) == (first.thread, True, [])
    cell("b")
    assert call(agent.agent, {"n": 1}).thread != first.thread


# -- drivers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A live process in the middle of a node of thread `t`."""

    pid: int
    let_go: Callable[[], int]


@pytest.fixture
def held(home: Path, tmp_path: Path) -> Iterator[Held]:
    """Have another process drive thread `t` until it is let go."""
    inside, gate = os.pipe(), os.pipe()
    entered = Ledger(tmp_path / "entered")

    def node(state: State) -> State:
        if entered.note(os.getpid()) == 1:
            os.write(inside[1], b"x")
            os.read(gate[0], 1)
        return {"n": 7}

    def program() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chain(node), "holding", journal).run({"n": 1}, thread="t")

    child = fork(program, tmp_path / "held.log")
    assert os.read(inside[0], 1) == b"x"
    ended: list[int] = []

    def let_go() -> int:
        os.write(gate[1], b"x")
        ended.append(child.end())
        return ended[0]

    yield Held(child.pid, let_go)
    if not ended:
        let_go()
    for descriptor in (*inside, *gate):
        os.close(descriptor)


def test_thread_that_another_process_drives(home, held, call, cli):
    """Nobody else can run or resume it; the process is named, exit code 5, and it goes on."""
    with na.Journal.open(home) as journal:
        agent = na.Agent(chain(add), "holding", journal)
        assert journal.thread("t").status is RunStatus.RUNNING
        assert na.unfinished(journal) == []
        for ask_for in (
            lambda: call(agent, {"n": 1}, thread="t"),
            lambda: call(agent, {"n": 2}, thread="t", new=True),
            lambda: na.resume("t", journal=journal),
        ):
            with pytest.raises(errors.ThreadBusyError) as caught:
                ask_for()
            says(caught.value, "'t'", f"process {held.pid} ", "stop it there")
        busy = cli("resume", "t", "--journal", str(home))
        assert (busy.code, f"process {held.pid} " in busy.err) == (5, True), busy.err
    assert held.let_go() == 0
    with na.Journal.open(home) as journal:
        assert na.Run(journal, "t", 1).value["n"] == 7


def test_thread_that_a_killed_process_drove(home, held, call):
    """A SIGKILLed driver orphans its run at once; whoever comes next takes it up."""
    os.kill(held.pid, signal.SIGKILL)
    assert held.let_go() == -signal.SIGKILL
    with na.Journal.open(home) as journal:
        info = journal.thread("t")
        assert info.status is RunStatus.ORPHANED
        assert info.driver is not None
        assert info.driver.pid == held.pid
        assert [found.thread for found in na.unfinished(journal)] == ["t"]
        run = na.resume(journal=journal)
        assert (run.thread, run.status, run.value["n"]) == ("t", RunStatus.SUCCEEDED, 7)
        assert na.unfinished(journal) == []


def test_thread_that_this_process_drives(home, journal, call):
    """Two worker threads of one process cannot drive a thread at the same time either."""
    inside, gate = threading.Event(), threading.Event()

    def node(state: State) -> State:
        inside.set()
        gate.wait()
        return {"n": 7}

    class Hidden:
        def __init__(self, function: Callable[[State], State]) -> None:
            self.function = function

        def __call__(self, state: State) -> State:
            return self.function(state)

        def __reduce__(self) -> tuple[Any, ...]:
            return Hidden, (add,)

    hidden = Hidden(node)
    graph = StateGraph(State)
    graph.add_node("node", hidden)
    graph.add_edge(START, "node")
    agent = na.Agent(graph, "holding", journal)
    worker = threading.Thread(target=lambda: agent.run({"n": 1}, thread="t"))
    worker.start()
    inside.wait()
    try:
        with pytest.raises(errors.ThreadBusyError) as caught:
            call(agent, {"n": 1}, thread="t")
    finally:
        gate.set()
        worker.join()
    says(caught.value, "'t'", f"process {os.getpid()} ")
    assert na.Run(journal, "t", 1).value["n"] == 7


def test_two_threads_at_the_same_time(journal, call):
    """Threads of one agent and one journal do not hold each other up."""
    barrier = threading.Barrier(2, timeout=30)

    class Meet:
        def __call__(self, state: State) -> State:
            barrier.wait()
            return {"n": state["n"] + 1}

        def __reduce__(self) -> str:
            return "add"

    Meet.__reduce__ = lambda self: (_adder, ())  # type: ignore[method-assign]
    graph = StateGraph(State)
    graph.add_node("node", Meet())
    graph.add_edge(START, "node")
    agent = na.Agent(graph, "meeting", journal)
    found: dict[str, int] = {}

    def work(name: str, n: int) -> None:
        found[name] = call(agent, {"n": n}, thread=name).value["n"]

    workers = [threading.Thread(target=work, args=(f"t{n}", n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {"t0": 1, "t1": 2}


def _adder() -> Callable[[State], State]:
    return add


# -- resume ------------------------------------------------------------------------------------


def test_resume_of_a_finished_run(journal):
    """A finished run is given back as it is, and nothing is run."""
    agent = Fragile(journal)
    first = agent.agent.run({"n": 1}, thread="t")
    agent.ran.clear()
    for run in (na.resume("t", journal=journal), agent.agent.resume("t")):
        assert (run.number, run.stored, run.value) == (1, True, first.value)
    assert agent.ran == []


def test_resume_takes_the_newest(journal, home):
    """Without a thread, `resume` takes the newest run that is not finished, one after the other."""
    agent = Fragile(journal, "fail")
    for name in ("a", "b", "c"):
        with pytest.raises(RuntimeError):
            agent.agent.run({"n": 1}, thread=name)
    agent.mood = ""
    agent.agent.run({"n": 1}, thread="d")
    assert [info.thread for info in na.unfinished(journal)] == ["c", "b", "a"]
    assert [na.resume(journal=journal).thread for _ in range(3)] == ["c", "b", "a"]
    with refused(home, errors.UnknownThreadError, home):
        na.resume(journal=journal)


def test_resume_takes_this_notebooks(journal, cell):
    """In a notebook the newest run is the newest of this notebook."""
    agent = Fragile(journal, "fail")
    for notebook in ("mine.ipynb", "other.ipynb"):
        cell("a", notebook)
        with pytest.raises(RuntimeError):
            agent.agent.run({"n": 1}, thread=notebook)
    agent.mood = ""
    cell("z", "mine.ipynb")
    assert na.resume(journal=journal).thread == "mine.ipynb"
    with pytest.raises(errors.UnknownThreadError) as caught:
        na.resume(journal=journal)
    says(caught.value, "mine.ipynb")


@dataclass
class Context:
    user: str


def test_resume_gets_what_the_run_was_given(home, dies, tmp_path):
    """Context, configurable values and the recursion limit are kept; LangGraph keeps none."""
    seen = Ledger(tmp_path / "seen")

    def node(state: State, config: dict[str, Any], runtime: Runtime[Context]) -> State:
        place = seen.note(
            f"{runtime.context.user} {config['configurable']['model']} {config['recursion_limit']}"
        )
        if place == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"n": 1}

    node.__annotations__["config"] = "RunnableConfig"
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("node", node)
    graph.add_edge(START, "node")

    def program() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(graph, "knowing", journal).run(
                {"n": 0},
                thread="t",
                context=Context("ada"),
                config={"configurable": {"model": "small"}, "recursion_limit": 7},
            )

    dies(program)
    with na.Journal.open(home) as journal:
        assert na.resume("t", journal=journal).status is RunStatus.SUCCEEDED
    assert seen.lines() == ["ada small 7"] * 2
