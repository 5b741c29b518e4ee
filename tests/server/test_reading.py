"""What the server tells of journals, conversations, runs and steps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import nbformat
from support.shells import Shell

import notebook_agents as na

from .agents import MARKUP, add, ask, both, chained, die, fail, look
from .served import named

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .served import Served


def many(journal: na.Journal, count: int) -> None:
    """Run an agent on threads t0, t1 and so on."""
    agent = na.Agent(chained(add), "counter", journal)
    for number in range(count):
        agent.run({"n": number}, thread=f"t{number}")


def test_pages_search_and_counts(server: Served, journal: na.Journal, where: str) -> None:
    """Pages have every conversation, the newest first, and counts have all that match."""
    many(journal, 5)
    na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="who")
    first = server.ask("threads", journal=where, limit=4)
    second = server.ask("threads", journal=where, limit=4, after=first["next"])
    names = [row["thread"] for page in (first, second) for row in page["threads"]]
    assert names == ["who", "t4", "t3", "t2", "t1", "t0"]
    assert first["counts"] == {"succeeded": 5, "waiting": 1}
    assert first["total"] == 6 and second["next"] is None
    waiting = server.ask("threads", journal=where, status="waiting,failed")
    assert [row["thread"] for row in waiting["threads"]] == ["who"]
    assert waiting["counts"] == first["counts"], "counts are of all statuses"
    found = server.ask("threads", journal=where, search="ASKER")
    assert [row["thread"] for row in found["threads"]] == ["who"]


def test_a_notebooks_variables_are_listed_and_are_no_conversation(
    server: Served, folder: Path, home: Path, where: str
) -> None:
    """The newest first, with what each cell changed; names from a hostile cell are text."""
    with Shell(folder, "b.ipynb", {"NOTEBOOK_AGENTS_HOME": str(home)}) as shell:
        shell.run("import notebook_agents as na\nx = [1]\nnumber = na.snapshot()")
        shell.run("# <script>\nglobals()['<b>'] = 1\nx.append(2)\nna.snapshot()")
    of = f"{folder.name}/b.ipynb"
    told = server.ask("variables", of=of, journal=where)
    newest, oldest = told["snapshots"]
    assert (newest["number"], oldest["number"], newest["cell"]) == (2, 1, 2)
    assert "x" in oldest["changed"] and {"<b>", "x"} <= set(newest["changed"])
    assert newest["line"] == "# <script>"
    assert server.ask("threads", journal=where)["threads"] == []
    nothing = server.ask("variables", of=f"{folder.name}/c.ipynb", journal=where)
    assert nothing == {"thread": None, "snapshots": []}


def test_a_page_goes_on_where_it_ended_whatever_moved(
    server: Served, journal: na.Journal, where: str
) -> None:
    """None is left out that was older than the end of the page before, also if that one moved."""
    many(journal, 4)
    first = server.ask("threads", journal=where, limit=2)
    na.Agent(chained(add), "counter", journal).run({"n": 9}, thread="t2", new=True)
    second = server.ask("threads", journal=where, limit=2, after=first["next"])
    assert [row["thread"] for row in second["threads"]] == ["t1", "t0"]


def test_conversations_of_a_notebook(
    server: Served,
    journal: na.Journal,
    folder: Path,
    where: str,
    cell: Callable[..., None],
) -> None:
    """A notebook is named by its contents path, and is what conversations are filtered by."""
    cell("c1", str(folder / "trip.ipynb"))
    many(journal, 1)
    contents = f"{folder.name}/trip.ipynb"
    page = server.ask("threads", notebook=contents, started_in=contents)
    assert [row["notebook"] for row in page["threads"]] == [contents]
    other = server.ask("threads", notebook=contents, started_in=f"{folder.name}/other.ipynb")
    assert other["threads"] == []


def test_a_run_is_what_the_component_takes(
    server: Served, journal: na.Journal, home: Path, where: str
) -> None:
    """The server's state is `run_state`'s, with previews of arguments and results."""
    na.Agent(chained(add, look), "looker", journal).run({"n": 0}, thread="t")
    state = server.ask("threads/t/runs/newest", journal=where)
    assert state["thread"] == "t" and state["status"] == "succeeded"
    assert state["journal"] == str(home)
    steps = {step["name"]: step for step in state["steps"]}
    assert steps["looked_up"]["args"] == "'hello'"
    assert "'letters': 5" in steps["looked_up"]["result"]
    assert steps["looked_up"]["parent"] == steps["look"]["id"]
    assert server.ask("threads/t/runs/1", journal=where) == state
    told = server.ask("threads/t", journal=where)
    assert [run["run"] for run in told["runs"]] == [1]


def test_a_question_is_told(server: Served, journal: na.Journal, where: str) -> None:
    """What a run asks is in its state."""
    na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="t")
    (asked,) = server.ask("threads/t/runs/newest", journal=where)["interrupts"]
    assert asked["value"] == {"question": f"how many? {MARKUP}"}


def test_details_of_a_step(server: Served, journal: na.Journal, where: str) -> None:
    """A step has its arguments, its result, and the state before and after, as JSON."""
    na.Agent(chained(add, look), "looker", journal).run({"n": 0}, thread="t")
    steps = {s["name"]: s for s in server.ask("threads/t/runs/1", journal=where)["steps"]}
    node = server.ask(f"threads/t/steps/{steps['add']['id']}", journal=where)
    assert json.loads(node["result"]["text"]) == {"n": 1, "log": ["added"]}
    assert json.loads(node["before"]["channels"]["n"]["text"]) == 0
    assert json.loads(node["after"]["channels"]["n"]["text"]) == 1
    assert json.loads(node["after"]["channels"]["log"]["text"]) == ["added"]
    call = server.ask(f"threads/t/steps/{steps['looked_up']['id']}", journal=where, run=1)
    assert call["args"]["text"] == "'hello'"
    assert json.loads(call["result"]["text"]) == {"word": "hello", "letters": 5}
    assert json.loads(call["before"]["channels"]["log"]["text"]) == ["added"]
    assert call["step"]["key"].startswith("na-")
    kept = server.ask(f"threads/t/steps/{steps['both']['id']}", journal=where)["result"]
    assert kept["kind"] == "pickle" and "tuple" in kept["text"], both


def test_messages_are_told_as_plain_data(server: Served, journal: na.Journal, where: str) -> None:
    """A state's messages are shown with their fields; nothing is constructed for it."""
    from langchain_core.messages import AIMessage

    def say(state: object) -> dict[str, object]:
        return {"said": [AIMessage("hello", id="m1")]}

    na.Agent(chained(say), "sayer", journal).run({"n": 0}, thread="t")
    (step,) = server.ask("threads/t/runs/1", journal=where)["steps"]
    found = server.ask(f"threads/t/steps/{step['id']}", journal=where)
    (message,) = json.loads(found["after"]["channels"]["said"]["text"])
    assert message["@type"].endswith(".AIMessage") and message["content"] == "hello"


