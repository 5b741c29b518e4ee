"""The records of a thread's objects: what each snapshot has, and what several are together.

A snapshot has the objects that changed, and belongs to the step that changed them: it is appended
in the transaction of that step's result. One with an index says where all others are as well; it
belongs to no step, since a fork may undo one of several that ran side by side.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_agents.errors import UsageError
from notebook_agents.journal import Draft
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.values import Decoder, lost_record, pack, unpack
from notebook_agents.model import Kind
from notebook_agents.pickling import modules, versions
from notebook_agents.pickling.snapshot import digest_of, marks_of
from notebook_agents.runtime.plain import PlainCodec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from notebook_agents.journal import Journal, Record
    from notebook_agents.pickling.snapshot import Copied

NAME = "objects"
"""The name of a snapshot of a thread's objects."""
INDEXED = "all"
"""Its `ref`, where it says of every object where it is."""
_STEPS = (Kind.STEP_INTENDED, Kind.STEP_RETURNED, Kind.ROUTED)

Every = str | int | timedelta
"""How often there is a snapshot: "step", "exit", a number of steps, a time."""


class Entry(NamedTuple):
    """Where an object is.

    Attributes:
        record: The snapshot's record.
        place: Which of its groups.
        names: What is in that group.
    """

    record: Draft | int
    place: int
    names: tuple[str, ...]

    @property
    def seq(self) -> int:
        """The record's number; 0 until it is committed."""
        return self.record if isinstance(self.record, int) else self.record.seq

    def same(self, other: Entry) -> bool:
        """Whether both are the same group of the same record."""
        one = self.record is other.record or (self.seq == other.seq and self.seq > 0)
        return one and self.place == other.place and self.names == other.names


class Table:
    """What snapshots say together.

    Attributes:
        entries: Where each object is, by name.
        refused: Why an object is not kept, by name.
        every: How often there is a snapshot.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.refused: dict[str, str] = {}
        self.every: Every = "step"

    def of(self, name: str) -> tuple[Entry | None, str | None]:
        """Return where an object is, and why it is not kept."""
        return self.entries.get(name), self.refused.get(name)

    def put(self, name: str, entry: Entry | None, why: str | None) -> None:
        """Say of one object what `of` returned."""
        self.entries.pop(name, None)
        self.refused.pop(name, None)
        if entry is not None:
            self.entries[name] = entry
        if why is not None:
            self.refused[name] = why

    def apply(self, meta: dict[str, Any], refs: Sequence[Draft | int], record: Draft | int) -> None:
        """Take what the next snapshot says."""
        if (index := meta["index"]) is not None:
            self.entries = {
                name: Entry(refs[ref], place, tuple(names))
                for name, (ref, place, names) in index.items()
            }
            self.refused = {}
        for place, names in enumerate(meta["groups"]):
            for name in names:
                self.entries[name] = Entry(record, place, tuple(names))
                self.refused.pop(name, None)
        for name, why in meta["refused"].items():
            self.entries.pop(name, None)
            self.refused[name] = why
        for name in meta["gone"]:
            self.entries.pop(name, None)
            self.refused.pop(name, None)
        self.every = from_plain(meta["every"])


class Loaded(NamedTuple):
    """A group as it was kept.

    Attributes:
        data: Its pickle.
        buffers: What is beside it.
        digest: Of both, as `snapshot.digest_of` makes it.
        modules: Sources of modules that it needs, by name.
        versions: Under which versions it was kept.
    """

    data: bytes
    buffers: list[bytearray]
    digest: bytes
    modules: dict[str, str]
    versions: dict[str, str]


def snapshots(journal: Journal, thread: str, since: int = 0, *, name: str = NAME) -> list[Record]:
    """Return the snapshots of a thread's objects, in order, or those of another name."""
    return journal.select(thread=thread, kinds=[Kind.SNAPSHOT], name=name, since=since)


def undone(journal: Journal, thread: str, records: Iterable[Record]) -> set[str]:
    """Return the steps of those snapshots whose node has not returned: it will run again."""
    inside = {record.step or "" for record in records if record.parent is not None}
    if not inside:
        return set()
    parents: dict[str, str | None] = {}
    returned = set[str]()
    for record in journal.select(thread=thread, kinds=_STEPS):
        if record.kind is Kind.STEP_INTENDED:
            parents[record.step or ""] = record.parent
        else:
            returned.add(record.step or "")

    def outermost(step: str) -> str:
        while (outer := parents.get(step)) is not None:
            step = outer
        return step

    return {step for step in inside if outermost(step) not in returned}


