"""What this process appended last, as it was before it was sealed.

Whoever reads back what it has just stored need not read and unseal the records: a number is never
given twice, so what was committed under it is what stands there. Whether others appended, too, the
numbers tell.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from notebook_agents.journal import Draft

_APPENDS = 16
_BYTES = 2**18


class Own(NamedTuple):
    """A record of this process's own, as far as a checkpoint is read from it.

    Attributes:
        plain: Its payload, not sealed.
    """

    seq: int
    kind: Kind
    thread: str
    ns: str | None
    parent: str | None
    name: str | None
    ref: str | None
    prior: str | None
    refs: tuple[int, ...]
    plain: bytes


class Appended:
    """The contents of the last 16 appends of at most 256 KB each: 4 MB in all.

    No lock, which a forked child could find taken for good.
    """

    def __init__(self) -> None:
        self._parts: dict[int, tuple[Draft, Sequence[Draft | int], bytes]] = {}
        self._appends: deque[list[int]] = deque()

    @contextmanager
    def remembering(self, drafts: Iterable[Draft]) -> Iterator[None]:
        """Remember drafts that are committed in the block; none of them where it raises."""
        # The commit takes out of them what is needed no longer.
        parts = [(draft, draft.refs, draft.plain) for draft in drafts]
        yield
        if sum(len(plain) for _, _, plain in parts) > _BYTES:
            return
        self._parts.update({part[0].seq: part for part in parts})
        self._appends.append([draft.seq for draft, _, _ in parts])
        while len(self._appends) > _APPENDS:
            with suppress(IndexError):  # another thread took it out
                for seq in self._appends.popleft():
                    self._parts.pop(seq, None)

    def select(self, after: int, upto: int, *, thread: str, ns: str) -> list[Own] | None:
        """Return a namespace's records, and its thread's chunks, behind a number.

        None where one of all numbers up to `upto` was given to another record than these: of
        another process, say, or a deletion.
        """
        found: list[Own] = []
        for seq in range(after + 1, upto + 1):
            part = self._parts.get(seq)
            if part is None:
                return None
            draft, refs, plain = part
            if draft.thread == thread and (draft.kind is Kind.CHUNK or draft.ns == ns):
                numbers = tuple([ref if isinstance(ref, int) else ref.seq for ref in refs])
                found.append(
                    Own(
                        *(seq, draft.kind, thread, draft.ns, draft.parent, draft.name),
                        *(draft.ref, draft.prior, numbers, plain),
                    )
                )
        return found
