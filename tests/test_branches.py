"""What branches are made of is never lost, and what the encoder remembers is never wrong."""

from __future__ import annotations

import gc
import sqlite3
import weakref
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage

import notebook_agents as na
from notebook_agents.errors import CompactedError, JournalDamagedError, ValueNotKeptError
from notebook_agents.graph.codec import ResultCodec, StateCodec, strict_serializer
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Draft
from notebook_agents.journal.check import check
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.compact import compact
from notebook_agents.journal.repair import repair
from notebook_agents.journal.values import Decoder
from notebook_agents.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def put(saver: JournalSaver, number: int, values: dict[str, Any], thread: str = "t") -> None:
    """Store checkpoint `number` of a thread; 2 and later follow on the one before."""
    place = {"thread_id": thread, "checkpoint_ns": ""}
    if number > 1:
        place["checkpoint_id"] = f"{number - 1:032}"
    checkpoint: Any = {
        "v": 4,
        "ts": "",
        "id": f"{number:032}",
        "versions_seen": {},
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, number),
    }
    saver.put({"configurable": place}, checkpoint, {}, {})


def newest(journal: na.Journal) -> dict[str, Any]:
    """Return what thread `t` holds."""
    found = JournalSaver(journal).get_tuple(CONFIG)
    assert found is not None
    return found.checkpoint["channel_values"]


def encoder(journal: na.Journal, codec: Any = None) -> Encoder:
    """Return an encoder for thread `t`."""
    codec = codec or StateCodec(strict_serializer())
    return Encoder(codec, journal.chunks("t"), thread="t", scope="t", token=None)


def test_keys_of_one_checksum(journal: na.Journal) -> None:
    """Where groups of a dict end the keys tell, and keys come from models and tools."""
    null = (0x1DB710641, 0x26D930AC3, 0x4DB261586, 0x86D3D2D4D, 0x10DA7A5A9A, 0x206F85B375)
    keys = []
    for chosen in range(2 ** len(null)):
        bits = 0x33B1F4BC
        for place, flips in enumerate(null):
            bits ^= flips if chosen >> place & 1 else 0
        keys.append("".join("ac"[bits >> i & 1] for i in range(40)))
    assert {zlib.crc32(key.encode()) for key in keys} == {0}
    put(JournalSaver(journal), 1, {"x": dict.fromkeys(keys, 1)})
    assert list(newest(journal)["x"]) == keys


def test_what_is_stored_anew_refers_to_no_lost_part(home: Path) -> None:
    """A repair lost a part of a branch: the same value stored again is whole."""
    value = {"files": {f"file number {i}": f"{i} " * 300 for i in range(100)}}
    with na.Journal.open(home) as journal:
        put(JournalSaver(journal), 1, value)
        chunks = journal.select(thread="t", kinds=[Kind.CHUNK])
        lost = next(chunk.refs[0] for chunk in chunks if chunk.refs)
        JournalSaver(journal).copy_thread("t", "copy")
    with closing(sqlite3.connect(home / "queue.sqlite")) as connection, connection:
        connection.execute("UPDATE records SET payload = x'01' || payload WHERE seq = ?", [lost])
    (home / "queue.mark").unlink()
    assert [one.seq for one in repair(home).lost] == [lost]
    named = {one.thread for one in check(home).findings if "is lost" in one.what}
    assert named == {"t", "copy"}  # also who refers to it by a branch only
    with na.Journal.open(home) as journal:
        with pytest.raises(JournalDamagedError, match=f"record {lost} is missing"):
            newest(journal)
        put(JournalSaver(journal), 2, value)
        assert newest(journal) == value


def test_a_list_that_holds_itself_is_refused(journal: na.Journal) -> None:
    """So is one that is nested too deep; a driver ends its run with the reason."""
    held: list[Any] = ["x"]
    held.append(held)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (held, deep, {"in": held}, [HumanMessage([{"deep": deep}])]):
        with pytest.raises(ValueNotKeptError, match="state value 'x' of thread 't'"):
            put(JournalSaver(journal), 1, {"x": value})


