"""What pickling refuses, and how it says so."""

from __future__ import annotations

import asyncio
import bz2
import collections
import concurrent.futures
import contextvars
import datetime
import functools
import gzip
import http.client
import io
import logging
import lzma
import mmap
import os
import pickle
import queue
import re
import selectors
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import types
import weakref
import zipfile
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pytest

from notebook_agents import errors
from notebook_agents.pickling import dumps, loads

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


@pytest.fixture
def stack():
    """Close what a test opened."""
    with ExitStack() as opened:
        yield opened


def a_loop(stack: ExitStack) -> asyncio.AbstractEventLoop:
    """Make an event loop."""
    loop = asyncio.new_event_loop()
    stack.callback(loop.close)
    return loop


def a_coroutine(stack: ExitStack) -> types.CoroutineType:
    """Make a coroutine that nobody awaits."""

    async def later() -> None: ...

    coroutine = later()
    stack.callback(coroutine.close)
    return coroutine


async def an_async_generator():
    """Yield once."""
    yield 1


def a_task(stack: ExitStack) -> asyncio.Task:
    """Make a task that did not start yet."""
    loop = a_loop(stack)
    task = loop.create_task(asyncio.sleep(0))
    stack.callback(loop.run_until_complete, task)
    return task


def a_process(stack: ExitStack) -> subprocess.Popen:
    """Start a process that ends at once."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    stack.callback(process.wait)
    return process


def a_traceback(_stack: ExitStack) -> types.TracebackType:
    """Make a traceback of this function."""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        return error.__traceback__


def a_connection(stack: ExitStack, connect) -> object:
    """Open a database in memory."""
    connection = connect(":memory:")
    stack.callback(connection.close)
    return connection


def opened(make, *args: object, **options: object):
    """Return a maker of something that is closed after the test."""
    return lambda stack: stack.enter_context(make(*args, **options))


NULL = Path(os.devnull)
REFUSED = {
    "text file for reading": opened(NULL.open, "r"),
    "text file for writing": opened(NULL.open, "w"),
    "binary file for reading": opened(NULL.open, "rb"),
    "binary file for writing": opened(NULL.open, "wb"),
    "binary file for both": opened(NULL.open, "r+b", buffering=0),
    "temporary file": opened(tempfile.NamedTemporaryFile),
    "spooled file": opened(tempfile.SpooledTemporaryFile),
    "gzip file": opened(gzip.GzipFile, fileobj=io.BytesIO(), mode="wb"),
    "bz2 file": opened(bz2.BZ2File, io.BytesIO(), "wb"),
    "lzma file": opened(lzma.LZMAFile, io.BytesIO(), "wb"),
    "zip file": opened(zipfile.ZipFile, io.BytesIO(), "w"),
    "mmap": opened(mmap.mmap, -1, 8),
    "socket": opened(socket.socket),
    "ssl context": lambda s: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    "http connection": lambda s: http.client.HTTPConnection("localhost"),
    "selector": opened(selectors.DefaultSelector),
    "sqlite connection": lambda s: a_connection(s, sqlite3.connect),
    "sqlite cursor": lambda s: a_connection(s, sqlite3.connect).cursor(),
    "duckdb connection": lambda s: a_connection(s, duckdb.connect),
    "duckdb relation": lambda s: a_connection(s, duckdb.connect).sql("select 1"),
    "lock": lambda s: threading.Lock(),
    "rlock": lambda s: threading.RLock(),
    "semaphore": lambda s: threading.Semaphore(),
    "bounded semaphore": lambda s: threading.BoundedSemaphore(),
    "condition": lambda s: threading.Condition(),
    "event": lambda s: threading.Event(),
    "barrier": lambda s: threading.Barrier(2),
    "asyncio lock": lambda s: asyncio.Lock(),
    "asyncio event": lambda s: asyncio.Event(),
    "asyncio semaphore": lambda s: asyncio.Semaphore(),
    "asyncio queue": lambda s: asyncio.Queue(),
    "thread": lambda s: threading.Thread(),
    "timer": lambda s: threading.Timer(1, print),
    "thread pool": opened(concurrent.futures.ThreadPoolExecutor, 1),
    "process": a_process,
    "queue": lambda s: queue.Queue(),
    "lifo queue": lambda s: queue.LifoQueue(),
    "simple queue": lambda s: queue.SimpleQueue(),
    "future": lambda s: concurrent.futures.Future(),
    "asyncio future": lambda s: a_loop(s).create_future(),
    "asyncio task": a_task,
    "event loop": a_loop,
    "generator": lambda s: (number for number in range(3)),
    "coroutine": a_coroutine,
    "async generator": lambda s: an_async_generator(),
    "context variable": lambda s: contextvars.ContextVar("v"),
    "context": lambda s: contextvars.copy_context(),
    "token": lambda s: contextvars.ContextVar("v").set(1),
    "thread local": lambda s: threading.local(),
    "weak reference": lambda s: weakref.ref(Holder),
    "weak method": lambda s: weakref.WeakMethod(logging.getLogger().info),
    "weak proxy": lambda s: weakref.proxy(Holder),
    "finalizer": lambda s: weakref.finalize(Holder, print),
    "traceback": a_traceback,
    "frame": lambda s: sys._getframe(),
    "capsule": lambda s: datetime.datetime_CAPI,
}


class TestRefused:
    @pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
    def test_alone_and_inside(self, stack, make):
        """What would only look restored is refused with its type, the way to it and a remedy."""
        value = make(stack)
        shown = type(value).__qualname__
        alone = refusal(value)
        assert ": it is a" in alone
        assert shown in alone
        assert "; " in alone
        inside = refusal({"rows": [1, "x", 2.0, Holder(value)]})
        assert "['rows'][3].held is a" in inside
        assert shown in inside

    @pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
    def test_inside_a_function(self, stack, make):
        """It is refused inside a closure too, where a definition would carry it."""
        held = make(stack)
        assert ".<closure>['held'] is a" in refusal({"node": lambda: held})

    @pytest.mark.parametrize("mode", ["w", "a", "r+", "r"])
    def test_a_handle_leaves_its_file_alone(self, tmp_path, mode):
        """Refusing a handle neither empties its file nor moves its position."""
        path = tmp_path / "ledger"
        path.write_text("abcdefghij")
        with path.open(mode) as handle:
            if mode == "w":
                handle.write("abcdefghij")
                handle.flush()
            handle.seek(3)
            refusal([handle])
            assert handle.tell() == 3
        assert path.read_text() == "abcdefghij"

    def test_subclass(self):
        """A user's subclass of a refused type is refused as one."""

        class Worker(threading.Thread):
            pass

        assert "is a thread" in refusal([Worker()])

    def test_in_an_exception(self):
        """A handle that an exception carries is named with the way to it."""
        error = ValueError("no", [threading.Lock()])
        assert "['error'].args[1][0] is a lock" in refusal({"error": error})

    def test_in_slots_keys_and_tuples(self):
        """The way is found through slots, keys, sets, named tuples, partials and bound methods."""

        class Slotted:
            __slots__ = ("empty", "held")

        slotted = Slotted()
        slotted.held = threading.Lock()
        Pair = collections.namedtuple("Pair", "left right")
        ref = weakref.ref(Holder)
        assert ".held is a lock" in refusal(slotted)
        assert "['p'].right is a lock" in refusal({"p": Pair(1, threading.Lock())})
        assert "is a weak reference" in refusal({ref})
        assert ".keys(){<ReferenceType>} is a weak" in refusal({ref: 1})
        assert ".args[0] is a lock" in refusal(functools.partial(print, threading.Lock()))
        assert ".__self__.held is a lock" in refusal(types.MethodType(print, slotted))

    def test_hidden_by_its_class(self):
        """An object that leaves its lock out of its state is kept: only what is pickled counts."""

        class Careful(Holder):
            def __getstate__(self):
                return {"held": None}

            def __setstate__(self, state):
                self.held = threading.Lock()

        assert loads(keep(Careful(threading.Lock()))).held.acquire(blocking=False)

    def test_brought_up_by_a_reducer(self):
        """A refused object that only `__reduce__` shows is named without a way to it."""

        class Odd:
            def __reduce__(self):
                return Holder, (threading.Lock(),)

        assert "somewhere inside it is a lock" in refusal([Odd()])

    def test_only_what_is_pickled_is_blamed(self):
        """An attribute that the object leaves out of its state is not named in its place."""

        class Careless(Holder):
            def __getstate__(self):
                return {"found": re.match("a", "a"), "plain": 1}

        class Broken(Holder):
            def __getstate__(self):
                raise KeyError("gone")

        assert "[0].found is of type re.Match" in refusal([Careless(threading.Lock())])
        assert "KeyError: 'gone'" in refusal([Broken(threading.Lock())])

    def test_in_subclasses_of_containers(self):
        """The way leads through a user's own containers and those of the standard library."""

        class Table(dict):
            pass

        class Rows(list):
            pass

        lock = threading.Lock()
        assert "['a'][0] is a lock" in refusal(Table(a=Rows([lock])))
        assert "['a'][0] is a lock" in refusal(collections.OrderedDict(a=collections.deque([lock])))
        assert ".lock is a lock" in refusal(types.SimpleNamespace(lock=lock))


