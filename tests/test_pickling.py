"""What pickling promises inside one process: what is hidden and what stays as it was.

What is refused is in test_pickling_refused.py, what comes back in another process in
test_pickling_main.py.
"""

from __future__ import annotations

import array
import collections
import datetime
import enum
import fractions
import functools
import gc
import http.client
import io
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import types
import uuid
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_agents import errors
from notebook_agents.pickling import dumps, known_secrets, loads, rebuild, register, rules

ROOT = Path(errors.__file__).parents[1]
SECRET = "sk-5e1f-do-not-keep"
WHAT = "result of node 'fetch'"


class Holder:
    """Holds something as an attribute, as a user's class would."""

    def __init__(self, held: object) -> None:
        self.held = held


def keep(value: object, **options: object) -> bytes:
    """Pickle `value` as the result of a node."""
    return dumps(value, what=WHAT, **options)


def refusal(value: object, **options: object) -> str:
    """Return the message with which `value` is refused."""
    with pytest.raises(errors.ValueNotKeptError) as caught:
        keep(value, **options)
    message = str(caught.value)
    assert message.startswith(f"{WHAT} cannot be kept: ")
    return message


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=20,
)


def shape(value: object) -> object:
    """Return the types of a value and of everything in it."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    return type(value)


class TestKept:
    @given(value=PLAIN)
    def test_plain_data(self, value):
        """Plain data comes back equal, and with the same types all the way down."""
        back = loads(keep(value))
        assert back == value
        assert shape(back) == shape(value)

    @pytest.mark.parametrize(
        "value",
        [
            datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            fractions.Fraction(1, 3),
            uuid.UUID(int=7),
            Path("a/b"),
            re.compile("a+"),
            slice(1, 2),
            ...,
            NotImplemented,
            type(None),
            collections.Counter("aab"),
            collections.OrderedDict(a=1),
            collections.deque([1], maxlen=2),
            types.SimpleNamespace(a=1),
            types.MappingProxyType({"a": 1}),
            array.array("i", [1, 2]),
            list[int],
            int | None,
            http.HTTPStatus.OK,
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_standard_types(self, value):
        """Values of the standard library come back equal and of the same type."""
        back = loads(keep(value))
        assert back == value
        assert type(back) is type(value)

    def test_bytes_and_string_streams(self):
        """Streams in memory are data: they come back with their content and position."""
        binary, text = io.BytesIO(b"abc"), io.StringIO("abc")
        binary.seek(1)
        text.seek(2)
        binary_back, text_back = loads(keep([binary, text]))
        assert (binary_back.read(), text_back.read()) == (b"bc", "c")

    def test_standard_streams_and_environment(self):
        """What every process has its own of comes back as the loading process's own."""
        values = [sys.stdout, sys.stderr, os.environ, logging.getLogger("a.b"), sys]
        assert all(a is b for a, b in zip(loads(keep(values)), values, strict=True))

    @pytest.mark.parametrize(
        "view", [memoryview(b"ab"), memoryview(b"abcdefgh").cast("I"), memoryview(b"abcd")[::2]]
    )
    def test_memoryview(self, view):
        """A memoryview comes back as one, not as bytes."""
        back = loads(keep(view))
        assert isinstance(back, memoryview)
        assert (back.format, back.shape, back.tolist()) == (view.format, view.shape, view.tolist())

    def test_shared_references(self):
        """One object that a value holds twice is one object afterwards."""
        row = {"a": 1}
        back = loads(keep([row, row, Holder(row)]))
        assert back[0] is back[1] is back[2].held

    def test_weak_mappings(self):
        """A weak mapping comes back with what is alive, as `functools.singledispatch` needs it."""
        holder = Holder(1)
        keys, values = weakref.WeakKeyDictionary(), weakref.WeakValueDictionary()
        keys[holder], values["h"] = 2, holder
        back, keys_back, values_back = loads(keep([holder, keys, values]))
        assert keys_back[back] == 2
        assert values_back["h"] is back

    def test_engine_tag(self):
        """The first byte tells the engine."""
        assert keep({"a": 1})[:1] == b"c"
        assert keep(super(Holder, Holder(1)))[:1] == b"d"


