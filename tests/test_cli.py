"""The command line: what it prints and what it exits with."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from support.command_line import AGENTS, COMMAND, cli, inside

from notebook_agents import errors
from notebook_agents.cli import data, exits
from notebook_agents.cli.app import app
from notebook_agents.cli.exits import App, UserCodeError, raised_by_us, short_traceback
from notebook_agents.model import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# -- help ------------------------------------------------------------------------------------------


def _commands(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Return a group's commands and those of the groups in it, by what one types."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[before + name] = command
        if isinstance(command, click.Group):
            found |= _commands(command, f"{before}{name} ")
    return found


@pytest.mark.parametrize("name", sorted(_commands(app)))
def test_every_command_says_what_it_does_and_shows_an_example(name: str) -> None:
    """The first line of help is one short sentence, and there is a command to copy."""
    command = _commands(app)[name]
    lines = inside(*name.split(), "--help").stdout.splitlines()
    assert re.fullmatch(r"  [A-Z].{10,60}\.", lines[2])
    example = next(
        number for number, line in enumerate(lines) if line.strip().startswith("Example")
    )
    assert lines[example + 1].startswith(f"    notebook-agents {name}")
    if not isinstance(command, click.Group):
        assert any("--json" in parameter.opts for parameter in command.params)


def test_the_help_lists_every_command_on_one_line_and_the_exit_codes() -> None:
    """The first page fits a terminal: no sentence is cut off."""
    said = inside("--help").stdout
    assert "..." not in said.partition("Options:")[2]
    assert all(len(line) <= 80 for line in said.splitlines())
    for code in (0, 1, 2, 3, 4, 5, 6, 130, 143):
        assert re.search(rf"\b{code}  \w", said)


@pytest.mark.parametrize(
    "command",
    ["show t", "list", "doctor", "fork t", "journal prune --keep 1", "key list", "key rotate"],
)
def test_the_help_documents_every_key_of_the_json(command: str, here: Path) -> None:
    """What `--json` writes is what its help says."""
    inside("run", "agents.py:research", "--input", '{"question": "?"}', "--thread", "t")
    written = json.loads(inside(*command.split(), "--json").stdout)
    documented = set(re.findall(r"\w+", inside(*command.split(), "--help").stdout))
    keys: set[str] = set()

    def collect(value: Any) -> None:
        if isinstance(value, list):
            for one in value:
                collect(one)
        elif isinstance(value, dict):
            keys.update(value)
            for name, one in value.items():
                if name != "value":
                    collect(one)

    collect(written)
    assert keys <= documented


def test_the_examples_of_the_help_work(here: Path) -> None:
    """Every example can be copied: it runs and exits with 0."""
    (here / "mypackage").mkdir()
    (here / "mypackage" / "__init__.py").touch()
    (here / "mypackage" / "agents.py").write_text(AGENTS)
    (here / "question.json").write_text('{"question": "?"}')
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": "1 + 1"}
    cell["execution_count"] = None
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (here / "analysis.ipynb").write_text(json.dumps(notebook))
    thread = ("--thread", "audit-calm-river-3f9a", "--new")
    for _ in range(2):
        assert inside("run", "agents.py:research", "--input", '{"n": 1}', *thread).exit_code == 0
    for other in ("monday", "last-years-audit"):
        cli("run", "agents.py:research", "--input", '{"n": 1}', "--thread", other)
    for name in sorted(_commands(app)):
        if name in ("demo", "resolve", "journal backup", "journal restore"):
            continue  # have tests of their own
        if name in ("key export", "key import", "key new", "key passphrase", "key remove"):
            continue  # so have these; they need a terminal, or other files
        for line in inside(*name.split(), "--help").stdout.splitlines():
            if line.startswith("    notebook-agents "):
                done = cli(*shlex.split(line)[1:])
                assert done.returncode == 0, f"{line}: {done.stderr}"


def test_help_and_list_load_nothing_that_they_do_not_use(here: Path) -> None:
    """Help is quick, and a list never waits for LangGraph or DuckDB."""
    inside("run", "agents.py:research", "--input", '{"question": "?"}')
    code = (
        "import sys; from click.testing import CliRunner; from notebook_agents.cli.app import app\n"
        "for words in (['--help'], ['list', '--json']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "    print(sorted({'rich', 'sqlite3', 'duckdb', 'langgraph', 'dill'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "['sqlite3']"], done.stderr


def test_fork_at_a_step_is_resumed_by_the_command_that_it_says(here: Path) -> None:
    """The ids of `show --json` are those that `fork --at` takes; only that step runs again."""
    (here / "free").touch()
    done = cli("run", "agents.py:slow", "--input", '{"question": "?"}', "--thread", "t", "--json")
    steps = {step["name"]: step["id"] for step in json.loads(done.stdout)["steps"]}
    said = cli("fork", "t", "--at", steps["second"], "--name", "u")
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("u is a fork of t; go on with it: notebook-agents resume u")
    assert (here / "ledger").read_text().split() == ["first", "second"]
    assert cli(*shlex.split(said.stdout.rpartition(": ")[2])[1:]).returncode == 0
    assert (here / "ledger").read_text().split() == ["first", "second", "second"]
    wrong = cli("fork", "t", "--at", "nope", "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stderr)["error"]["type"] == "UnknownThreadError"


# -- run, resume, show, list -----------------------------------------------------------------------


def test_run_shows_steps_as_they_come_and_the_timeline_at_the_end(here: Path) -> None:
    """Progress is on stderr, line by line; stdout has the result only."""
    (here / "free").touch()
    done = cli("run", "agents.py:slow", "--input", '{"question": "?"}', "--thread", "t")
    assert done.returncode == 0
    key, *said = done.stderr.splitlines()
    assert "made a master key" in key
    assert [line.partition(" · ")[0] for line in said] == [
        "run 1 of thread t",
        "▸ first",
        "▸   note",
        "✓   note",
        "✓ first",
        "▸ second",
        "▸   note",
        "✓   note",
        "✓ second",
    ]
    assert done.stdout.startswith("slow · thread t · run 1 · ✓ succeeded\n")
    assert "{'question': '?', 'done': ['first', 'second']}" in done.stdout


@pytest.mark.parametrize("given", ["argument", "file", "stdin"])
def test_input_comes_as_an_argument_a_file_or_stdin(given: str, here: Path) -> None:
    """Each way to give the input reaches the graph."""
    text = '{"question": "é?"}'
    (here / "input.json").write_text(text)
    word = {"argument": text, "file": "@input.json", "stdin": "-"}[given]
    done = cli("run", "agents:research", "--input", word, "--json", given=text)
    assert json.loads(done.stdout)["value"]["question"] == "é?"


def test_a_graph_is_run_under_its_own_name(here: Path) -> None:
    """A plain graph needs no Agent around it, and can be resumed like one."""
    done = inside("run", "agents.py:quick", "--input", '{"question": "?"}', "--json")
    assert json.loads(done.stdout)["agent"] == "quick"


def test_json_of_a_run_is_the_json_of_show(here: Path) -> None:
    """Programs read a run in one form."""
    ran = inside(
        "run", "agents.py:research", "--input", '{"question": "?"}', "--thread", "t", "--json"
    )
    shown = inside("show", "t", "--json")
    assert json.loads(ran.stdout) == json.loads(shown.stdout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z", json.loads(ran.stdout)["started"])


def test_a_finished_run_with_the_same_key_is_not_run_again(here: Path) -> None:
    """The stored answer is given, and said to be stored."""
    words = (
        "run",
        "agents.py:research",
        "--input",
        '{"question": "?"}',
        "--thread",
        "t",
        "--key",
        "k",
    )
    inside(*words)
    again = json.loads(inside(*words, "--json").stdout)
    assert again["stored"]
    assert (here / "ledger").read_text() == "first\n"
    assert json.loads(inside(*words, "--new", "--json").stdout)["run"] == 2


def test_a_failed_run_shows_the_nodes_traceback_and_how_to_go_on(here: Path) -> None:
    """Exit 1: the frames are the user's, the last line is ours, and resume ends the run."""
    done = cli("run", "agents.py:failing", "--input", '{"question": "?"}', "--thread", "t")
    assert done.returncode == 1
    *_, error, task, ours = done.stderr.splitlines()
    assert error == "ValueError: no [bold]report[/bold]"
    assert task.startswith("During task with name 'fail'")
    assert "File " in done.stderr
    assert set(re.findall(r'File "(.*?)"', done.stderr)) == {str(here / "agents.py")}
    assert ours.endswith("or resume it with: notebook-agents resume t")
    (here / "mended").touch()
    resumed = cli("resume", "t", "--json")
    assert resumed.returncode == 0
    assert json.loads(resumed.stdout)["steps_replayed"] == 1
    assert (here / "ledger").read_text() == "first\n"


