"""A call that cannot be meant is refused in one sentence that says what to do; nothing is lost.

Each line of "Bad input" is a test of the Python API and, where a command can meet it, of the
command line in a process of its own. What is wrong with a journal's files is in
`test_bad_journal.py`, what is wrong with a graph in `test_bad_definition.py`.
"""

from __future__ import annotations

import inspect
import json
import operator
import pickle
import threading
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from pydantic import BaseModel
from support.checks import State, add, ask, chain, refused, says, standing, told

import notebook_agents as na
from notebook_agents import errors
from notebook_agents.model import Outcome, RunStatus
from notebook_agents.runtime.view import run_view

if TYPE_CHECKING:
    from collections.abc import Callable


# -- errors themselves -------------------------------------------------------------------------


def _classes() -> list[type[BaseException]]:
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, BaseException) and value.__module__ == errors.__name__
    ]


@pytest.mark.parametrize("error", _classes(), ids=lambda error: error.__name__)
def test_errors_survive_pickling(error):
    """What one process raises another can read, with everything it says."""
    said = ["a thread", "a step", "its name", "its key"]
    takes = {errors.StepInDoubt: 4, errors.ObjectNotRestoredError: 3}
    made = error(*said[: takes.get(error, 1)])
    again = pickle.loads(pickle.dumps(made))
    assert (type(again), str(again), again.args) == (type(made), str(made), made.args)
    assert again.__dict__ == made.__dict__


def test_every_exit_code_is_one_that_is_documented():
    """The class decides the exit code, and all of them are on the list of `--help`."""
    codes = {error.__name__: error.exit_code for error in _classes()}
    assert {name for name, code in codes.items() if code == 4} == {"StepInDoubt"}
    assert {name for name, code in codes.items() if code == 5} == {
        "ThreadBusyError",
        "FencedError",
        "JournalBusyError",
    }
    assert set(codes.values()) == {1, 2, 4, 5, 6}


# -- threads and runs --------------------------------------------------------------------------


def test_unknown_thread(home, journal, done):
    """A thread that is not there is named, wherever it is asked for."""
    agent = na.Agent(chain(add), "counter", journal)
    for call in (journal.thread, agent.resume, lambda name: na.resume(name, journal=journal)):
        with refused(home, errors.UnknownThreadError, "'nope'", home, "list"):
            call("nope")


def test_unknown_thread_on_the_command_line(cli, home, done):
    """The commands that take a thread say that it is not there: exit code 2."""
    for command in (["resume", "nope"], ["show", "nope"]):
        told(cli(*command, "--journal", str(home)), 2, "'nope'")


def test_unknown_run(cli, home, journal, done):
    """A run that the thread does not have is named, beside the newest that it has."""
    with refused(home, errors.UnknownThreadError, "'t'", "7", "1"):
        run_view(journal, "t", 7)
    told(cli("show", "t", "--run", "7", "--journal", str(home)), 2, "'t'", "run 7")


def test_nothing_to_resume(cli, home, journal, done):
    """Without an unfinished run there is nothing that a resume could mean."""
    with refused(home, errors.UnknownThreadError, home, "list"):
        na.resume(journal=journal)
    told(cli("resume", "--journal", str(home)), 2, home)


def test_thread_of_a_plain_graph(home, journal):
    """A thread that no agent wrote is not resumed, and is left to the graph that wrote it."""
    saver = na.JournalSaver(journal)
    chain(add).compile(checkpointer=saver).invoke({"n": 1}, {"configurable": {"thread_id": "p"}})
    with refused(home, errors.UnknownThreadError, "'p'", "JournalSaver"):
        na.resume("p", journal=journal)


def test_agent_name_that_is_not_the_threads(home, journal, done):
    """A thread belongs to the agent that made it; both names are said."""
    other = na.Agent(chain(add), "other", journal)
    for call in (lambda: other.run({"n": 1}, thread="t"), lambda: other.resume("t")):
        with refused(home, errors.WrongAgentError, "'t'", "'counter'", "'other'"):
            call()