class TwoArgumentsError(Exception):
    """Fails when it is rebuilt the usual way: `args` is not what its `__init__` takes."""

    def __init__(self, status: int, *, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class OneArgumentError(Exception):
    """Is rebuilt wrongly the usual way: its message would be built from its message."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no {name}")


class BadTextError(UnicodeDecodeError):
    """Has fields that C's `__init__` sets."""

    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "no text")


class TestExceptions:
    def test_without_traceback(self):
        """An exception keeps its type, arguments, attributes and notes, not its traceback."""
        try:
            raise TwoArgumentsError(503, body="busy")
        except TwoArgumentsError as raised:
            raised.add_note("third try")
            back = loads(keep(raised))
        assert type(back) is TwoArgumentsError
        assert back.__traceback__ is None
        assert (str(back), back.status, back.__notes__) == ("503: busy", 503, ["third try"])

    def test_message_is_not_built_twice(self):
        """An exception that builds its message in `__init__` says the same afterwards."""
        assert str(loads(keep(OneArgumentError("key")))) == "no key"

    def test_fields_in_c(self):
        """An exception with fields of its C base has them afterwards."""
        back = loads(keep(BadTextError(b"\xff")))
        assert (back.object, back.reason, str(back)) == (
            b"\xff",
            "no text",
            str(BadTextError(b"\xff")),
        )

    def test_groups_and_builtin_exceptions(self):
        """Groups and the interpreter's own exceptions come back as they were."""
        group = ExceptionGroup("two", [OSError(2, "gone", "f"), OneArgumentError("a")])
        back = loads(keep(group))
        assert repr(back) == repr(group)
        assert back.exceptions[0].filename == "f"


class TestSecrets:
    def test_equal_string_is_left_out(self, monkeypatch):
        """A string that equals a secret is read from the environment when it is loaded."""
        monkeypatch.setenv("SHOP_TOKEN", "rotated-since")
        token = SECRET
        data = keep(
            {"auth": SECRET, "fetch": lambda: token, "more": [SECRET]},
            secrets={"SHOP_TOKEN": SECRET},
        )
        assert SECRET.encode() not in data
        back = loads(data)
        assert back["auth"] == back["fetch"]() == back["more"][0] == "rotated-since"

    def test_missing_variable(self, monkeypatch):
        """Loading without that variable says which one to set."""
        monkeypatch.delenv("SHOP_TOKEN", raising=False)
        data = keep([SECRET], secrets={"SHOP_TOKEN": SECRET})
        with pytest.raises(errors.ValueNotKeptError, match="set SHOP_TOKEN and resume"):
            loads(data)

    @pytest.mark.parametrize(
        "place", ["closure", "default", "keyword", "global", "bytes", "constant"]
    )
    def test_planted(self, place):
        """A secret that is a part of something else is refused, and its variable named, not it."""
        header = f"Bearer {SECRET}"
        space = {"header": header, "raw": header.encode(), "__name__": "__main__"}
        exec("def use_global(): return header\ndef use_bytes(): return raw", space)
        exec(f"def use_constant(): return {header!r}", space)
        planted = {
            "closure": lambda: header,
            "default": types.FunctionType((lambda a: a).__code__, {}, "f", (header,)),
            "keyword": functools.partial(print, end=header),
            "global": space["use_global"],
            "bytes": space["use_bytes"],
            "constant": space["use_constant"],
        }[place]
        with pytest.raises(errors.DefinitionError, match="variable SHOP_TOKEN") as caught:
            keep({"node": planted}, secrets={"OTHER_KEY": "something else", "SHOP_TOKEN": SECRET})
        assert SECRET not in str(caught.value)
        assert "os.environ['SHOP_TOKEN']" in str(caught.value)

    def test_not_in_other_errors(self):
        """An error that shows a key or a reason does not show a secret in it."""
        message = refusal({SECRET: threading.Lock()}, secrets={"SHOP_TOKEN": SECRET})
        assert SECRET not in message
        assert "$SHOP_TOKEN" in message

    def test_short_values_are_none(self):
        """Values below eight characters are no secrets: they are everywhere by chance."""
        assert loads(keep(["a", "1234567"], secrets={"A_KEY": "a", "B_KEY": "1234567"})) == [
            "a",
            "1234567",
        ]

    def test_with_the_fallback(self, monkeypatch):
        """Secrets are left out by dill's rules too."""
        monkeypatch.setenv("SHOP_TOKEN", SECRET)
        data = keep([super(Holder, Holder(1)), SECRET], secrets={"SHOP_TOKEN": SECRET})
        assert data[:1] == b"d"
        assert SECRET.encode() not in data
        assert loads(data)[1] == SECRET

    def test_environment_goes_by_name(self):
        """A node that mentions `os.environ` does not carry the environment with it."""
        environ = os.environ
        data = keep(lambda: environ, secrets={"SHOP_TOKEN": SECRET})
        assert loads(data)() is os.environ

    def test_known_secrets(self, monkeypatch):
        """Variables are known as secrets by a whole word of their name, when long enough."""
        for name in list(os.environ):
            monkeypatch.delenv(name)
        names = ["OPENAI_API_KEY", "GH_TOKEN", "secret", "Db_Password", "X_PASSWD_1"]
        names += ["AWS_CREDENTIAL", "NOTEBOOK_AGENTS_KEY"]
        for name in [*names, "KEYBOARD", "TOKENIZERS_PARALLELISM", "PATH"]:
            monkeypatch.setenv(name, "12345678")
        monkeypatch.setenv("SHORT_KEY", "1234567")
        assert known_secrets() == dict.fromkeys(names, "12345678")


