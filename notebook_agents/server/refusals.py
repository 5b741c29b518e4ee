"""What is answered where something cannot be done: a code for programs, a sentence for people."""

from __future__ import annotations

from typing import Any

from notebook_agents import errors

STATUS = {
    "bad_request": 400,
    "no_journal": 404,
    "journal_outside_root": 404,
    "journal_newer": 409,
    "journal_unusable": 409,
    "journal_damaged": 409,
    "journal_busy": 409,
    "key_missing": 409,
    "unknown_thread": 404,
    "unknown_run": 404,
    "unknown_step": 404,
    "thread_exists": 409,
    "thread_busy": 409,
    "run_unfinished": 409,
    "not_in_doubt": 409,
    "not_driven": 409,
    "driven_elsewhere": 409,
    "needs_kernel": 409,
    "refused": 409,
    "failed": 500,
}
"""The HTTP status of each code."""

_CODES: tuple[tuple[type[BaseException], str], ...] = (  # the first that fits
    (errors.NoJournalError, "no_journal"),
    (errors.UnknownThreadError, "unknown_thread"),
    (errors.ThreadExistsError, "thread_exists"),
    (errors.RunUnfinishedError, "run_unfinished"),
    (errors.DecisionError, "not_in_doubt"),
    (errors.ThreadBusyError, "thread_busy"),
    (errors.JournalBusyError, "journal_busy"),
    (errors.JournalNewerError, "journal_newer"),
    (errors.JournalDamagedError, "journal_damaged"),
    (errors.KeyMissingError, "key_missing"),
    (errors.JournalError, "journal_unusable"),
    (errors.NotebookAgentsError, "refused"),
)


class RefusedError(Exception):
    """Something is not done, and the front end is told why.

    Args:
        code: One of `STATUS`.
        message: One sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The answer's HTTP status."""
        return STATUS[self.code]

    def data(self) -> dict[str, Any]:
        """Return it as the API's `Error`."""
        return {"code": self.code, "message": self.message}


def refusal(error: Exception) -> RefusedError | None:
    """Return what an error of this package is answered with; None for any other error: a bug."""
    if isinstance(error, RefusedError):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RefusedError(code, str(error))
    return None
