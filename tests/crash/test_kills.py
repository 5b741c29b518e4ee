"""Runs survive: every fault point, random moments, and every process at the same instant.

`python -m tests.crash N` does the same for as long as one likes, and with LangGraph alone beside
it. A failure names the trial; `--seed` and `--only` repeat it.
"""

from __future__ import annotations

import itertools
import os
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import pytest

from notebook_agents import ids
from notebook_agents.faults import Fault
from notebook_agents.journal import Journal
from notebook_agents.model import Kind

from . import arms, beside
from .catalogue import SHAPES
from .trial import Action, Armed, Plan, Tally, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from notebook_agents.journal import Draft

pytestmark = pytest.mark.crash

SEED = int(os.environ.get("CRASH_SEED") or SystemRandom().randrange(2**32))
SHAPES_AT_FAULTS = {
    Action.KILL: ("sequential", "async", "fan-out", "nested"),
    Action.TERMINATE: ("sequential", "fan-out"),
    Action.RAISE: ("async", "retried", "routed"),
}
HITS = (1, 2)
"""The suite disturbs these passages of a fault point in these shapes; a long run all."""
RANDOM_KILLS = 9
"""For each shape. With those at the fault points and those at one instant more than 300."""
TOGETHER_KILLS = 40
INTERRUPTED_TRIALS = 2


def _run(names: Iterable[str], *, kills: int | None = None) -> Tally:
    """Run trials, until `kills` processes have died if that is given; stop at a broken promise."""
    tally = Tally()
    for name in names:
        tally.add(arms.run_trial(name, SEED))
        repeats = f"python -m tests.crash --seed {SEED} --only {name}"
        assert not tally.violations, "\n".join([f"{repeats} repeats this:", *tally.violations])
        if kills is not None and tally.killed >= kills:
            break
    assert tally.trials
    return tally


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("fault", Fault)
def test_a_run_survives_every_fault_point(fault: Fault, action: Action) -> None:
    """Whatever happens at a durable edge, no record is lost and no returned step runs again."""
    points = {f"{fault}@{hit}" for hit in HITS}
    names = [
        name
        for shape in SHAPES_AT_FAULTS[action]
        for name in arms.fault_trials(shape)
        if name.split("/")[2] in points and name.endswith(f"/{action}")
    ]
    tally = _run(names)
    if action is Action.KILL:
        assert tally.killed >= len(names)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_survives_kills_at_random_moments(shape: str) -> None:
    """SIGKILL from outside, whenever it comes, also while a killed run is being resumed."""
    _run((f"random/{shape}/{number}" for number in itertools.count()), kills=RANDOM_KILLS)


def test_every_process_of_a_journal_dies_at_the_same_instant() -> None:
    """What several processes were told is in their one journal when none of them is left."""
    _run((f"together/{number}" for number in itertools.count()), kills=TOGETHER_KILLS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_can_be_stopped_anywhere(shape: str) -> None:
    """After a Ctrl-C, wherever Python raises it, the run goes on, there or in another process."""
    _run(f"interrupt/{shape}/{number}" for number in range(INTERRUPTED_TRIALS))


def test_the_same_kill_that_repeats_a_step_of_langgraph_alone_repeats_none_here() -> None:
    """Killed as the saver gets the checkpoint behind a step, a run does not repeat that step."""
    found = beside.journaled(runs=10)
    assert (found.returned_twice, found.wrong) == (0, 0)


def _without_results(write: Callable[..., Any]) -> Callable[..., Any]:
    """Return an append that says it recorded a result, and did not."""

    def append(journal: Journal, drafts: Sequence[Draft], **options: Any) -> Any:
        kept = [draft for draft in drafts if draft.kind is not Kind.STEP_RETURNED]
        return write(journal, kept, **options)

    return append


def _forget_results() -> None:
    for method in ("append", "append_async"):
        setattr(Journal, method, _without_results(getattr(Journal, method)))


def _hold_results_back() -> None:
    """Keep results in memory until the next append: a queue that dies with its process."""
    write = Journal.append

    def append(journal: Journal, drafts: Sequence[Draft], *, durable: bool) -> None:
        if any(draft.kind is Kind.STEP_RETURNED for draft in drafts):
            journal.stage(drafts)
        else:
            write(journal, drafts, durable=durable)

    async def append_async(journal: Journal, drafts: Sequence[Draft], *, durable: bool) -> None:
        append(journal, drafts, durable=durable)

    Journal.append, Journal.append_async = append, append_async  # type: ignore[method-assign]


def _make_keys_of_the_process() -> None:
    """Derive idempotency keys from what another process does not have."""
    ids.idempotency_key = lambda step: f"na-{os.getpid()}-{step}"  # type: ignore[assignment]


SABOTAGE = {
    "results are not recorded": (_forget_results, "it had returned"),
    "results wait in memory": (_hold_results_back, "it had returned"),
    "keys are not the step's": (_make_keys_of_the_process, "had 2 keys"),
}


@pytest.mark.parametrize(("sabotage", "said"), SABOTAGE.values(), ids=SABOTAGE.keys())
def test_the_harness_notices_when(sabotage: Callable[[], None], said: str, tmp_path: Path) -> None:
    """A runtime that is broken on purpose, in the children only, does not pass for a whole one."""
    trial = Trial("sabotaged", SHAPES["sequential"], tmp_path, before=sabotage)
    # Behind an acknowledged call, inside its node: both the node and its calls are at stake.
    armed = Armed(fault=Fault.INTENT_BEFORE, hit=4, action=Action.KILL)
    tally = trial.play([Plan(armed=armed)])
    assert any(said in violation for violation in tally.violations), tally.violations
