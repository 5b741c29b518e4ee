"""Every error that this package raises on purpose.

```
NotebookAgentsError
├── UsageError                the call itself is wrong; nothing was changed            exit 2
│   ├── NoJournalError        no journal here, or the path is not one
│   ├── UnknownThreadError    no such thread or run in this journal
│   ├── ThreadExistsError     a copy would go to a thread that is there already
│   ├── WrongAgentError       the thread belongs to another agent
│   ├── RunUnfinishedError    other input for a thread whose newest run is unfinished, or a
│   │                         deletion of what that run needs
│   ├── RunNotFinishedError   a value was asked of a run that has none yet
│   ├── InputError            the graph cannot take this input, or nobody asked for this answer
│   ├── DecisionError         nothing is in doubt there that a person could decide
│   ├── DefinitionError       the graph cannot be captured, or not be rebuilt
│   └── NotDurableError       a durable call outside a run, or a journal used after fork or close
├── ValueNotKeptError         a value cannot be kept; the step is failed                exit 1
├── ValueTooLargeError        a value becomes more bytes than may be kept
├── StepFailedError           a step's recorded failure, given again on replay          exit 1
├── StepTimeoutError          a step took longer than its `timeout`; also a TimeoutError exit 1
├── ThreadBusyError           another process drives the thread; says which             exit 5
│   └── FencedError           this process lost the thread to another one
└── JournalError              the journal cannot be used                                exit 6
    ├── JournalBusyError      its DuckDB file is held by another process                exit 5
    ├── JournalFormatError    no journal
    │   └── JournalNewerError a newer version of this package wrote it
    ├── JournalDamagedError   a file or a record is damaged
    ├── JournalWriteError     the append did not commit (disk full, …)
    │   └── CompactedError    it refers to what a compaction took away meanwhile
    └── SealError             a record does not open: wrong or missing key, or altered
        └── KeyMissingError   the key that sealed it is not here; says which

StepInDoubt                   BaseException: user code must not swallow it              exit 4
```

Each message is one sentence that names the thread, run or step it is about and says what to do
next. All of them survive pickling.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from datetime import datetime


class NotebookAgentsError(Exception):
    """The base of this package's errors.

    Attributes:
        exit_code: What the command line exits with when this error ends it.
    """

    exit_code: ClassVar[int] = 1

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows: the lines of the caller, and the sentence.

        This package's own lines, a screen of them, would stand between the two; they and the
        causes are in the exception, as `traceback.print_exception` shows it.
        """
        import sysconfig
        import traceback

        libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
        others = (str(Path(__file__).parent), *libraries)
        frames = traceback.extract_tb(self.__traceback__)
        callers = [frame for frame in frames if not frame.filename.startswith(others)]
        lines = traceback.format_list(callers)
        return [*"".join(lines).splitlines(), f"{type(self).__name__}: {self}"]


class UsageError(NotebookAgentsError):
    """The call is wrong; nothing was changed."""

    exit_code = 2


class NoJournalError(UsageError):
    """There is no journal where one was looked for."""


class UnknownThreadError(UsageError):
    """The journal has no such thread, or nothing in it to resume."""


class ThreadExistsError(UsageError):
    """A thread of this name is there already, and a copy would mix with it."""


class WrongAgentError(UsageError):
    """The thread was made by an agent of another name."""


class RunUnfinishedError(UsageError):
    """The thread's newest run is unfinished: it had other input, or needs what would go."""


class RunNotFinishedError(UsageError):
    """The run has no value: it failed, waits, or is in doubt."""


class InputError(UsageError):
    """The graph cannot take this input, or nobody asked for this answer."""


class DecisionError(UsageError):
    """There is no such step, or it is not in doubt, so nobody can decide what happened to it."""


class DefinitionError(UsageError):
    """The graph cannot be captured at the start of a run, or not be rebuilt from the journal."""


class NotDurableError(UsageError):
    """A durable call was made where nothing can record it."""


class ValueNotKeptError(NotebookAgentsError):
    """A state value or a result cannot be kept; the message names the field and its type."""


class ObjectNotRestoredError(ValueNotKeptError):
    """An object of a thread was not kept, or does not come back here; what was kept of it stays.

    Attributes:
        thread: The thread's name.
        name: The object's name.
        reason: Why it is not there.
    """

    def __init__(self, thread: str, name: str, reason: str) -> None:
        super().__init__(thread, name, reason)
        self.thread = thread
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"object {self.name!r} of thread {self.thread!r} is not here: {self.reason}"


class ValueTooLargeError(NotebookAgentsError):
    """A value becomes more bytes than may be kept."""


class StepFailedError(NotebookAgentsError):
    """A step failed in an earlier attempt with an error that cannot be rebuilt as it was."""


class StepTimeoutError(NotebookAgentsError, TimeoutError):
    """A step took longer than its `timeout`: it was cancelled, and may or may not have happened."""


class ThreadBusyError(NotebookAgentsError):
    """Another process drives this thread.

    Attributes:
        thread: The thread's name, or None where the message alone has it.
        token: The driver's fencing token, or None.
        pid: The id of the process that drives it, or None.
        host: That process's host, or None.
        notebook: The notebook that it runs in, or None.
        since: When it took the thread, or None.
        expires: From when on another may take the thread if nothing is heard of that process; None
            where it is known to run.
    """

    exit_code = 5
    thread: str | None = None
    token: int | None = None
    pid: int | None = None
    host: str | None = None
    notebook: str | None = None
    since: datetime | None = None
    expires: datetime | None = None


class FencedError(ThreadBusyError):
    """This process lost the thread to another one; its writes are refused."""


class JournalError(NotebookAgentsError):
    """The journal cannot be used as asked."""

    exit_code = 6


class JournalBusyError(JournalError):
    """The journal's DuckDB file is held by another process."""

    exit_code = 5


class JournalFormatError(JournalError):
    """A file is no journal, or one of a format that this version does not read."""


class JournalNewerError(JournalFormatError):
    """The journal was written by a newer version of this package."""


class JournalDamagedError(JournalError):
    """A file or a record of the journal is damaged."""


class JournalWriteError(JournalError):
    """An append did not commit; nothing of it was acknowledged."""


class CompactedError(JournalWriteError):
    """An append refers to values that were deleted and are gone since a compaction."""


class SealError(JournalError):
    """A record does not open: it was altered, moved, or sealed with another key."""


class KeyMissingError(SealError):
    """The key that sealed this journal is not here."""


class StepInDoubt(BaseException):
    """An at-most-once step may or may not have happened, and nobody could say.

    It derives from BaseException because a node's `except Exception` around the call would
    otherwise turn "we do not know" into "it failed", and the graph would go on from there.

    Attributes:
        thread: The thread's name.
        step: The step's id.
        name: The step's name, as shown in the timeline.
        key: The idempotency key that the attempt was given.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, thread: str, step: str, name: str, key: str) -> None:
        super().__init__(thread, step, name, key)
        self.thread = thread
        self.step = step
        self.name = name
        self.key = key

    def __str__(self) -> str:
        return (
            f"step {self.name!r} ({self.step}) of thread {self.thread!r} may or may not have "
            f"happened: it was started with idempotency key {self.key} and never returned; find "
            f'out at the other side, then say it by na.resolve("{self.thread}", "{self.step}", '
            "na.did(result)) or na.did_not(), or give the step a `reconcile` function, and resume"
        )