def table(journal: Journal, records: Sequence[Record]) -> Table:
    """Return what these snapshots say together.

    Raises:
        SealError: One does not open.
    """
    found = Table()
    start = max((n for n, record in enumerate(records) if record.ref == INDEXED), default=0)
    wanted = [record.seq for record in records[start:]]
    with journal.reading():
        parts = journal.parts(wanted)
    for seq in wanted:
        if seq not in parts:
            raise lost_record(seq)
        refs, payload = parts[seq]
        found.apply(unpack(payload)[0], refs, seq)
    return found


def names_in(meta: dict[str, Any]) -> set[str]:
    """Return the names of what a snapshot says something of, besides where other objects are."""
    return {*meta["gone"], *meta["refused"], *(name for group in meta["groups"] for name in group)}


def read(journal: Journal, entry: Entry) -> Loaded:
    """Return a group.

    Raises:
        SealError: A part of it does not open.
        JournalDamagedError: A part of it is missing.
    """
    seq = entry.seq
    refs, payload = journal.parts([seq])[seq]
    tree = unpack(payload)[1][entry.place]
    kept: Any = Decoder(PlainCodec(), journal.parts).decode(tree, refs)
    data = b"".join(kept["data"])
    buffers = [bytearray().join(pieces) for pieces in kept["buffers"]]
    sources = {name: source.decode() for name, source in kept["modules"].items()}
    digest = digest_of(data, map(marks_of, buffers))
    return Loaded(data, buffers, digest, sources, kept["versions"])


def drafts(
    journal: Journal,
    before: Table,
    groups: Sequence[Copied],
    *,
    refused: dict[str, str],
    gone: Sequence[str],
    whole: bool,
    scope: str,
    columns: dict[str, Any],
    called: str = NAME,
    more: dict[str, Any] | None = None,
) -> tuple[list[Draft], dict[str, Any]]:
    """Return the records of a snapshot, and what it says.

    Args:
        journal: The journal.
        before: What the thread's snapshots said before.
        groups: What changed; a piece of it may be a `Stored`.
        refused: What cannot be kept from now on, with why.
        gone: The names of what is no more.
        whole: Whether it says of everything where it is.
        scope: The thread's scope.
        columns: The snapshot's columns.
        called: The snapshot's name.
        more: What it says besides, plain data.
    """
    thread, token = columns["thread"], columns["token"]
    encoder = Encoder(PlainCodec(), journal.chunks(scope), thread=thread, scope=scope, token=token)
    trees = []
    for group in groups:
        kept = {
            "data": group.data,
            "buffers": group.buffers,
            "modules": {name: text.encode() for name, text in _sources(group).items()},
            "versions": versions.here(),
        }
        what = f"the objects {', '.join(group.names)} of thread {thread!r}"
        trees.append(encoder.placed(encoder.encode(kept, what)))
    refs = list(encoder.refs)
    changed = {*refused, *gone, *(name for group in groups for name in group.names)}
    meta = {
        "groups": [list(group.names) for group in groups],
        "refused": refused,
        "gone": list(gone),
        "every": to_plain(before.every),
        "index": _index(before, changed, refs) if whole else None,
    }
    if whole:
        meta["refused"] = {**before.refused, **refused}
        for name in changed - refused.keys():
            meta["refused"].pop(name, None)
    if more is not None:
        meta["more"] = more
    draft = Draft(kind=Kind.SNAPSHOT, name=called, scope=scope, **columns)
    draft.plain, draft.refs, draft.size = pack([meta, trees]), refs, encoder.size
    draft.ref = INDEXED if whole else None
    return [*encoder.new, draft], meta


def _index(before: Table, changed: set[str], refs: list[Draft | int]) -> dict[str, Any]:
    """Return where the other objects are; their records become references."""
    index: dict[str, Any] = {}
    places: dict[int, int] = {}
    for name, entry in before.entries.items():
        if name in changed:
            continue
        key = id(entry.record) if isinstance(entry.record, Draft) else entry.record
        if key not in places:
            places[key] = len(refs)
            refs.append(entry.record)
        index[name] = (places[key], entry.place, list(entry.names))
    return index


def _sources(group: Copied) -> dict[str, str]:
    return modules.sources(group.modules)


def to_plain(every: Every) -> Any:
    """Return how often there is a snapshot as a record has it."""
    return {"seconds": every.total_seconds()} if isinstance(every, timedelta) else every


def from_plain(every: Any) -> Every:
    """Return what `to_plain` was given."""
    return timedelta(seconds=every["seconds"]) if isinstance(every, dict) else every


def checked(every: Any) -> Every:
    """Return how often there shall be a snapshot.

    Raises:
        UsageError: It says nothing like that.
    """
    number = isinstance(every, int) and not isinstance(every, bool) and every >= 1
    if every in ("step", "exit") or number or isinstance(every, timedelta):
        return every  # type: ignore[no-any-return]
    raise UsageError(
        f"objects cannot be kept every {every!r}: give 'step', a number of steps, a timedelta, or "
        "'exit' for the end of each run"
    )