def test_large_values_are_cut(server: Served, journal: na.Journal, where: str) -> None:
    """What is long is cut and says so; what is huge is not read."""

    def much(state: object) -> dict[str, object]:
        return {"said": ["x" * 100] * 5_000}

    def huge(state: object) -> dict[str, object]:
        return {"said": os.urandom(20_000_000)}

    na.Agent(chained(much, huge), "much", journal).run({"n": 0}, thread="t")
    steps = {s["name"]: s for s in server.ask("threads/t/runs/1", journal=where)["steps"]}
    found = server.ask(f"threads/t/steps/{steps['much']['id']}", journal=where)
    assert found["result"]["cut"] and len(found["result"]["text"]) < 21_000
    assert found["after"]["channels"]["said"]["cut"]
    assert found["result"]["size"] > 500_000
    found = server.ask(f"threads/t/steps/{steps['huge']['id']}", journal=where)
    assert "too large" in found["result"]["text"]
    assert found["after"] is None and "larger than" in found["state_error"]


def test_reading_while_a_process_writes_and_after_its_death(
    server: Served, home: Path, where: str, dies: Callable[[Callable[[], object]], None]
) -> None:
    """A killed driver's run is orphaned, and what returned before is told."""

    def body() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chained(add, die), "dying", journal).run({"n": 0}, thread="t")

    dies(body)
    (row,) = server.ask("threads", journal=where)["threads"]
    assert row["status"] == "orphaned" and row["returned"] == 1
    assert row["driver"]["alive"] is False
    state = server.ask("threads/t/runs/newest", journal=where)
    assert [step["state"] for step in state["steps"]] == ["returned", "uncertain"]


def test_records_in_duckdb_are_read(server: Served, journal: na.Journal, where: str) -> None:
    """What left the queue is read from DuckDB, in a burst, while this process has it open."""
    na.Agent(chained(add, look), "looker", journal).run({"n": 0}, thread="t")
    before = server.ask("threads/t/runs/1", journal=where)
    journal.ingest()
    assert server.ask("threads/t/runs/1", journal=where) == before


