"""Types that are never pickled, because what came back would only look like what was kept.

A handle opened for writing empties its file when it is loaded; a lock comes back unlocked and
unrelated; a capsule comes back as a stale pointer.
"""

from __future__ import annotations

import _thread
import contextvars
import threading
import types
import weakref
from typing import NamedTuple


class Refusal(NamedTuple):
    """Why a type is refused.

    Attributes:
        is_a: What an object of the type is, with its article.
        instead: What to do instead, to follow "; ".
    """

    is_a: str
    instead: str


_FILE = Refusal("an open file", "return what was read, or open it again inside the step")
_NETWORK = Refusal("a network connection", "return plain data, or connect again inside the step")
_DATABASE = Refusal("a database connection", "return rows, or connect again inside the step")
_LOCK = Refusal("a lock or something to wait for", "make it inside the step that uses it")
_QUEUE = Refusal("a queue between threads", "return its items as a list")
_THREAD = Refusal("a thread, process or pool", "start it inside the step and return its result")
_PENDING = Refusal(
    "a task, future or event loop", "wait for it inside the step and return its result"
)
_GENERATOR = Refusal(
    "a generator or coroutine", "return list(…) of it, or await it inside the step"
)
_CONTEXT = Refusal("a context variable or local of a thread", "return the value it holds")
_WEAK = Refusal("a weak reference", "return the object itself, or look it up again inside the step")
_FRAME = Refusal("a stack frame or traceback", "return the formatted text of it")
_POINTER = Refusal("a pointer into this process's memory", "make it again inside the step")

# By type where the type costs no import, by name where it would.
_TYPES: dict[Refusal, tuple[type, ...]] = {
    _LOCK: (
        _thread.LockType,
        _thread.RLock,
        threading._RLock,  # what RLock() is where C's is missing
        threading.Condition,
        threading.Semaphore,
        threading.Event,
        threading.Barrier,
    ),
    _THREAD: (threading.Thread,),
    _GENERATOR: (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType),
    _CONTEXT: (contextvars.ContextVar, contextvars.Context, contextvars.Token, threading.local),
    _WEAK: (weakref.ReferenceType, weakref.ProxyType, weakref.CallableProxyType, weakref.finalize),
    _FRAME: (types.TracebackType, types.FrameType),
}
_NAMES: dict[Refusal, tuple[str, ...]] = {
    _FILE: (
        "_io.FileIO",
        "_io.BufferedReader",
        "_io.BufferedWriter",
        "_io.BufferedRandom",
        "_io.BufferedRWPair",
        "_io.TextIOWrapper",
        "bz2.BZ2File",
        "codecs.StreamReaderWriter",
        "gzip.GzipFile",
        "lzma.LZMAFile",
        "mmap.mmap",
        "shelve.Shelf",
        "tarfile.TarFile",
        "tempfile.SpooledTemporaryFile",
        "tempfile._TemporaryFileWrapper",
        "zipfile.ZipFile",
    ),
    _NETWORK: (
        "_socket.socket",
        "_ssl._SSLContext",
        "_ssl._SSLSocket",
        "asyncio.streams.StreamReader",
        "asyncio.streams.StreamWriter",
        "asyncio.transports.BaseTransport",
        "http.client.HTTPConnection",
        "http.client.HTTPResponse",
        "multiprocessing.connection._ConnectionBase",
        "selectors.BaseSelector",
    ),
    _DATABASE: (
        "_duckdb.DuckDBPyConnection",
        "duckdb._relation.DuckDBPyRelation",
        "psycopg.AsyncConnection",
        "psycopg.Connection",
        "psycopg2.extensions.connection",
        "sqlalchemy.engine.base.Connection",
        "sqlalchemy.engine.base.Engine",
        "sqlalchemy.orm.session.Session",
        "sqlite3.Connection",
        "sqlite3.Cursor",
    ),
    # The base of asyncio's Lock, Event, Condition, Semaphore, Barrier and Queue.
    _LOCK: ("asyncio.mixins._LoopBoundMixin", "multiprocessing.synchronize.SemLock"),
    _QUEUE: (
        "_queue.SimpleQueue",
        "multiprocessing.queues.Queue",
        "multiprocessing.queues.SimpleQueue",
        "queue.Queue",
        "queue._PySimpleQueue",
    ),
    _THREAD: (
        "asyncio.subprocess.Process",
        "concurrent.futures._base.Executor",
        "multiprocessing.pool.Pool",
        "multiprocessing.process.BaseProcess",
        "subprocess.Popen",
    ),
    _PENDING: (
        "_asyncio.Future",
        "asyncio.events.AbstractEventLoop",
        "asyncio.events.Handle",
        "asyncio.futures.Future",
        "concurrent.futures._base.Future",
    ),
    _GENERATOR: (
        "builtins.async_generator_asend",
        "builtins.async_generator_athrow",
        "builtins.coroutine_wrapper",
        "types._GeneratorWrapper",
    ),
    _POINTER: ("builtins.PyCapsule", "types.CapsuleType"),
}


def type_name(t: type) -> str:
    """Return a type's module and qualified name."""
    return f"{t.__module__}.{t.__qualname__}"


_REFUSED = {
    name: refusal
    for refusal in (*_TYPES, *_NAMES)
    for name in (*map(type_name, _TYPES.get(refusal, ())), *_NAMES.get(refusal, ()))
}


def refusal_of(t: type) -> Refusal | None:
    """Return why objects of this type are refused, or None if they are not."""
    for base in t.__mro__:
        if refusal := _REFUSED.get(type_name(base)):
            return refusal
    return None
