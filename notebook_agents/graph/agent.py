"""`Agent`: a graph whose runs survive the death of their process."""

from __future__ import annotations

import copy
import hashlib
import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from langgraph.types import Command

from notebook_agents import ids
from notebook_agents.errors import (
    InputError,
    RunUnfinishedError,
    UnknownThreadError,
    WrongAgentError,
)
from notebook_agents.graph import definition, inputs, people
from notebook_agents.graph.changes import changed, check_nodes, fingerprints
from notebook_agents.graph.drive import Drive
from notebook_agents.graph.folder import default_journal
from notebook_agents.graph.fork import origins
from notebook_agents.graph.plan import Asked, Plan, kept_config, read_parts, run_config
from notebook_agents.graph.private import schema_types
from notebook_agents.graph.requests import listen
from notebook_agents.graph.run import Run
from notebook_agents.graph.stream import RunStream, leave
from notebook_agents.graph.threads import Thread
from notebook_agents.graph.wrap import message_channels, with_message_ids
from notebook_agents.journal import Claim, Journal, Record, expiry
from notebook_agents.model import Kind, RunStatus
from notebook_agents.runtime import leaving, showing
from notebook_agents.runtime.digests import digest
from notebook_agents.runtime.origin import Origin, here
from notebook_agents.saying import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from langchain_core.runnables import RunnableConfig
    from langgraph.graph import StateGraph
    from langgraph.types import StreamMode

    from notebook_agents.graph.usage import Prices
    from notebook_agents.graph.wrap import Graph
    from notebook_agents.journal.queue import Head

_live: weakref.WeakValueDictionary[str, Agent] = weakref.WeakValueDictionary()


