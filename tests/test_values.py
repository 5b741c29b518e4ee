"""Values come back as they were, and what repeats is stored once."""

from __future__ import annotations

import hashlib
import operator
import random
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send

from notebook_agents import faults
from notebook_agents.errors import JournalDamagedError, SealError, ValueNotKeptError
from notebook_agents.graph.codec import ResultCodec, StateCodec, faithful, strict_serializer
from notebook_agents.graph.saver import JournalSaver
from notebook_agents.journal import Draft, Journal
from notebook_agents.journal.chunking import Encoder
from notebook_agents.journal.records import Record, compress, decompress, pack_refs, unpack_refs
from notebook_agents.journal.values import Decoder, pack, unpack
from notebook_agents.model import Kind
from notebook_agents.resources import resource

if TYPE_CHECKING:
    from pathlib import Path

DICTIONARY_SHA256 = "7e57e39efe26ec41cfe9ceab6bb451f93e3b3665fabce0d18f75fa7ae11a72e1"
CODEC = ResultCodec(strict_serializer())

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=400)
    | st.binary(max_size=400),
    lambda inner: (
        st.lists(inner, max_size=40)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.tuples(inner, inner)
    ),
    max_leaves=60,
)


def store(journal: Journal, value: Any) -> tuple[Record, list[Draft]]:
    """Store a value in a record of its own; return the record and the chunks it needed."""
    encoder = Encoder(CODEC, journal.chunks("t"), thread="t", scope="t", token=None)
    tree = encoder.placed(encoder.encode(value, "value"))
    draft = Draft(kind=Kind.SNAPSHOT, thread="t", scope="t", plain=pack(tree), refs=encoder.refs)
    journal.append([*encoder.new, draft], durable=False)
    return next(r for r in journal.select(thread="t") if r.seq == draft.seq), encoder.new


def load(journal: Journal, record: Record) -> Any:
    """Return the value of a record."""
    tree = unpack(journal.payload(record.seq))
    return Decoder(CODEC, journal.parts).decode(tree, record.refs)


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, types included."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a journal for this module's values."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Journal.open(tmp_path_factory.mktemp("values") / "journal") as journal,
    ):
        patch.setenv("JUPYTER_DATA_DIR", str(journal.home))
        yield journal


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=PLAIN)
def test_plain_values_come_back_with_their_types(journal: Journal, value: Any) -> None:
    """Whatever is stored comes back equal, with the same types and the same order of keys."""
    record, _ = store(journal, value)
    assert same(load(journal, record), value)