class Meddling(StateCodec):
    """Does something else while a value is being serialised."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(strict_serializer())
        self.meanwhile: Callable[[], object] | None = meanwhile

    def dumps(self, value: Any, what: str) -> tuple[str, bytes]:
        """Let another thread have its way first."""
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().dumps(value, what)


@pytest.mark.parametrize("wrapped", [[{"status": "idle"}], {"in": {"status": "idle"}}])
def test_a_value_that_was_another_one_while_it_was_encoded(
    journal: na.Journal, wrapped: Any
) -> None:
    """What was stored of it is not taken for what it was before, and is again."""
    inner = wrapped[0] if isinstance(wrapped, list) else wrapped["in"]
    codec = Meddling(lambda: inner.update(status="busy"))
    first = encoder(journal, codec).encode_again(wrapped, "value", None)
    inner["status"] = "idle"
    second = encoder(journal, codec).encode_again(wrapped, "value", first)
    third = encoder(journal, codec).encode_again(wrapped, "value", second)
    assert first.node != second.node == third.node


def test_a_list_that_is_emptied_while_it_is_encoded(journal: na.Journal) -> None:
    """It is taken apart as it was when it was met."""
    value = [[str(n) * 300] for n in range(70)]
    chunks = encoder(journal, Meddling(value.clear))
    chunks.encode({"in": value}, "value")
    assert len([draft for draft in chunks.new if not draft.refs]) == 70


def test_only_the_last_threads_values_are_held_on_to(journal: na.Journal) -> None:
    """A saver that served a thousand threads does not keep their states in memory."""
    saver = JournalSaver(journal)
    references = []
    for number in range(100):
        message = HumanMessage("x" * 300, id=str(number))
        references.append(weakref.ref(message))
        put(saver, 1, {"said": [message], "held": {"by": [message]}}, f"t{number}")
        del message
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 32


def test_a_thread_that_was_let_go_goes_on(journal: na.Journal) -> None:
    """What did not change is referred to, what was changed in place is stored."""
    saver = JournalSaver(journal)
    values: dict[str, Any] = {"one": [{"text": "x" * 300}], "two": {"in": ["y" * 300]}}
    put(saver, 1, values)
    for number in range(40):
        put(saver, 1, {"n": number}, f"t{number}")
    values["two"]["in"].append("z")
    put(saver, 2, values)
    assert newest(journal) == values
    *_, record = journal.select(thread="t", kinds=[Kind.CHECKPOINT])
    first, *_ = journal.select(thread="t", kinds=[Kind.CHECKPOINT])
    assert first.seq in record.refs


def test_nothing_refers_by_anothers_branch_to_what_is_gone(
    home: Path, journal: na.Journal, forked: Callable[..., int]
) -> None:
    """A branch that somebody else is about to append has a part that was compacted away."""
    part = Draft(kind=Kind.CHUNK, thread="t", scope="t", plain=b"\0x", digest=b"x" * 16)
    root = Draft(kind=Kind.DECISION, thread="t", scope="t", run=1, name="a")
    journal.append([root, part], durable=True)
    journal.append(
        [Draft(kind=Kind.DECISION, thread="t", scope="t", run=1, name="b")], durable=True
    )

    def elsewhere() -> None:
        with na.Journal.open(home) as other:
            compact(other)

    assert forked(elsewhere) == 0
    branch = Draft(
        kind=Kind.CHUNK, thread="t", scope="t", plain=b"\0y", digest=b"y" * 16, refs=[part]
    )
    above = Draft(kind=Kind.DECISION, thread="t", scope="t", run=1, name="c", refs=[branch])
    with pytest.raises(CompactedError):
        journal.append([above], durable=True)


def test_a_branch_that_is_part_of_itself_is_refused() -> None:
    """Nobody without the key can make one; a reader does not follow it all the same."""
    payload = b"\0t\0" + b"\x92\x02\x91\x94\x09\xa1t\x00\x01"
    decoder = Decoder(ResultCodec(strict_serializer()), lambda seqs: {7: ([7], payload)})
    with pytest.raises(JournalDamagedError, match="record 7 refers to one that is not older"):
        decoder.decode([1, "t", 0], [7])


def test_a_message_with_what_the_serialiser_does_not_take() -> None:
    """What a tool returned is kept, whatever its artifact is."""
    codec = ResultCodec(strict_serializer())
    message = ToolMessage("found", tool_call_id="1", artifact=[2**70])
    assert codec.loads(*codec.dumps(message, "value")) == message