class Agent:
    """Stands for an object of this package, which a definition refers to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.Lock()


def refer(value: object) -> str | None:
    """Return a token for an agent."""
    return f"agent:{value.name}" if isinstance(value, Agent) else None


class TestReferences:
    def test_round_trip(self):
        """An object that is kept as a reference is not pickled, and is looked up when loaded."""
        agent, tokens = Agent("audit"), []
        data = keep({"graph": lambda: agent.name, "again": agent}, reference=refer)
        back = loads(data, reference=lambda token: tokens.append(token) or agent)
        assert back["again"] is agent
        assert back["graph"]() == "audit"
        assert tokens == ["agent:audit", "agent:audit"]

    def test_unknown_reference(self):
        """Loading a reference where nobody looks it up says what is missing."""
        with pytest.raises(errors.ValueNotKeptError, match="refers to 'agent:audit'"):
            loads(keep([Agent("audit")], reference=refer))

    def test_lookup_error_passes(self):
        """An error of this package that the lookup raises is the one the caller sees."""

        def look_up(token: str) -> object:
            raise errors.DefinitionError(f"no {token}")

        with pytest.raises(errors.DefinitionError, match="no agent:audit"):
            loads(keep([Agent("audit")], reference=refer), reference=look_up)

    def test_search_knows_references(self):
        """The search for a bad part is not misled by an object that goes as a reference."""
        message = refusal([Agent("a"), [re.match("a", "a")]], reference=refer)
        assert "[1][0] is of type re.Match" in message


class Model:
    """Stands for a client object that pickles neither plainly nor by dill."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()


class OtherModel(Model):
    """Another exact type."""


def make_model(cls: type[Model], name: str) -> Model:
    """Make a model again, as a registered rule says."""
    return cls(name)


class TestRegister:
    def test_taught_type(self):
        """A registered rule is used wherever such an object is, also inside a closure."""
        assert ".lock is a lock" in refusal(Model("gpt"))
        register(lambda t: issubclass(t, Model), lambda m: (make_model, (type(m), m.name.upper())))
        model, other = Model("gpt"), OtherModel("o")
        back = loads(keep({"node": lambda: model, "plain": [model, other]}))
        assert back["node"]().name == "GPT"
        assert back["node"]() is back["plain"][0]
        assert type(back["plain"][1]) is OtherModel

    def test_newest_wins_over_refusals(self):
        """A later rule wins over an earlier one and over the refusals."""

        class Pool(threading.local):
            pass

        assert "is a context variable or local" in refusal(Pool())
        register(lambda t: t is Pool, lambda _: (str, ("first",)))
        register(lambda t: t is Pool, lambda _: (str, ("second",)))
        assert loads(keep([Pool()])) == ["second"]

    def test_rule_that_gives_up(self):
        """A rule that raises has its object named with the reason."""

        class Graph:
            pass

        def reduce(_: object) -> tuple:
            raise pickle.PicklingError("a compiled graph is not kept")

        register(lambda t: t is Graph, reduce)
        message = refusal({"nodes": [Graph()]})
        assert "['nodes'][0] is of type" in message
        assert "a compiled graph is not kept" in message