class TestNotPicklable:
    def test_path_to_the_smallest_part(self):
        """What fails for another reason is found by trying its parts; type and reason are said."""
        rows = [Holder(number) for number in range(5000)]
        rows[4321] = Holder({"m": [re.match("a", "a")]})
        message = refusal({"ok": rows[:10], "rows": rows})
        assert "['rows'][4321].held['m'][0] is of type re.Match" in message
        assert "cannot pickle 're.Match' object" in message

    def test_an_objects_own_error(self):
        """An error of the user's own `__getstate__` is reported for the object that has it."""

        class Broken:
            def __getstate__(self):
                raise KeyError("gone")

        message = refusal([Broken()])
        assert "[0] is of type" in message
        assert "Broken" in message
        assert "KeyError: 'gone'" in message

    def test_nested_too_deeply(self):
        """A value that is nested beyond the interpreter's stack is refused as that."""
        value: list = []
        for _ in range(100_000):
            value = [value]
        assert "nested too deeply" in refusal(value)

    def test_cycles_end(self):
        """The search ends in a value that contains itself."""
        cycle: dict = {"bad": re.match("a", "a")}
        cycle["self"] = [cycle]
        assert "['bad'] is of type re.Match" in refusal(cycle)

    def test_known_only_by_name(self, monkeypatch):
        """An object of a cell that pickles as its name is refused when it is kept, not later."""

        class Sentinel:
            def __reduce__(self):
                return "MISSING"

        missing = Sentinel()
        missing.__module__ = "__main__"
        monkeypatch.setattr(sys.modules["__main__"], "MISSING", missing, raising=False)
        assert "only as the name __main__.MISSING" in refusal([missing])

    def test_memory_error_passes(self):
        """Running out of memory is not called a value that cannot be kept."""

        class Huge:
            def __reduce__(self):
                raise MemoryError

        with pytest.raises(MemoryError):
            keep([Huge()])

    def test_errors_survive_pickling(self):
        """The error itself can be recorded."""
        error = pickle.loads(pickle.dumps(errors.ValueNotKeptError("x['a'] is a lock")))
        assert str(error) == "x['a'] is a lock"