def test_sizes_and_health(server: Served, journal: na.Journal, where: str) -> None:
    """A journal that is well has four good checks; its files are counted."""
    many(journal, 1)
    found = server.ask("health", journal=where)
    assert found["ok"] and [check["name"] for check in found["checks"]] == [
        "journal",
        "lock",
        "backlog",
        "disk",
    ]
    size = server.ask("journal/size", journal=where)
    assert size["files"]["queue"] > 0 and size["bytes"] == sum(size["files"].values())
    assert size["threads"] == 1


def test_unknown_names(server: Served, journal: na.Journal, where: str) -> None:
    """What is not there is named by its code."""
    na.Agent(chained(fail), "failing", journal)
    many(journal, 1)
    for path, code in (
        ("threads/none", "unknown_thread"),
        ("threads/none/runs/1", "unknown_thread"),
        ("threads/t0/runs/7", "unknown_run"),
        ("threads/t0/steps/none", "unknown_step"),
    ):
        assert server.ask(path, journal=where, expect=404)["code"] == code


def test_names_of_every_kind(server: Served, journal: na.Journal, where: str) -> None:
    """A thread's name may have what is special in a path."""
    agent = na.Agent(chained(add), "counter", journal)
    for name in ("a/b", "ü ?#%2F&", "../../etc", "x" * 300):
        agent.run({"n": 0}, thread=name)
        assert server.ask(f"threads/{named(name)}", journal=where)["thread"]["thread"] == name


def test_journals_that_are_known(server: Served, folder: Path, journal: na.Journal) -> None:
    """A notebook with a session is told with its journal."""
    many(journal, 1)
    contents = f"{folder.name}/open.ipynb"
    body = json.dumps({"path": contents, "name": "open", "type": "notebook", "kernel": {}})
    made = server.raw("POST", "api/sessions", body=body.encode())
    assert made.status == 201, made.body
    try:
        found = server.ask("journals")["journals"]
        (one,) = [one for one in found if contents in one["notebooks"]]
        assert one["path"] == f"{folder.name}/.notebook_agents" and one["usable"]
    finally:
        server.raw("DELETE", f"api/sessions/{made.json['id']}")


def test_the_server_loads_no_langgraph_and_the_package_no_server(
    python: Callable[..., object],
) -> None:
    """Importing the package imports no Jupyter; loading the extension loads no LangGraph."""
    done = python(
        "import sys, notebook_agents, notebook_agents.server\n"
        "assert 'jupyter_server' not in sys.modules and 'tornado' not in sys.modules\n"
        "import notebook_agents.server.handlers, notebook_agents.server.service\n"
        "assert 'langgraph' not in sys.modules and 'duckdb' not in sys.modules\n"
    )
    assert done.code == 0, done.err  # type: ignore[attr-defined]


def test_a_notebook_that_ran_headless_is_told(
    server: Served, folder: Path, home: Path, where: str
) -> None:
    """Its cells are steps, with what is recorded of them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
    nbformat.write(notebook, folder / "plain.ipynb")
    na.run_notebook(folder / "plain.ipynb", journal=home)
    (row,) = server.ask("threads", journal=where)["threads"]
    assert row["is_notebook"] and row["notebook"] == f"{folder.name}/plain.ipynb"
    (step,) = server.ask(f"threads/{named(row['thread'])}/runs/1", journal=where)["steps"]
    assert step["state"] == "returned" and step["args"] is None
    found = server.ask(f"threads/{named(row['thread'])}/steps/{step['id']}", journal=where)
    assert "42" in found["result"]["text"]
    told = server.ask(f"threads/{named(row['thread'])}/fork", "POST", journal=where, expect=404)
    assert told["code"] == "unknown_thread"


def test_a_plain_graph_is_told(server: Served, journal: na.Journal, where: str) -> None:
    """A thread of LangGraph alone has no runs, and that is said."""
    graph = chained(add).compile(checkpointer=na.JournalSaver(journal))
    graph.invoke({"n": 0}, {"configurable": {"thread_id": "plain"}})
    (row,) = server.ask("threads", journal=where)["threads"]
    assert row["agent"] is None and row["run"] == 0
    assert server.ask("threads/plain", journal=where)["runs"] == []
    told = server.ask("threads/plain/runs/newest", journal=where, expect=404)
    assert told["code"] == "unknown_run"
    stream = server.stream(journal=where, thread="plain")
    stream.until("threads")
    stream.close()