def test_a_failed_run_with_json_is_an_error_object(here: Path) -> None:
    """A program reads the exception's type and our sentence in the last line of stderr."""
    done = cli("run", "agents.py:failing", "--input", '{"question": "?"}', "--json")
    told = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (told["type"], told["exit_code"], done.returncode) == ("ValueError", 1, 1)
    assert "notebook-agents resume failing-" in told["message"]


def test_a_run_that_waits_exits_with_3(here: Path) -> None:
    """A graph that asks a person is no failure, and says how it is answered."""
    done = inside("run", "agents.py:asking", "--input", '{"question": "?"}', "--thread", "t")
    assert done.exit_code == 3
    assert "notebook-agents resume t --answer JSON" in done.stdout


def test_resume_without_a_thread_takes_the_newest_that_can_be_resumed(here: Path) -> None:
    """One word goes on where things stopped; a second one finds nothing to do."""
    inside("run", "agents.py:failing", "--input", '{"question": "?"}', "--thread", "t")
    inside("run", "agents.py:research", "--input", '{"question": "?"}', "--thread", "done")
    (here / "mended").touch()
    assert json.loads(cli("resume", "--json").stdout)["thread"] == "t"
    assert cli("resume").returncode == 2


def test_a_file_elsewhere_is_resumed_as_the_message_says(here: Path, tmp_path: Path) -> None:
    """The command that a message gives works where it is read."""
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    (here / "agents.py").rename(elsewhere / "agents.py")
    target = f"{elsewhere}/agents.py:failing"
    done = cli("run", target, "--input", '{"question": "?"}', "--thread", "t")
    command = done.stderr.rpartition("resume it with: ")[2].strip()
    assert command == f"PYTHONPATH='{elsewhere}' notebook-agents resume t"
    (elsewhere / "mended").touch()
    bin_ = here / "bin"
    bin_.mkdir()
    script = bin_ / "notebook-agents"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(command, shell=True, env=os.environ | {"PATH": path}, capture_output=True)
    assert ran.returncode == 0, ran.stderr