def test_agent_name_on_the_command_line(cli, home, agents):
    """Another agent's thread is refused with exit code 2, also for a new run."""
    assert cli("run", f"{agents}:counter", "--input", '{"n": 1}', "--thread", "t").code == 0
    for more in ([], ["--new"]):
        ended = cli("run", f"{agents}:other", "--input", '{"n": 1}', "--thread", "t", *more)
        told(ended, 2, "'t'", "'counter'", "'other'")


def test_other_input_on_an_unfinished_thread(home, journal):
    """Another question does not push an unfinished one aside; what can be done is said."""
    agent = na.Agent(chain(ask), "asking", journal)
    assert agent.run({"n": 1}, thread="t").status is RunStatus.WAITING
    with refused(home, errors.RunUnfinishedError, "'t'", "1", "na.resume", "new=True"):
        agent.run({"n": 2}, thread="t")
    assert agent.run(Command(resume=5), thread="t").value["n"] == 5


def test_other_input_on_the_command_line(cli, agents):
    """The same with exit code 2, and the waiting run's own code before it is 3."""
    run = ["run", f"{agents}:asking", "--thread", "t", "--input"]
    assert cli(*run, '{"n": 1}').code == 3
    told(cli(*run, '{"n": 2}'), 2, "'t'")


def test_value_of_an_unfinished_run(home, journal):
    """A run that waits has no value: it says so, and how to answer it."""
    run = na.Agent(chain(ask), "asking", journal).run({"n": 1}, thread="t")
    with refused(home, errors.RunNotFinishedError, "'t'", "1", "Command(resume=...)"):
        _ = run.value


def test_value_of_a_failed_run(home, journal):
    """A run that failed has no value: it says so, and how to go on."""

    def broken(state):
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        na.Agent(chain(broken), "breaking", journal).run({"n": 1}, thread="t")
    with refused(home, errors.RunNotFinishedError, "'t'", "failed", 'na.resume("t")'):
        _ = na.Run(journal, "t", 1).value


def test_failed_run_on_the_command_line(cli, agents):
    """A node's error ends the command with 1 and says how to resume; mended, it goes on."""
    run = ["run", f"{agents}:breaking", "--thread", "t", "--input", '{"n": 1}', "--json"]
    failed = cli(*run, BROKEN="1")
    assert failed.code == 1
    error = json.loads(failed.err.strip().splitlines()[-1])["error"]
    assert error["type"] == "RuntimeError"
    assert "notebook-agents resume t" in error["message"]
    resumed = cli("resume", "t", "--json")
    assert resumed.code == 0, resumed.err
    assert [len(step["attempts"]) for step in json.loads(resumed.out)["steps"]] == [1, 2]


# -- input that the graph does not expect ------------------------------------------------------


@pytest.mark.parametrize("given", [None, 5, "n", [1], {}, {"m": 1}], ids=repr)
def test_input_that_the_graph_does_not_expect(home, journal, done, given):
    """The input is refused before anything runs: the thread is as it was, and goes on."""
    agent = na.Agent(chain(add), "counter", journal)
    with refused(home, errors.InputError, "'counter'"):
        agent.run(given, thread="t")
    assert agent.run({"n": 2}, thread="t").value["n"] == 3


@pytest.mark.parametrize("given", [None, 5, {"m": 1}], ids=repr)
def test_bad_input_makes_no_thread(home, journal, done, given):
    """No thread is left behind by an input that no run came of."""
    agent = na.Agent(chain(add), "counter", journal)
    with refused(home, errors.InputError, "'counter'"):
        agent.run(given, thread="fresh")


def test_answer_that_nobody_asked_for(home, journal, done):
    """An answer to a thread that does not wait is refused."""
    agent = na.Agent(chain(add), "counter", journal)
    for thread in ("t", "fresh"):
        with refused(home, errors.InputError, repr(thread)):
            agent.run(Command(resume=5), thread=thread)


