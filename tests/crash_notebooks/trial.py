"""One trial: a notebook is run and killed until it comes to its end, then judged.

The reference is a run of the same notebook that nobody disturbed. Effects are counted outside:
`ledger.jsonl`, to which a notebook's steps append a line with their idempotency key, and the
requests that a server outside of all kernels got from the notebook that asks a model.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from support.examples import FAST, ShopModel

from notebook_agents.journal import Journal
from notebook_agents.model import NOTEBOOK, RunStatus
from notebook_agents.runtime.view import run_view

from .outputs import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

VICTIMS = ("kernel", "runner", "both")
SECONDS = 600.0
"""After this a run counts as hung."""
ASKS = "02_chat_with_tools.ipynb"
"""Asks a model: it gets one that outlives what is killed."""
_MOST_KILLS = 3
_LOOK_SECONDS = 0.01
_RUNNER = """
import json, sys
from notebook_agents.notebook.headless import run_notebook

def note(pid):
    with open("kernels", "a") as file:
        file.write(f"{pid}\\n")

notebook, parameters = sys.argv[1], json.loads(sys.argv[2])
result = run_notebook(
    notebook, parameters, out="out.ipynb", cwd=".", restarts=100, on_kernel=note
)
print(json.dumps({"skipped": result.skipped, "restarts": result.restarts, "notes": result.notes}))
"""


@dataclass(kw_only=True)
class Tally:
    """What was done and found, over all trials."""

    trials: int = 0
    runs: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    restarts: int = 0
    effects: int = 0
    repeated: int = 0
    asked: int = 0
    asked_again: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many SIGKILLs were sent."""
        return self.killed["kernel"] + self.killed["runner"] + 2 * self.killed["both"]

    def add(self, other: Tally) -> None:
        """Add another tally."""
        self.trials += other.trials
        self.runs += other.runs
        self.killed += other.killed
        self.skipped += other.skipped
        self.restarts += other.restarts
        self.effects += other.effects
        self.repeated += other.repeated
        self.asked += other.asked
        self.asked_again += other.asked_again
        self.violations += other.violations


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an undisturbed run of a notebook showed and did.

    Attributes:
        seconds: How long it took.
        shown: What its cells show.
        keys: How many effects it had.
        asked: How many replies of a model it asked for.
    """

    seconds: float
    shown: list[str]
    keys: int
    asked: int = 0


@dataclass(kw_only=True)
class Outside:
    """What a notebook runs with and cannot take with it when it dies.

    Attributes:
        notebook: What runs.
        folder: Where it runs.
        parameters: What its cell tagged `parameters` says otherwise.
        model: What it asks for replies, if it does.
        runner: The process that was started last.
    """

    notebook: Path
    folder: Path
    parameters: dict[str, Any] = field(default_factory=dict)
    model: ShopModel | None = None
    runner: subprocess.Popen[str] | None = None

    @classmethod
    @contextmanager
    def of(cls, notebook: Path, folder: Path) -> Iterator[Outside]:
        """Have it there for the time of a trial; nothing runs any more behind it."""
        with ExitStack() as stack:
            outside = cls(notebook=notebook, folder=folder)
            if notebook.name == ASKS:
                outside.model = model = stack.enter_context(ShopModel())
                outside.parameters |= {**FAST[ASKS], "BASE_URL": f"{model.url}/v1", "SECONDS": 0.5}
            stack.callback(lambda: outside.runner and outside.runner.kill())
            yield outside

    def start(self) -> subprocess.Popen[str]:
        """Start what runs the notebook, or goes on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "NOTEBOOK_AGENTS_HOME": str(self.folder / "journal"),
            "OPENAI_API_KEY": "sk-test",
            "PYTHONWARNINGS": "ignore",
        }
        self.runner = subprocess.Popen(
            [sys.executable, "-c", _RUNNER, str(self.notebook), json.dumps(self.parameters)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.runner

    def ledger(self) -> Counter[str]:
        """Return how often each idempotency key reached the outside."""
        path = self.folder / "ledger.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter(json.loads(line)["key"] for line in lines)

    def asked(self) -> Counter[str]:
        """Return how often each conversation was sent to the model."""
        calls = self.model.model_calls if self.model else []
        return Counter(call.conversation for call in calls)


def undisturbed(notebook: Path, folder: Path) -> Reference:
    """Run a notebook once to its end.

    Raises:
        RuntimeError: It fails also where nobody disturbs it.
    """
    began = time.monotonic()
    with Outside.of(notebook, folder) as outside:
        _, errors = (runner := outside.start()).communicate(timeout=SECONDS)
    if runner.returncode:
        raise RuntimeError(f"{notebook.name} fails undisturbed: {errors.strip()[-2000:]}")
    return Reference(
        seconds=time.monotonic() - began,
        shown=shown(folder / "out.ipynb", folder),
        keys=len(outside.ledger()),
        asked=len(outside.asked()),
    )


def run_trial(name: str, notebook: Path, folder: Path, seed: int, reference: Reference) -> Tally:
    """Run a notebook, kill at moments that follow from `seed` and `name`, and judge the end."""
    tally = Tally(trials=1)
    with Outside.of(notebook, folder) as outside:
        runner = _disturbed(outside, Random(f"{seed}/{name}"), reference, tally)
        out, errors = runner.communicate(timeout=SECONDS)
    if runner.returncode:
        tally.violations.append(f"{name}: it failed: {errors.strip()[-2000:]}")
        return tally
    told = json.loads(out)
    tally.skipped, tally.restarts = told["skipped"], told["restarts"]
    tally.violations += [f"{name}: {problem}" for problem in _judge(outside, reference, tally)]
    return tally


def _disturbed(
    outside: Outside, random: Random, reference: Reference, tally: Tally
) -> subprocess.Popen[str]:
    """Run and kill; return the run that nobody will kill any more."""
    runner = None
    for _ in range(random.randint(1, _MOST_KILLS)):
        if runner is None or runner.poll() is not None:
            runner = outside.start()
            tally.runs += 1
        victim = random.choice(VICTIMS)
        moment = random.uniform(0.0, reference.seconds)
        if _kill(runner, outside.folder, victim, moment):
            tally.killed[victim] += 1
        if runner.poll() == 0:
            break  # it was faster
    if runner is None or runner.poll():
        runner = outside.start()
        tally.runs += 1
    return runner


def _kill(runner: subprocess.Popen[str], folder: Path, victim: str, moment: float) -> bool:
    """Wait so many seconds, then kill; return whether it still ran."""
    try:
        runner.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        pass
    else:
        return False
    while victim != "runner" and (kernel := _kernel(folder, runner)) is None:
        if runner.poll() is not None:
            return False
        time.sleep(_LOOK_SECONDS)
    if victim != "kernel":
        os.kill(runner.pid, signal.SIGKILL)
    if victim != "runner":
        assert kernel is not None
        try:
            os.kill(kernel, signal.SIGKILL)
        except ProcessLookupError:
            return False
    if victim != "kernel":
        runner.communicate()
    return True


def _kernel(folder: Path, runner: subprocess.Popen[str]) -> int | None:
    """Return the id of a runner's living kernel, or None while there is none."""
    try:
        pid = int((folder / "kernels").read_text().split()[-1])
        stat = _stat(pid)
    except (OSError, IndexError):
        return None
    return pid if stat[0] not in "ZX" and int(stat[1]) == runner.pid else None


def _stat(pid: int) -> list[str]:
    """Return a process's state and its parent's id."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]


def _judge(outside: Outside, reference: Reference, tally: Tally) -> Iterator[str]:
    folder = outside.folder
    now = shown(folder / "out.ipynb", folder)
    for number, (was, is_) in enumerate(zip(reference.shown, now, strict=True), 1):
        if was != is_:
            yield f"code cell {number} shows\n{is_}\nand undisturbed\n{was}"
    ledger, asked = outside.ledger(), outside.asked()
    tally.effects = len(ledger)
    tally.repeated = sum(count > 1 for count in ledger.values())
    tally.asked = len(asked)
    tally.asked_again = asked.total() - len(asked)
    if len(asked) != reference.asked:
        yield f"{len(asked)} replies were asked for, and {reference.asked} undisturbed"
    if len(ledger) != reference.keys:
        yield f"there were {len(ledger)} effects, and {reference.keys} undisturbed"
    attempts: dict[str, int] = {}
    again = 0
    with Journal.open(folder / "journal", create=False) as journal:
        for info in journal.threads():
            if info.status is not RunStatus.SUCCEEDED:
                yield f"thread {info.thread} is {info.status}"
            if info.agent == NOTEBOOK:
                continue
            for number in range(1, info.run + 1):
                for step in run_view(journal, info.thread, number).steps:
                    attempts[step.key] = len(step.attempts) if step.was_in_doubt else 1
                    again += attempts[step.key] - 1
    for key, count in ledger.items():
        if count > attempts.get(key, 0):
            yield f"the effect {key} happened {count} times, in {attempts.get(key, 0)} attempts"
    if tally.asked_again > again:
        yield f"{tally.asked_again} replies were asked for again, and {again} steps in doubt run"