class Agent:
    """A LangGraph graph whose runs are journaled, step by step.

    Args:
        graph: A StateGraph, a compiled graph (`create_agent`'s too), or an `@entrypoint`. It is not
            changed; a checkpointer of its own is not used.
        name: The agent's name; threads belong to it. None: the graph's.
        journal: Where its runs are recorded. None: the journal of this folder, see `Journal.open`.
        allow: Types of one's own that the state may hold and its schema does not declare.
        prices: What models cost, where their providers do not report it: US dollars for a million
            input tokens and for a million output tokens, by model name. Kept for a resume.
        auto_resume: How often a run whose process died is resumed by itself, in a worker thread,
            when the agent is made; see `resume_all`. None: as NOTEBOOK_AGENTS_AUTO_RESUME says.
        show: Whether a notebook shows its runs while they work. None: unless
            NOTEBOOK_AGENTS_TIMELINE is "off".
        ttl: How long after its last record a thread of this name's agents is deleted if its newest
            run succeeded or was cancelled; while this process idles, and at close. None: as
            NOTEBOOK_AGENTS_TTL says, else never.

    Raises:
        DefinitionError: `graph` is no graph.
    """

    def __init__(
        self,
        graph: StateGraph[Any, Any, Any, Any] | Graph,
        name: str | None = None,
        journal: Journal | None = None,
        *,
        allow: Iterable[tuple[str, ...] | type] = (),
        prices: Prices | None = None,
        auto_resume: int | None = None,
        show: bool | None = None,
        ttl: timedelta | None = None,
    ) -> None:
        self.given = graph
        self.prices = prices
        self.graph = definition.compiled(graph)
        self.name = name or (self.graph.name if self.graph.name != "LangGraph" else "agent")
        self.allow = tuple(allow)
        self.show = show
        self.ttl = ttl if ttl is None else expiry.checked(ttl, self.name)
        self._journal = journal and self._kept_in(journal)
        self._module = str(sys._getframe(1).f_globals.get("__name__", "__main__"))
        _live[self.name] = self
        if auto_resume != 0:
            from notebook_agents.graph import recovery  # it resumes agents

            recovery.begin(self, auto_resume)

    @property
    def journal(self) -> Journal:
        """The journal that this agent's runs are recorded in."""
        if self._journal is None:
            self._journal = self._kept_in(default_journal())
        return self._journal

    def _kept_in(self, journal: Journal) -> Journal:
        if self.ttl is not None:
            journal.expiry.of(self.name, self.ttl)
        return journal

    def run(
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        *,
        thread: str | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        key: str | None = None,
        new: bool = False,
    ) -> Run:
        """Run the graph, or go on with the run that this input began.

        Args:
            input: The graph's input, or a `Command(resume=...)` that answers a waiting run.
            thread: The conversation's name. None: a name that this cell, `key` and input always
                give (with neither cell nor key: this input, until its run is finished); it is said.
            config: LangGraph's config. Tags, metadata, `configurable` and the recursion limit are
                kept for a resume, callbacks are not.
            context: The graph's runtime context; kept for a resume.
            key: Stands for this request: a finished run with the same key and input is not run
                again. In a notebook the cell does as much.
            new: Start a new run in any case.

        Returns:
            The run: succeeded, waiting for a person, or in doubt.

        Raises:
            RunUnfinishedError: The thread's newest run is unfinished and had other input.
            WrongAgentError: The thread is another agent's.
            ThreadBusyError: Another process drives the thread.
            DefinitionError: The graph could not be rebuilt by a resume; what and why is said.
            InputError: The graph cannot take the input.
            Exception: What a node raised; the run is failed and can be resumed.
        """
        asked = self._asked(input, thread, key, new=new)
        leaving.wait_for(self.journal.id, asked.thread)
        with self.journal.reading():
            plan = self._plan(asked, config, context, key, new=new)
            drive = self._drive(plan)
        if drive is not None:
            drive.invoke(plan.given, plan.config or {}, plan.context)
        return self._run(plan)

    async def arun(
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        *,
        thread: str | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        key: str | None = None,
        new: bool = False,
    ) -> Run:
        """Do as `run` on the running event loop.

        Cancelling the task that awaits it puts the run down. Sync nodes that run in worker threads
        are left behind: what they return is recorded, and the last of them gives the thread back.
        """
        asked = self._asked(input, thread, key, new=new)
        await leaving.wait_for_async(self.journal.id, asked.thread)
        with self.journal.reading():
            plan = self._plan(asked, config, context, key, new=new)
            drive = self._drive(plan)
        if drive is not None:
            await drive.ainvoke(plan.given, plan.config or {}, plan.context)
        return self._run(plan)

    def stream(
        self,
        input: Any,  # noqa: A002 - LangGraph's name
        *,
        thread: str | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        key: str | None = None,
        new: bool = False,
        stream_mode: StreamMode | Sequence[StreamMode] | None = None,
        subgraphs: bool = False,
    ) -> RunStream:
        """Do as `run`, and yield what LangGraph's `stream` yields while it happens.

        What a resume replays it streams too, with two differences: "custom" chunks of a step that
        is not run again are absent, and "messages" has its whole messages, in one chunk each,
        where there were tokens, if LangGraph gets them from the node's result. A stored answer
        yields nothing.

        Args:
            input: As for `run`, like those that are not named here.
            thread: As for `run`.
            config: As for `run`.
            context: As for `run`.
            key: As for `run`.
            new: As for `run`.
            stream_mode: "values", "updates", "messages", "custom", "tasks", "checkpoints",
                "debug", or several: chunks are then (mode, chunk). None: the graph's own.
            subgraphs: Whether to stream from subgraphs too: each chunk has its namespace before it.

        Returns:
            The chunks, and the run: `stream.run`. Leaving it early leaves a run to be resumed.

        Raises:
            Exception: As `run`, from here, and what a node raised, from the loop.
        """
        asked = self._asked(input, thread, key, new=new)
        leaving.wait_for(self.journal.id, asked.thread)
        with self.journal.reading():
            plan = self._plan(asked, config, context, key, new=new)
            drive = self._drive(plan)
        return RunStream(
            drive,
            lambda: self._run(plan),
            thread=plan.thread,
            call=(plan.given, plan.config or {}, plan.context),
            stream_mode=stream_mode,
            subgraphs=subgraphs,
        )

    def astream(self, input: Any, **options: Any) -> RunStream:  # noqa: A002 - LangGraph's name
        """Do as `stream`, for `async for` on the running event loop; it takes the same options."""
        return self.stream(input, **options)

    def thread(self, name: str) -> Thread:
        """Return a handle on a thread of this agent: its history, its state, its forks.

        Raises:
            UnknownThreadError: There is no such thread.
            WrongAgentError: It is another agent's.
        """
        self.journal.thread(name)
        head = self.journal.head(name)
        assert head is not None
        self._check_agent(head)
        return Thread(self, name)

    def fork(self, thread: str, *, at: str | None = None, name: str | None = None) -> Thread:
        """Make a thread that has another one's past up to a step or checkpoint; see `Thread.fork`.

        Raises:
            UnknownThreadError: There is no such thread, or no such step in it.
            WrongAgentError: It is another agent's.
            UsageError: There is a thread `name` already.
        """
        return self.thread(thread).fork(at=at, name=name)

    def resume(
        self,
        thread: str,
        *,
        answer: Any = people.NO_ANSWER,
        answers: Mapping[str, Any] | None = None,
    ) -> Run:
        """Go on with a thread's newest run as it was started; `na.resume` finds the agent too.

        Args:
            thread: The thread's name.
            answer: The answer to the only interrupt that is open.
            answers: Answers to some or all open interrupts, by their ids (`run.interrupts`).

        Raises:
            UnknownThreadError: There is no such thread.
            InputError: Nobody asked for this answer, or it is not said to what it is one.
        """
        leaving.wait_for(self.journal.id, thread)
        self.journal.thread(thread)
        head = self.journal.head(thread)
        assert head is not None
        self._check_agent(head)
        with self.journal.reading():
            replies = people.replies(self.journal, thread, head.run, answer=answer, answers=answers)
            plan = self._resumed(head, self.first_record(head), replies=replies)
            drive = self._drive(plan)
        if drive is not None:
            drive.invoke(plan.given, plan.config or {}, plan.context)
        return self._run(plan)

    def take(self, thread: str) -> Drive:
        """Take a thread's newest run without going on with it: to put it down.

        Raises:
            ThreadBusyError: Another process drives the thread.
            WrongAgentError: The thread is another agent's.
        """
        head = self.journal.head(thread)
        assert head is not None
        self._check_agent(head)
        plan = Plan(
            thread=thread,
            scope=head.scope,
            number=head.run,
            session=head.session + 1,
            config=run_config(None, thread),
        )
        drive = self._drive(plan)
        assert drive is not None
        return drive

    def on(self, journal: Journal) -> Agent:
        """Return this agent with its runs recorded in `journal`."""
        if self._journal is journal:
            return self
        options: Any = {"allow": self.allow, "prices": self.prices, "ttl": self.ttl}
        return Agent(self.graph, self.name, journal, auto_resume=0, show=self.show, **options)

    def __repr__(self) -> str:
        return f"<Agent {self.name!r}>"

    # -- the table of ARCHITECTURE.md, "What run and resume do" -----------------------------------

    def _asked(self, given: Any, thread: str | None, key: str | None, *, new: bool) -> Asked:
        """Check what a call is given, and find the thread that it means."""
        inputs.check(self.graph, given, agent=self.name)
        origin = here()
        said = digest(
            given, f"the input of agent {self.name!r}: input", instead="give plain data instead"
        )
        if thread is None:
            thread = self._thread_for(said, origin, key, new=new)
        return Asked(given, said, origin, thread)

    def _plan(
        self,
        asked: Asked,
        config: RunnableConfig | None,
        context: Any,
        key: str | None,
        *,
        new: bool,
    ) -> Plan:
        given, said, origin, thread = asked
        head = self.journal.head(thread)
        if isinstance(given, Command) and given.resume is not None:
            self._check_waits(head, thread)
        if head is not None and head.run:
            self._check_agent(head)
            if not new:
                plan = self._continued(head, given, said, origin, key, config, context)
                if plan is not None:
                    return plan
        scope = head.scope if head is not None else thread
        kept = kept_config(config)
        given = with_message_ids(copy.deepcopy(given), message_channels(self.graph))
        started = {
            "input": given,
            "config": kept,
            "context": context,
            "key": key,
            "notebook": origin.notebook,
            "cell": origin.cell,
            "code": fingerprints(self.graph),
            "definition": self._definition(),
            "prices": self.prices,
        }
        return Plan(
            thread=thread,
            scope=scope,
            number=(head.run if head is not None else 0) + 1,
            session=1,
            given=copy.deepcopy(given),  # the graph may change what it is given
            config=run_config(config, thread),
            context=context,
            started=started,
            prices=self.prices,
            digest=self.journal.data_key(scope).digest(said.encode()),
        )

    def _continued(
        self,
        head: Head,
        given: Any,
        said: str,
        origin: Origin,
        key: str | None,
        config: RunnableConfig | None,
        context: Any,
    ) -> Plan | None:
        """Return how a thread's newest run goes on with this input; None for a next run."""
        status = head.info().status
        first = self.first_record(head)
        same = first.digest == self.journal.data_key(head.scope).digest(said.encode())
        if isinstance(given, Command) and given.resume is not None:
            return self._answered(head, first, given, config, context)
        if status is RunStatus.WAITING and isinstance(given, Command):
            return self._resumed(head, first, config, context, command=given)
        if status.finished:
            kept = self.read(first, ("key", "cell", "notebook"))
            asked = (kept["key"] is not None and kept["key"] == key) or (
                origin.cell is not None
                and (kept["cell"], kept["notebook"]) == (origin.cell, origin.notebook)
            )
            if same and asked and status is RunStatus.SUCCEEDED:
                return Plan(thread=head.thread, scope=head.scope, number=head.run, session=0)
            return None
        if same:
            return self._resumed(head, first, config, context)
        if status is RunStatus.FAILED:
            return None
        raise RunUnfinishedError(
            f"run {head.run} of thread {head.thread!r} is {status} and was started with other "
            f'input: go on with it by na.resume("{head.thread}"), or start another by new=True'
        )

    def _answered(
        self,
        head: Head,
        first: Record,
        command: Command[Any],
        config: RunnableConfig | None,
        context: Any,
    ) -> Plan:
        """Return how a run is taken up with the answer in a command."""
        answer, answers = people.of_command(command)
        if not people.asking(self.journal, head.thread, head.run):
            # It waits before or after a node: LangGraph goes on whatever it is told.
            return self._resumed(head, first, config, context, command=command)
        replies = people.replies(
            self.journal, head.thread, head.run, answer=answer, answers=answers
        )
        rest = people.rest_of(command)
        return self._resumed(head, first, config, context, command=rest, replies=replies)

    def _resumed(
        self,
        head: Head,
        first: Record,
        config: RunnableConfig | None = None,
        context: Any = None,
        command: Command[Any] | None = None,
        replies: people.Replies | None = None,
    ) -> Plan:
        """Return how a run is taken up again: with what it was given, unless it is given anew."""
        if replies is None:
            replies = people.replies(self.journal, head.thread, head.run)
        if replies.mapped:
            command = replace(command or Command(), resume=replies.mapped)
        if head.info().status.finished:
            return Plan(thread=head.thread, scope=head.scope, number=head.run, session=0)
        check_nodes(self.journal, self.graph, head, agent=self.name, allow=self.allow)
        kept = self.read(first, ("input", "config", "context", "code", "prices"))
        if news := changed(kept["code"], self.graph):
            say(
                f"agent {self.name!r} is not what it was when run {head.run} of thread "
                f"{head.thread!r} began: {', '.join(news)}; recorded results stand, what has not "
                "run uses the code of now"
            )
        begun = [
            record.attempt or 0
            for record in self.journal.select(
                thread=head.thread, run=head.run, kinds=[Kind.CHECKPOINT], ns=""
            )
        ]
        both = {**kept["config"], **(config or {})}
        limit = both.get("recursion_limit") or (self.graph.config or {}).get("recursion_limit")
        return Plan(
            thread=head.thread,
            scope=head.scope,
            number=head.run,
            session=head.session + 1,
            given=command if command is not None else None if begun else kept["input"],
            config=run_config(both, head.thread),
            context=context if context is not None else kept["context"],
            prices=self.prices if self.prices is not None else kept["prices"],
            # LangGraph would give a looping agent its limit anew at every resume.
            last_superstep=min(begun) + 1 + limit if begun and limit is not None else None,
            replies=replies,
            origins=origins(self.journal, head),
        )

    def _thread_for(self, said: str, origin: Origin, key: str | None, *, new: bool) -> str:
        """Return the thread that a call without one means, and say it where no timeline does."""
        place = f"{origin.notebook}\0{origin.cell}\0{key}"
        seed = hashlib.blake2b(f"{self.name}\0{place}\0{said}".encode(), digest_size=8).digest()
        name = ids.thread_name(self.name, seed)
        head = None if new else self.journal.head(name)
        nameless = origin.cell is None and key is None
        if new or (nameless and head is not None and head.info().status.finished):
            name = ids.new_thread_name(self.name)
        if showing.display(wanted=self.show) is None:
            say(f"thread: {name}")
        return name

    # -- helpers ----------------------------------------------------------------------------------

    def first_record(self, head: Head) -> Record:
        """Return the record with which a thread's newest run began."""
        records = self.journal.select(thread=head.thread, run=head.run, kinds=[Kind.RUN_STARTED])
        if (first := next((record for record in records if record.digest), None)) is None:
            raise UnknownThreadError(
                f"thread {head.thread!r} was just deleted: run the agent again"
            )
        return first

    def read(self, record: Record, names: Iterable[str]) -> dict[str, Any]:
        """Return the named parts of a run's first record."""
        return read_parts(self.journal, record, names)

    def _check_agent(self, head: Head) -> None:
        if head.agent is not None and head.agent != self.name:
            raise WrongAgentError(
                f"thread {head.thread!r} belongs to agent {head.agent!r}, not to {self.name!r}: "
                "use that agent, or another thread"
            )

    def _check_waits(self, head: Head | None, thread: str) -> None:
        waits = (
            head is not None
            and head.run
            and (
                head.info().status is RunStatus.WAITING
                or people.asking(self.journal, thread, head.run)
            )
        )
        if not waits:
            status = "is not there" if head is None else f"is {head.info().status}"
            raise InputError(
                f"nothing waits for this answer: thread {thread!r} {status}; give agent "
                f"{self.name!r} an input to run with"
            )

    def _definition(self) -> dict[str, Any]:
        path = definition.import_path_of((self, self.given, self.graph), self._module)
        return definition.capture(
            self.graph,
            agent=self.name,
            import_path=path,
            allow=self.allow,
            reference=_reference,
        )

    def _drive(self, plan: Plan) -> Drive | None:
        """Take the thread; None where the plan is to give a stored answer."""
        if not plan.session:
            showing.stored(self._run(plan), wanted=self.show)
            return None
        leave(self.journal, plan.thread)
        listen(self.journal)
        claim = Claim(
            agent=self.name, run=plan.number, session=plan.session, notebook=here().notebook
        )
        return Drive(
            self.journal,
            self.graph,
            claim=claim,
            thread=plan.thread,
            scope=plan.scope,
            started=plan.started,
            digest=plan.digest,
            allow=self.allow,
            last_superstep=plan.last_superstep,
            prices=plan.prices,
            replies=plan.replies,
            origins=plan.origins,
            show=lambda: showing.shown(self._run(plan), wanted=self.show),
        )

    def _run(self, plan: Plan) -> Run:
        types = {*schema_types(self.graph), *self.allow}
        return Run(
            self.journal, plan.thread, plan.number, stored=plan.session == 0, allow=tuple(types)
        )


def live_agent(name: str) -> Agent | None:
    """Return this process's agent of that name, if it has one."""
    return _live.get(name)


def _reference(value: object) -> str | None:
    """Name what a definition refers to instead of holding it."""
    if isinstance(value, Agent):
        return f"agent:{value.name}"
    return "journal:" if isinstance(value, Journal) else None