def test_input_that_cannot_be_kept(home, journal, done):
    """An input that no other process could be given is refused at the start, by its field."""
    agent = na.Agent(chain(add), "counter", journal)
    with refused(home, errors.ValueNotKeptError, "'at'", "lock"):
        agent.run({"n": 1, "at": threading.Lock()}, thread="t")


def test_pydantic_state_checks_its_input(home, journal, done):
    """An input that does not validate is said in one sentence, and no run comes of it."""

    class Checked(BaseModel):
        n: int

    graph = StateGraph(Checked)
    graph.add_node("add", lambda state: {"n": state.n + 1})
    graph.add_edge(START, "add")
    agent = na.Agent(graph, "checked", journal)
    with refused(home, errors.InputError, "'checked'", "n"):
        agent.run({"n": "many"}, thread="fresh")


def test_input_on_the_command_line(cli, agents, tmp_path):
    """Input that is no JSON, or nothing that the graph takes, is exit code 2."""
    told(cli("run", f"{agents}:counter", "--input", "{n: 1}"), 2, "JSON")
    told(cli("run", f"{agents}:counter", "--input", '{"m": 1}', "--thread", "t"), 2, "'counter'")
    told(cli("run", f"{agents}:counter", "--input", "5", "--thread", "t"), 2, "'counter'")


# -- values that cannot be kept ----------------------------------------------------------------


def _refused_values() -> dict[str, Callable[[], Any]]:
    return {
        "lock": threading.Lock,
        "generator": lambda: (n for n in range(3)),
        "nested": lambda: {"rows": [1, {"handle": threading.Lock()}]},
        "undeclared class": lambda: _Undeclared(),
    }


class _Undeclared:
    pass


@pytest.mark.parametrize("kind", _refused_values())
def test_state_value_that_cannot_be_kept(home, journal, kind):
    """The field is named and its step is failed; the mended node goes on from there."""
    broken = [True]

    def make(state: State) -> State:
        return {"at": _refused_values()[kind]() if broken else "plain"}

    agent = na.Agent(chain(add, make), "making", journal)
    with pytest.raises(errors.ValueNotKeptError) as caught:
        agent.run({"n": 1}, thread="t")
    says(caught.value, "'t'", "make", "'at'")
    assert journal.thread("t").status is RunStatus.FAILED
    assert [step.outcome for step in run_view(journal, "t").steps] == [
        Outcome.RETURNED,
        Outcome.FAILED,
    ]

    broken.clear()
    run = agent.run({"n": 1}, thread="t")
    assert run.value == {"n": 2, "at": "plain", "items": []}
    assert [len(step.attempts) for step in run.steps] == [1, 2]


class _Log(TypedDict, total=False):
    log: Annotated[Any, lambda old, new: threading.Lock() if new == "spoil" else new]
    seen: Annotated[list[str], operator.add]


def test_reducer_that_makes_what_cannot_be_kept(home, journal, tmp_path):
    """No node runs on a state that was not stored: neither of two would be known after a kill."""
    effects = tmp_path / "effects"
    effects.mkdir()

    def spoil(state: _Log) -> _Log:
        return {"log": "spoil"}

    def behind(name: str, state: _Log) -> _Log:
        (effects / name).touch()
        return {"seen": ["one"]}

    builder = StateGraph(_Log)
    builder.add_node("spoil", spoil)
    builder.add_edge(START, "spoil")
    for name in ("left", "middle", "right"):
        builder.add_node(name, partial(behind, name))
        builder.add_edge("spoil", name)
    with pytest.raises(errors.ValueNotKeptError) as caught:
        na.Agent(builder, "spoiling", journal).run({"log": "fine"}, thread="t")
    says(caught.value, "'t'", "'log'", "lock")
    assert journal.thread("t").status is RunStatus.FAILED
    assert list(effects.iterdir()) == []