def test_list_shows_every_thread_and_unfinished_only_what_can_be_resumed(here: Path) -> None:
    """A line a thread: name, agent, status, steps, age."""
    inside("run", "agents.py:research", "--input", '{"question": "?"}', "--thread", "good")
    inside("run", "agents.py:failing", "--input", '{"question": "?"}', "--thread", "bad")
    lines = inside("list").stdout.splitlines()
    assert lines[0].split() == ["thread", "agent", "status", "steps", "age", "notebook"]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["bad", "failing", "✗", "failed", "2"],
        ["good", "research", "✓", "succeeded", "2"],
    ]
    assert "thread bad" in inside("show").stdout.splitlines()[0]  # what was at work last
    unfinished = inside("list", "--unfinished").stdout.splitlines()[1:]
    assert [line.split()[0] for line in unfinished] == ["bad"]
    inside("run", "agents.py:research", "--input", '{"question": "?"}', "--journal", "other")
    assert inside("list", "--unfinished", "--journal", "other").stdout == "nothing to resume\n"


def test_show_says_why_a_step_ran_again(here: Path) -> None:
    """The timeline of an older run can be read without running anything."""
    inside("run", "agents.py:failing", "--input", '{"question": "?"}', "--thread", "t")
    assert "next: fix the cause" in inside("show", "t").stdout
    assert "\n  notebook-agents resume t\n" in inside("show", "t").stdout
    (here / "mended").touch()
    cli("resume", "t")
    shown = inside("show", "t", "--run", "1").stdout
    assert "failed in process 1: ValueError: no [bold]report[/bold]; run again" in shown
    assert "{'question': '?', 'done': ['first', 'mended']}" in shown