class TestLoads:
    def test_what_is_missing_here(self, tmp_path, monkeypatch):
        """What was kept from a module that is gone says which module it is."""
        (tmp_path / "gone_module.py").write_text("class Row: pass")
        monkeypatch.syspath_prepend(tmp_path)
        import gone_module

        data = keep(gone_module.Row())
        del sys.modules["gone_module"]
        monkeypatch.undo()
        with pytest.raises(errors.ValueNotKeptError, match=r"gone_module.*define what is missing"):
            loads(data)

    @pytest.mark.parametrize("data", [b"", b"x123", b"c", b"c\x80\x05", keep([1, 2, 3])[:-1]])
    def test_no_pickle(self, data):
        """Bytes that are no whole pickle of this version are refused as that."""
        with pytest.raises(errors.ValueNotKeptError):
            loads(data)

    def test_other_bytecode(self, monkeypatch):
        """A function of another Python version is refused before its bytecode can run."""
        data = keep(lambda: 1)
        monkeypatch.setattr(rebuild, "BYTECODE", b"\x00\x00\r\n")
        with pytest.raises(errors.ValueNotKeptError, match=r"compiled by Python 3\."):
            loads(data)

    def test_error_that_user_code_raises(self):
        """An error in the user's own `__setstate__` is given as the reason."""

        class Broken:
            def __init__(self):
                self.a = 1

            def __setstate__(self, state):
                raise LookupError("no such row")

        with pytest.raises(errors.ValueNotKeptError, match="LookupError: no such row"):
            loads(keep(Broken()))


class TestFallback:
    def test_bound_super(self):
        """A bound `super` object, which cloudpickle cannot do, is kept by dill's rule."""

        class Base(Holder):
            def name(self):
                return "base"

        class Derived(Base):
            def name(self):
                return "derived"

        assert loads(keep({"s": super(Derived, Derived(1))}))["s"].name() == "base"

    def test_descriptor_of_a_c_type(self):
        """So is a class method's descriptor of a type written in C."""
        assert loads(keep([dict.__dict__["fromkeys"]])) == [dict.__dict__["fromkeys"]]

    def test_refusals_hold(self):
        """Where dill's rules are needed, what is refused is refused all the same."""
        bound = super(Holder, Holder(1))
        assert "[1] is a lock" in refusal([bound, threading.Lock()])
        assert "[1] is an open file" in refusal([bound, sys.__stdin__.buffer])
        assert "[1].m is of type re.Match" in refusal(
            [bound, types.SimpleNamespace(m=re.match("a", "a"))]
        )

    def test_leaves_other_picklers_alone(self):
        """Needing dill does not add its rules to everybody's `pickle._Pickler`."""
        code = (
            "import pickle, sys\nbefore = dict(pickle._Pickler.dispatch)\n"
            "from notebook_agents.pickling import dumps, loads\n"
            "assert 'dill' not in sys.modules\n"
            "loads(dumps([1], what='x'))\nassert 'dill' not in sys.modules\n"
            "class A: pass\n"
            "loads(dumps(super(A, A()), what='x'))\nassert 'dill' in sys.modules\n"
            "assert pickle._Pickler.dispatch == before\n"
        )
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)


class TestClasses:
    def test_one_class_over_two_pickles(self):
        """A class of a cell that two pickles carry is one class when both are loaded."""

        class Row:
            pass

        class Colour(enum.Enum):
            RED = 1

        first, second = loads(keep([Row(), Colour.RED])), loads(keep([Row(), Colour.RED]))
        assert type(first[0]) is type(second[0]) is Row
        assert first[1] is second[1] is Colour.RED

    def test_types_are_forgotten(self, monkeypatch):
        """Making a new type each time, as a cell that is run again does, does not fill memory."""
        monkeypatch.setattr(rules, "_MOST_RULES", 10)

        def remembered() -> weakref.ref:
            row = type("Row", (), {})
            keep(row())
            return weakref.ref(row)

        rows = [remembered() for _ in range(100)]
        gc.collect()
        assert sum(row() is not None for row in rows) <= 10