@pytest.mark.parametrize(
    "value",
    [
        Send("node", {"state": ["x" * 500, {"deep": "y" * 500}]}),
        Command(update={"log": ["z" * 400]}, goto=[Send("a", 1), "b"]),
        [HumanMessage("hello " * 80, id="1"), AIMessage("short", id="2")],
        {"mixed": [1, "x" * 300, (1, 2), {3, 4}, ValueError("told"), None] * 20},
        list(range(1000)),
        [[["deep"] * 40] * 3] * 3,
        2**70,
        ["no valid Unicode \udc80", {"deep": 2**70}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_of_graphs_come_back(journal: Journal, value: Any) -> None:
    """What nodes return comes back: sends, commands, messages, long lists, exceptions."""
    record, _ = store(journal, value)
    assert repr(load(journal, record)) == repr(value)


def test_an_element_is_stored_once_however_often_it_appears(journal: Journal) -> None:
    """A second list, dict or Send with the same large parts needs no new chunk."""
    parts = [random.Random(i).randbytes(400).hex() for i in range(5)]
    _, new = store(journal, parts)
    assert len(new) == 5
    for again in (parts, {"a": parts[0], "b": [parts[1]]}, Send("n", {"s": parts})):
        assert store(journal, again)[1] == []


def test_an_element_changed_in_place_is_stored_again(journal: Journal) -> None:
    """The very same object with other content is another chunk, and both versions come back."""
    value = [{"text": "a" * 500, "n": 1}]
    first, _ = store(journal, value)
    value[0]["n"] = 2
    second, new = store(journal, value)
    assert len(new) == 1
    assert (load(journal, first)[0]["n"], load(journal, second)[0]["n"]) == (1, 2)


def test_a_long_list_of_small_elements_shares_its_beginning(journal: Journal) -> None:
    """A list of a thousand short lines that grows by one needs no new chunk but the tail's."""
    lines = [f"line {i} of the log" for i in range(1000)]
    store(journal, lines)
    _, new = store(journal, [*lines, "one more"])
    assert sum(len(draft.plain) for draft in new) == 0


def _large(count: int, length: int) -> dict[str, Any]:
    return {f"key {i}": f"{i} " * (length // 4) for i in range(count)}


@pytest.mark.parametrize(
    "value",
    [
        _large(5000, 40),
        {"in": _large(3000, 600), "empty": {}},
        [f"{i} " * 120 for i in range(3000)],
        {"in": [f"{i} " * 20 for i in range(3000)]},
        [_large(60, 200) for _ in range(3)],
        Send(
            "node", {"files": {f"f{i}": [f"{i} {j} " * 9 for j in range(200)] for i in range(40)}}
        ),
        {"no valid Unicode \udc80": "x" * 400, **_large(40, 8)},
    ],
    ids=range(7),
)
def test_large_trees_come_back(journal: Journal, value: Any) -> None:
    """What is cut into branches comes back with its order; a second record refers to the same."""
    record, _ = store(journal, value)
    assert same(load(journal, record), value) or repr(load(journal, record)) == repr(value)
    again, new = store(journal, value)
    assert new == []
    assert again.refs == record.refs


@pytest.mark.parametrize("length", [40, 600])
def test_a_change_of_a_large_dict_needs_few_chunks(journal: Journal, length: int) -> None:
    """An item that changes, comes or goes costs its neighbours' branches, not all of them."""
    whole = {"state": {f"{length} {key}": item for key, item in _large(4000, length).items()}}
    store(journal, whole)
    keys = list(whole["state"])
    for changed in (
        {**whole["state"], keys[700]: "other " * 60},
        {key: item for key, item in whole["state"].items() if key != keys[1700]},
        {**whole["state"], f"{length} new": "other " * 60},
        {"first of all": "other " * 60, **whole["state"]},
    ):
        record, new = store(journal, {"state": changed})
        assert same(load(journal, record), {"state": changed})
        assert len(new) <= 8
        assert sum(draft.size for draft in new) < 12_000


def test_a_long_list_that_grows_shares_its_pages(journal: Journal) -> None:
    """An element more is its chunk and the last branches, wherever in a value the list stands."""
    said = [f"{i} of many " * 30 for i in range(2000)]
    store(journal, {"given": said})
    record, new = store(journal, Send("node", {"given": [*said, "one more " * 40]}))
    assert load(journal, record).arg["given"][-2:] == [said[-1], "one more " * 40]
    assert len(new) <= 2
    assert len(record.refs) < 100


def test_a_record_that_was_moved_or_altered_does_not_open(home: Path) -> None:
    """A payload under another record's columns, or with one bit flipped, is refused."""
    with Journal.open(home) as journal:
        drafts = [
            Draft(kind=Kind.SNAPSHOT, thread="t", scope="t", plain=text) for text in (b"a", b"b")
        ]
        journal.append(drafts, durable=True)
        rows = journal._queue.by_seq([1, 2])
        for seq, payload in (
            (1, rows[1][-1]),
            (2, bytes([*rows[1][-1][:-1], rows[1][-1][-1] ^ 1])),
        ):
            journal._writer.execute(
                "UPDATE records SET payload = $payload WHERE seq = $seq",
                {"payload": payload, "seq": seq},
            )
        for seq in (1, 2):
            with pytest.raises(SealError, match=f"record {seq} "):
                journal.payload(seq)


def test_a_missing_chunk_is_named(journal: Journal) -> None:
    """A value whose chunk is gone is an error that names the record, never a shorter value."""
    record, _ = store(journal, ["only here " * 60])
    decoder = Decoder(CODEC, lambda seqs: {})
    with pytest.raises(JournalDamagedError, match=f"record {record.refs[0]} is missing"):
        decoder.decode(unpack(journal.payload(record.seq)), record.refs)


def test_a_reference_to_what_was_never_recorded_is_refused(journal: Journal) -> None:
    """Nobody writes a record that refers to another one that is not there."""
    lost = Draft(kind=Kind.CHECKPOINT, thread="t", scope="t")
    record = Draft(kind=Kind.SNAPSHOT, thread="t", scope="t", refs=[lost])
    with pytest.raises(JournalDamagedError, match="not recorded"):
        journal.append([record], durable=False)


@given(st.lists(st.integers(min_value=1, max_value=2**62)))
def test_references_survive_packing(refs: list[int]) -> None:
    """Any sequence of record numbers is packed and unpacked unchanged."""
    assert list(unpack_refs(pack_refs(refs))) == refs


def test_the_dictionary_of_format_1_is_what_it_was() -> None:
    """Payloads of this format are compressed with these very bytes: they never change."""
    content = resource("store", "dictionary.bin").read_bytes()
    assert hashlib.sha256(content).hexdigest() == DICTIONARY_SHA256


@given(st.binary(max_size=2000))
def test_compression_is_undone(plain: bytes) -> None:
    """What was compressed, or was not worth it, comes back."""
    assert decompress(compress(plain)) == plain


class Unknown:
    """A type that the state does not declare."""

    def model_dump(self) -> dict[str, int]:
        return {"x": 1}


def test_the_state_refuses_what_would_come_back_as_a_dict() -> None:
    """A value that strict msgpack would turn into a dict is refused where it is stored, by name."""
    codec = StateCodec(strict_serializer())
    with pytest.raises(ValueNotKeptError, match=r"state value 'x' .*Unknown"):
        codec.dumps({"in": [Unknown()]}, "state value 'x'")


class Growing(TypedDict):
    lines: Annotated[list[str], operator.add]
    fixed: dict[str, str]


def test_a_foreign_object_is_not_asked_whether_it_is_empty() -> None:
    """An array, for one, does not say whether it is true."""

    class Array:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    assert not faithful([Array()])
    assert not faithful({"a": {"b": Array()}})
    assert not faithful(HumanMessage("hi", additional_kwargs={"a": Array()}))
    assert faithful(HumanMessage("hi", additional_kwargs={"a": [{}, {"b": []}]}))


def test_growing_state_is_read_back_at_every_checkpoint(home: Path) -> None:
    """Every checkpoint of a growing list reads back as it was, from the queue and from DuckDB."""
    builder = StateGraph(Growing)
    builder.add_node("add", lambda state: {"lines": [f"{len(state['lines'])} " + "text " * 60] * 2})
    builder.add_edge(START, "add")
    with Journal.open(home) as journal:
        graph = builder.compile(checkpointer=JournalSaver(journal))
        config = {"configurable": {"thread_id": "t"}}
        for _ in range(40):
            graph.invoke({"lines": ["in"], "fixed": {"big": "f" * 1000}}, config)
        history = [state.values for state in graph.get_state_history(config)]
        assert [len(values["lines"]) for values in history[:6]] == [120, 118, 117, 117, 115, 114]
        journal.ingest()
        assert [state.values for state in graph.get_state_history(config)] == history
        (stored,) = journal.sql(
            "SELECT sum(octet_length(payload)) FROM records WHERE kind = 'checkpoint'"
        )[0]
        assert stored < 60_000


def test_either_of_two_records_that_share_a_new_chunk_may_come_first(journal: Journal) -> None:
    """What two steps return at once is stored once, whichever of them is appended first."""
    value = ["shared by two " * 60]
    encoders = [
        Encoder(CODEC, journal.chunks("t"), thread="t", scope="t", token=None) for _ in range(2)
    ]
    drafts = []
    for encoder in encoders:
        tree = encoder.placed(encoder.encode(value, "value"))
        draft = Draft(kind=Kind.SNAPSHOT, thread="t", scope="t", plain=pack(tree))
        draft.refs = encoder.refs
        drafts.append(draft)
    assert [len(encoder.new) for encoder in encoders] == [1, 0]
    journal.append([drafts[1]], durable=False)
    journal.append([*encoders[0].new, drafts[0]], durable=False)
    records = {record.seq: record for record in journal.select(thread="t")}
    assert [load(journal, records[draft.seq]) for draft in drafts] == [value, value]
    assert records[drafts[0].seq].refs == records[drafts[1].seq].refs


def test_a_chunk_whose_append_failed_is_written_with_the_next_record(home: Path) -> None:
    """After an error in a commit the same value can be stored, and read."""

    class Full(Exception):
        pass

    def fail(fault: faults.Fault) -> None:
        if fault is faults.Fault.COMMIT_BEFORE:
            raise Full

    with Journal.open(home) as journal:
        store(journal, ["makes the thread"])
        faults.arm(fail)
        try:
            with pytest.raises(Full):
                store(journal, ["kept after all " * 60])
        finally:
            faults.arm(None)
        record, _ = store(journal, ["kept after all " * 60])
        assert load(journal, record) == ["kept after all " * 60]