def test_an_agent_with_a_journal_of_its_own_is_not_moved(here: Path) -> None:
    """`--journal` that an agent would not follow is refused, not ignored."""
    with (here / "agents.py").open("a") as file:
        file.write("own = na.Agent(quick, journal=na.Journal.open('own'))\n")
    words = ("run", "agents.py:own", "--input", '{"n": 1}', "--journal")
    assert inside(*words, "own").exit_code == 0
    done = inside(*words, "other")
    assert done.exit_code == 2
    assert "leave --journal out" in done.stderr


def test_a_notebook_is_run_and_saved_beside_itself(here: Path) -> None:
    """Cells are told as they come; stdout has the path of the notebook with outputs."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "source": "20 + 22"}
    cell["execution_count"] = None
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (here / "some.ipynb").write_text(json.dumps(notebook))
    done = cli("run", "some.ipynb")
    assert done.stdout == f"{here / 'some.executed.ipynb'}\n"
    assert "▸ cell 1/1 20 + 22\n✓ cell 1/1 20 + 22 · " in done.stderr
    assert json.loads(cli("run", "some.ipynb", "--json").stdout)["cells"] == 1


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nope"], "`notebook-agents list` shows"),
        (["show", "t", "--run", "9"], "its newest run is 1"),
        (["resume", "nope"], "there is no thread 'nope'"),
        (["list", "--journal", "nowhere"], "run an agent there to make one"),
        (["run", "agents.py:nope"], "it could be "),
        (["run", "agents.py:number"], "was given a builtins.int"),
        (["run", "nope.py:x"], "there is no file nope.py"),
        (["run", "nomodule:x"], "there is no module 'nomodule'"),
        (["run", "nopackage.sub:x"], "there is no module 'nopackage.sub'"),
        (["run", "agents"], "write module:agent"),
        (["run", "json.py:x"], "give the file another name"),
        (["run", "agents.py:research", "--input", "{"], "is not JSON"),
        (["run", "agents.py:research", "--input", "@none.json"], "cannot be read"),
        (["run", "agents.py:research", "--input", '{"n": 2}', "--thread", "t"], "belongs to agent"),
        (["run", "agents.py:failing", "--input", "5"], "takes a dict"),
        (["run", "agents.py:failing", "--out", "x"], "--out means nothing for an agent"),
        (["run", "none.ipynb"], "there is no notebook"),
        (["run", "none.ipynb", "--thread", "t"], "--thread means nothing for a notebook"),
        (["demo", "--env", "none"], "is no Python and no environment"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_to_do(
    words: list[str], said: str, here: Path
) -> None:
    """One sentence, no traceback; with --json the same sentence in an object."""
    inside("run", "agents.py:quick", "--input", '{"n": 1}', "--thread", "t")
    (here / "json.py").touch()
    done = inside(*words)
    assert done.exit_code == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    told = json.loads(inside(*words, "--json").stderr.splitlines()[-1])["error"]
    assert told["exit_code"] == 2
    assert said in told["message"]


@pytest.mark.parametrize("command", ["list", "show", "resume"])
def test_reading_makes_no_journal(command: str, here: Path) -> None:
    """A command that only reads never leaves a journal behind."""
    done = inside(command, *(["t"] if command != "list" else []))
    assert done.exit_code == 2
    assert "there is no journal here" in done.stderr
    assert not (here / ".notebook_agents").exists()


def test_a_file_that_is_no_journal_exits_with_6(here: Path) -> None:
    """A foreign file is named, and left as it is."""
    (here / "junk").mkdir()
    (here / "junk" / "queue.sqlite").write_text("hello" * 100)
    done = inside("list", "--journal", "junk")
    assert done.exit_code == 6
    assert "is no journal" in done.stderr
    assert (here / "junk" / "queue.sqlite").read_text() == "hello" * 100


def test_a_missing_key_exits_with_6(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its key a journal's runs are not shown half."""
    inside("run", "agents.py:research", "--input", '{"n": 1}', "--thread", "t")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "elsewhere"))
    done = inside("show", "t")
    assert done.exit_code == 6
    assert "put the key file back" in done.stderr