def test_result_that_cannot_be_kept(home, journal, tmp_path):
    """The step is named and failed; the mended one goes on, the calls before it stand."""
    calls: list[str] = []
    broken = [True]

    @na.step
    def first() -> int:
        calls.append("first")
        return 1

    @na.step
    def second() -> Any:
        calls.append("second")
        return threading.Lock() if broken else 2

    def node(state: State) -> State:
        return {"n": first() + second()}

    agent = na.Agent(chain(node), "calling", journal)
    with pytest.raises(errors.ValueNotKeptError) as caught:
        agent.run({"n": 1}, thread="t")
    says(caught.value, "'t'", "'second'", "lock")
    outcomes = {step.name: step.outcome for step in run_view(journal, "t").steps}
    assert outcomes == {
        "node": Outcome.FAILED,
        "first": Outcome.RETURNED,
        "second": Outcome.FAILED,
    }

    broken.clear()
    assert agent.run({"n": 1}, thread="t").value["n"] == 3
    assert calls == ["first", "second", "second"]


def test_argument_without_a_digest(home, journal):
    """An argument that stands for nothing in another process is refused, and `key=` is named."""

    @na.step
    def call(guard: object) -> int:
        return 1

    def node(state: State) -> State:
        return {"n": call(threading.Lock())}

    with pytest.raises(errors.ValueNotKeptError) as caught:
        na.Agent(chain(node), "calling", journal).run({"n": 1}, thread="t")
    says(caught.value, "'call'", "key=", "lock")


def test_state_value_on_the_command_line(cli, agents):
    """The field is named on the last line, exit code 1, and the journal has the failed step."""
    ended = cli("run", f"{agents}:locking", "--input", '{"n": 1}', "--thread", "t")
    told(ended, 1, "'at'", "'t'")
    shown = cli("show", "t", "--json")
    assert shown.code == 0, shown.err
    assert [step["outcome"] for step in json.loads(shown.out)["steps"]] == ["failed"]


# -- durable calls where nothing can record them -----------------------------------------------


def test_step_outside_a_run(home, journal, done):
    """A durable call where nothing records it is refused before it has an effect."""
    called = []

    @na.step
    def call() -> None:
        called.append(1)

    with refused(home, errors.NotDurableError, "'call'", "__wrapped__"):
        call()
    with refused(home, errors.NotDurableError, "idempotency_key()"):
        na.idempotency_key()
    assert called == []


async def test_async_step_outside_a_run(home, journal, done):
    """The same for a coroutine function."""

    @na.step
    async def call() -> None: ...

    with refused(home, errors.NotDurableError, "'call'", "__wrapped__"):
        await call()


def test_step_in_a_bare_worker_thread(home, journal):
    """A worker thread without the node's context is told how to get it."""

    @na.step
    def call() -> int:
        return 1

    caught: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except errors.NotDurableError as error:
            caught.append(error)

    def node(state: State) -> State:
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        return {"n": 1}

    na.Agent(chain(node), "calling", journal, allow=()).run({"n": 1}, thread="t")
    says(caught[0], "'call'", "copy_context")


def test_closed_journal(home, journal, done):
    """A closed journal says that it is closed, and everything is in it."""
    before = standing(home)
    agent = na.Agent(chain(add), "counter", journal)
    journal.close()
    for call in (
        journal.threads,
        lambda: journal.thread("t"),
        lambda: agent.run({"n": 5}, thread="t"),
        lambda: na.resume("t", journal=journal),
    ):
        with pytest.raises(errors.NotDurableError) as caught:
            call()
        says(caught.value, home, "open")
    assert standing(home) == before


# -- the command line's own --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "agents.py:nobody"],
        ["run", "agents.py"],
        ["run", "nowhere.py:agent"],
        ["run", "no_such_module:agent"],
        ["show"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_commands_that_cannot_be_meant(cli, agents, arguments):
    """A wrong command line is exit code 2, said without a traceback."""
    told(cli(*arguments), 2)


def test_errors_as_json(cli, home, done):
    """With `--json` the last line of stderr is the error, for programs."""
    ended = cli("show", "nope", "--json", "--journal", str(home))
    error = json.loads(ended.err.strip().splitlines()[-1])["error"]
    assert (error["type"], error["exit_code"]) == ("UnknownThreadError", 2)
    assert "'nope'" in error["message"]
    assert ended.code == 2
    assert ended.out == ""
