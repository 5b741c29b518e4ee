"""Objects that a notebook's cells make, kept together and used in a fresh process.

One process runs CELLS as its `__main__` and keeps what they made, by name. Another one, in whose
`__main__` nothing was run, loads all of it and evaluates each object's claim `x`, in a namespace
that has only what is kept beside it (`o`). What is not in CLAIMS is refused, by name, when it is
kept: REFUSED says as what.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_agents import errors

ROOT = Path(errors.__file__).parents[1]

CELLS = '''
import asyncio, collections, contextvars, dataclasses, datetime, decimal, enum, functools, io
import logging, math, pathlib, queue, re, socket, sqlite3, subprocess, sys, threading, typing
import weakref, concurrent.futures

import duckdb, numpy, pandas, pydantic
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

rate = 3
def scale(value): return value * rate
def make_adder(by):
    def add(value): return value + by
    return add
class Kid:
    made = 0
    def __init__(self, name): self.name = name
    def hello(self): return f"hello {self.name} {scale(1)}"
    @property
    def loud(self): return self.name.upper()
@dataclasses.dataclass
class Row:
    name: str
    tags: list = dataclasses.field(default_factory=list)
class Person(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1)
class Colour(enum.Enum):
    RED = "r"
    def label(self): return self.name.lower()
class Point(typing.NamedTuple):
    x: int
    y: int = 5
class State(typing.TypedDict):
    n: int
@tool
def search(query: str) -> str:
    """Search the web."""
    return f"{query}/{rate}"
builder = StateGraph(State)
builder.add_node("add", lambda state: {"n": scale(state["n"])})
builder.add_edge(START, "add")
saved = builder.compile(checkpointer=InMemorySaver())
CONFIG = {"configurable": {"thread_id": "t"}}
saved.invoke({"n": 2}, CONFIG)
def numbers():
    yield from range(3)
async def later(): return 1
async def waiting(): await asyncio.sleep(3600)
try:
    1 / 0
except ZeroDivisionError as error:
    caught = error
figure, axes = pyplot.subplots()
axes.plot([1, 2, 3], label="line")
full, flag, jobs = queue.Queue(5), threading.Event(), asyncio.Queue()
full.put("job"); full.put("next"); full.get(); flag.set(); jobs.put_nowait("job")
random = numpy.random.default_rng(5)
pathlib.Path("read").write_text("abcdefghij")
handle, written = open("read"), open("written", "w")
handle.read(3)
variable = contextvars.ContextVar("variable", default=1)
loop = asyncio.new_event_loop()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
kid = Kid("Ada")

objects = {
    "int_list": [1, 2, 3], "decimal": decimal.Decimal("1.10"),
    "dt": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "regex": re.compile("a+"),
    "ndarray": numpy.arange(5000.0).reshape(50, 100), "np_rng": random,
    "dataframe": pandas.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]}), "module": math,
    "lambda_": lambda value: scale(value) + 1, "fn_global": scale, "closure": make_adder(4),
    "partial": functools.partial(scale, 4), "cls_in_cell": Kid, "inst_in_cell": kid,
    "bound_method": kid.hello, "dataclass_inst": Row("a", ["t"]), "pydantic_cls": Person,
    "pydantic_inst": Person(name="Ada"), "enum_in_cell": Colour.RED, "namedtuple_inst": Point(2),
    "typeddict_cls": State, "langgraph_builder": builder, "langgraph_compiled": builder.compile(),
    "langgraph_ckpt": saved, "lc_messages": [HumanMessage("hi"), AIMessage("ho")],
    "lc_tool": search, "generator": numbers(), "list_iter": iter([1, 2, 3]), "file_read": handle,
    "file_write": written, "bytesio": io.BytesIO(b"abc"), "socket": socket.socket(),
    "lock": threading.Lock(), "rlock": threading.RLock(), "event": flag,
    "thread": threading.Thread(target=print), "queue": full, "asyncio_queue": jobs,
    "threadpool": concurrent.futures.ThreadPoolExecutor(1), "sqlite": sqlite3.connect(":memory:"),
    "duckdb": duckdb.connect(), "coroutine": later(), "contextvar": variable,
    "ctx": contextvars.copy_context(), "weakref_": weakref.ref(kid), "figure": figure,
    "axes": axes, "logger": logging.getLogger("shop"), "popen": child,
    "exception": ValueError("no", 3), "memview": memoryview(b"abc"),
    "defaultdict_lambda": collections.defaultdict(lambda: scale(1)), "property_cls": Kid.loud,
    "traceback_exc": caught,
    "asyncio_task": loop.create_task(waiting()), "asyncio_future": loop.create_future(),
}
try:
    import polars
    objects["polars_frame"] = polars.DataFrame({"a": [1, 2, 3], "b": ["x", "y", None]})
    objects["polars_lazy"] = objects["polars_frame"].lazy().filter(polars.col("a") > 1)
except ModuleNotFoundError:
    pass
try:
    import torch
    torch.manual_seed(3)
    objects["tensor"] = torch.arange(6.0).reshape(2, 3).requires_grad_()
    objects["torch_model"] = torch.nn.Linear(3, 2)
except ModuleNotFoundError:
    pass
'''

KEEP = """
import json, pickle
from notebook_agents.graph import kinds
from notebook_agents.pickling import snapshot
taken = snapshot.take(objects, kinds.reduce)
kept = [(group.data, list(map(bytes, group.raw))) for group in taken.groups]
pathlib.Path("kept").write_bytes(pickle.dumps(kept))
print(json.dumps([[list(group.names) for group in taken.groups], taken.refused]))
sys.stdout.flush()
child.kill(), child.wait()
import os; os._exit(0)
"""

USE = """
import json, pathlib, pickle, sys
from notebook_agents.pickling import snapshot
claims = json.loads(sys.argv[1])
o = {}
for data, buffers in pickle.loads(pathlib.Path("kept").read_bytes()):
    o.update(snapshot.give(data, buffers))