@pytest.mark.parametrize(
    ("source", "error"), [("import nosuch", "ModuleNotFoundError"), ("def", "SyntaxError")]
)
def test_a_module_that_does_not_import_shows_its_own_error(
    source: str, error: str, here: Path
) -> None:
    """The user's module is at fault: its frames are shown, and none of the import system's."""
    (here / "broken.py").write_text(source)
    done = inside("run", "broken.py:agent")
    assert done.exit_code == 1
    assert error in done.stderr
    assert set(re.findall(r'File "(.*?)"', done.stderr)) == {str(here / "broken.py")}
    assert done.stderr.splitlines()[-1].startswith("notebook-agents: broken.py cannot be imported")


# -- exits -----------------------------------------------------------------------------------------


def every_error(
    base: type[errors.NotebookAgentsError],
) -> Iterator[type[errors.NotebookAgentsError]]:
    """Yield an error class of the errors module and all below it."""
    if base.__module__ == errors.__name__:
        yield base
        for kind in base.__subclasses__():
            yield from every_error(kind)


SENTENCES = [
    each for each in every_error(errors.NotebookAgentsError) if "__str__" not in vars(each)
]
"""Those that say what they are given; the others make a sentence of parts."""


@pytest.mark.parametrize("kind", SENTENCES)
def test_every_error_exits_with_its_own_code(kind: type[errors.NotebookAgentsError]) -> None:
    """The code stands at the error, and nowhere else."""

    @click.group(cls=App)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise kind("it went wrong: mend it")

    done = CliRunner().invoke(group, ["fail"])
    assert done.exit_code == kind.exit_code
    assert done.stderr == "notebook-agents: it went wrong: mend it\n"


@pytest.mark.parametrize("status", list(RunStatus))
def test_every_status_that_a_command_can_end_in_has_a_code(status: RunStatus) -> None:
    """No status is without an exit code, and only success is 0."""
    if status in (RunStatus.PENDING, RunStatus.RUNNING):
        return
    assert (exits.STATUS_CODES[status] == 0) == (status is RunStatus.SUCCEEDED)


def test_a_bug_of_ours_passes_with_its_traceback() -> None:
    """What nobody raised on purpose is not turned into a sentence."""

    @click.group(cls=App)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise KeyError("bug")

    done = CliRunner().invoke(group, ["fail"])
    assert isinstance(done.exception, KeyError)
    assert done.stderr == ""


def test_an_error_is_ours_where_our_code_raised_it() -> None:
    """Whose error it was is told by the frame that raised it."""
    with pytest.raises(AttributeError) as ours:
        data.iso("no moment")  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError) as theirs:
        _ = 1 / 0
    assert raised_by_us(ours.value)
    assert not raised_by_us(theirs.value)


def test_a_traceback_keeps_the_cause_and_drops_our_frames() -> None:
    """A chained error is shown whole, from the user's frames on."""

    def node() -> None:
        try:
            data.iso("no moment")  # type: ignore[arg-type]
        except AttributeError as error:
            raise UserCodeError("outer") from error

    with pytest.raises(UserCodeError) as raised:
        node()
    text = short_traceback(raised.value)
    assert text.index("AttributeError: ") < text.index("UserCodeError: outer")
    assert "direct cause" in text