answers = {}
for name, claim in claims.items():
    try:
        answers[name] = repr(bool(eval(claim, {"x": o[name], "o": o})))
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
rate = 5
answers["later globals"] = [o["fn_global"](2), o["lambda_"](2), o["inst_in_cell"].hello()]
print(json.dumps(answers))
"""

CLAIMS = {
    "int_list": "x.append(4) or x == [1, 2, 3, 4]",
    "decimal": "x * 2 == type(x)('2.20')",
    "dt": "x.utcoffset().total_seconds() == 0 and x.year == 2026",
    "regex": "x.match('aaa').end() == 3",
    "ndarray": "x.__setitem__((0, 0), 7) or x.sum() == 4999 * 2500 + 7 and x.shape == (50, 100)",
    "np_rng": "(x.random(3) == __import__('numpy').random.default_rng(5).random(3)).all()",
    "dataframe": "x.assign(c=x.a * 2).c.tolist() == [2, 4, 6] and x.b.isna().sum() == 1",
    "module": "x.sqrt(16) == 4",
    "lambda_": "x(1) == 4",
    "fn_global": "x(5) == 15",
    "closure": "x(1) == 5",
    "partial": "x() == 12",
    "cls_in_cell": "x('b').hello() == 'hello b 3'",
    "inst_in_cell": "type(x) is o['cls_in_cell'] and x.loud == 'ADA'",
    "bound_method": "x() == 'hello Ada 3' and x.__self__ is o['inst_in_cell']",
    "dataclass_inst": "x == type(x)('a', ['t'])",
    "pydantic_cls": "x.model_validate_json('{\"name\": \"B\"}').name == 'B'",
    "pydantic_inst": "type(x) is o['pydantic_cls'] and x.model_dump() == {'name': 'Ada'}",
    "enum_in_cell": "x is type(x)('r') and x.label() == 'red'",
    "namedtuple_inst": "x == (2, 5) and x._replace(y=1).y == 1",
    "typeddict_cls": "x(n=1) == {'n': 1} and set(x.__annotations__) == {'n'}",
    "langgraph_builder": "x.compile().invoke({'n': 2}) == {'n': 6}",
    "langgraph_compiled": "x.invoke({'n': 2}) == {'n': 6}",
    "langgraph_ckpt": "x.get_state({'configurable': {'thread_id': 't'}}).values == {'n': 6} and "
    "x.invoke({'n': 3}, {'configurable': {'thread_id': 't'}}) == {'n': 9}",
    "lc_messages": "[(m.type, m.content) for m in x] == [('human', 'hi'), ('ai', 'ho')]",
    "lc_tool": "x.invoke({'query': 'q'}) == 'q/3'",
    "list_iter": "list(x) == [1, 2, 3]",
    "event": "x.is_set() and x.wait(1) and not x.clear() and not x.is_set()",
    "queue": "x.get_nowait() == 'next' and x.maxsize == 5 and not x.put('new') and x.qsize() == 1",
    "asyncio_queue": "__import__('asyncio').run(x.get()) == 'job' and x.empty()",
    "weakref_": "x() is o['inst_in_cell']",
    "figure": "x.savefig(__import__('io').BytesIO()) is None and x.axes == [o['axes']]",
    "axes": "x.get_figure() is o['figure'] and x.plot([1], label='b') and len(x.lines) == 2",
    "bytesio": "x.read() == b'abc'",
    "logger": "x is __import__('logging').getLogger('shop')",
    "exception": "x.args == ('no', 3) and isinstance(x, ValueError)",
    "memview": "x[1] == 98 and x.tobytes() == b'abc'",
    "defaultdict_lambda": "x['new'] == 3",
    "property_cls": "x.fget(o['inst_in_cell']) == 'ADA'",
    "traceback_exc": "isinstance(x, ZeroDivisionError) and str(x) == 'division by zero'",
}

REFUSED = {
    "generator": "a generator or coroutine",
    "coroutine": "a generator or coroutine",
    "file_read": "an open file",
    "file_write": "an open file",
    "socket": "a network connection",
    "lock": "a lock",
    "rlock": "a lock",
    "thread": "a thread",
    "threadpool": "a thread, process or pool",
    "popen": "a thread, process or pool",
    "sqlite": "a database connection",
    "duckdb": "a database connection",
    "contextvar": "a context variable",
    "ctx": "a context variable",
}

BEYOND = {
    "polars_frame": "x.with_columns(c=x['a'] * 2)['c'].to_list() == [2, 4, 6]",
    "polars_lazy": "x.collect()['b'].to_list() == ['y', None]",
    "tensor": "x.sum().backward() is None and x.grad.tolist() == [[1.0] * 3] * 2",
    "torch_model": "x(__import__('torch').ones(1, 3)).shape == (1, 2) and x.training",
}
BEYOND_REFUSED = {"asyncio_task": "a task", "asyncio_future": "a task"}
NEEDS = {
    "polars_frame": "polars",
    "polars_lazy": "polars",
    "tensor": "torch",
    "torch_model": "torch",
}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """Keep everything in one process and use it in another: what was refused, what was seen."""
    folder = tmp_path_factory.mktemp("matrix")
    kept, refused = json.loads(_main(CELLS + KEEP, folder))
    names = {name for group in kept for name in group}
    claims = {name: claim for name, claim in (CLAIMS | BEYOND).items() if name in names}
    answers = json.loads(_main(USE, folder, json.dumps(claims)))
    assert answers.keys() - {"later globals"} == names
    return refused, answers


def _main(code: str, folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LANGSMITH_TRACING": "false"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_matrix_is_whole():
    """There are 54 objects in it; at least 40 are used in a fresh process."""
    assert len(CLAIMS.keys() | REFUSED.keys()) == 54
    assert len(CLAIMS) >= 40


@pytest.mark.parametrize("name", [*CLAIMS, *BEYOND])
def test_used_in_a_fresh_process(matrix, name):
    """It came back and does there what it did."""
    module = NEEDS.get(name)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    refused, answers = matrix
    assert name not in refused
    assert answers[name] == "True"


@pytest.mark.parametrize("name", [*REFUSED, *BEYOND_REFUSED])
def test_refused_by_name(matrix, name):
    """It is refused when it is kept, and it is said what it is and what to do."""
    refused, answers = matrix
    assert refused[name].startswith(f"it is {(REFUSED | BEYOND_REFUSED)[name]}")
    assert "; " in refused[name]
    assert name not in answers


def test_nothing_else_is_refused(matrix):
    """The list of what is refused is fixed."""
    assert matrix[0].keys() == REFUSED.keys() | BEYOND_REFUSED.keys()


def test_functions_see_later_globals(matrix):
    """What a later cell sets is what a function from an earlier one uses."""
    assert matrix[1]["later globals"] == [10, 11, "hello Ada 5"]
