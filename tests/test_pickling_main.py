"""What was made in `__main__` is usable in another process whose `__main__` has none of it.

One process runs CELLS as its `__main__` and keeps every expression of CASES on its own. Another one
loads each and evaluates the case's claim about it, which may use nothing but the loaded `x`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notebook_agents import errors

ROOT = Path(errors.__file__).parents[1]

CELLS = '''
from __future__ import annotations
import abc, asyncio, collections, contextlib, dataclasses, enum, functools, re, typing
from typing import Generic, NamedTuple, NewType, ParamSpec, Protocol, TypedDict, TypeVar

import pydantic
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph

rate = 3
T, P = TypeVar("T"), ParamSpec("P")
Euro = NewType("Euro", int)

def scale(value): return value * rate
def countdown(value): return [] if value == 0 else [value, *countdown(value - 1)]
def counter(start):
    def step(by=1):
        nonlocal start
        start += by
        return start
    return step
def twice(function: typing.Callable[P, T]) -> typing.Callable[P, T]:
    @functools.wraps(function)
    def both(*args: P.args, **kwargs: P.kwargs):
        return [function(*args, **kwargs), function(*args, **kwargs)]
    return both
@twice
def tripled(value: Euro): return scale(value)
async def later(value): await asyncio.sleep(0); return scale(value)
def numbers(last): yield from range(last)
@contextlib.contextmanager
def opened(name): yield name.upper()
@functools.lru_cache(maxsize=7)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.singledispatch
def kind(value): return "other"
@kind.register
def _(value: int): return "number"

class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"
    def label(self): return self.name.lower()
class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
class Level(enum.StrEnum):
    LOW = "low"
@dataclasses.dataclass
class Row:
    name: str
    colour: Colour = Colour.RED
    tags: list[str] = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    size: int
class Base:
    made = 0
    def __init__(self, value): self.value = value; Base.made += 1
    def total(self): return self.value
    @property
    def double(self): return self.value * 2
    @functools.cached_property
    def triple(self): return self.value * 3
    @classmethod
    def make(cls): return cls(7)
    @staticmethod
    def helper(value): return scale(value)
    class Inner:
        depth = 2
class Derived(Base):
    def total(self): return super().total() + 1
class Slotted:
    __slots__ = ("a", "b")
    def __init__(self): self.a = 1
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 9
Shape.register(Slotted)
class Box(Generic[T]):
    def __init__(self, item: T): self.item = item
class Sized(Protocol):
    def size(self) -> int: ...
class Meta(type):
    def __call__(cls, *args): return super().__call__(*args)
class Made(metaclass=Meta):
    pass
class Visits:
    @functools.singledispatchmethod
    def visit(self, value): return "other"
    @visit.register
    def _(self, value: int): return "number"
class State(TypedDict, total=False):
    topic: str
    rows: list[Row]
class Point(NamedTuple):
    x: int
    y: int = 5
    def sum(self): return self.x + self.y
Pair = collections.namedtuple("Pair", "left right")
class Address(pydantic.BaseModel):
    city: str
class Person(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1)
    address: Address | None = None
    friends: list[Person] = []
    @pydantic.field_validator("name")
    @classmethod
    def strip(cls, value): return value.strip()
class ShopError(Exception):
    def __init__(self, status, *, body):
        super().__init__(f"{status}: {body}")
        self.status = status
@tool
def search(query: str, limit: int = 3) -> str:
    """Search the web."""
    return f"{query}/{limit}/{rate}"

def node(state: State) -> State:
    return {"rows": [*state.get("rows", []), Row(state["topic"], Colour.GREEN)]}
builder = StateGraph(State)
builder.add_node("first", node)
builder.add_node("second", lambda state: {"topic": state["topic"] + "!"})
builder.add_edge(START, "first")
def route(state): return "second" if scale(1) == 3 else END
builder.add_conditional_edges("first", route, ["second", END])
'''

CASES = {
    # name: (expression in the first process, claim about x in the second)
    "function with a global": ("scale", "x(5) == 15"),
    "lambda": ("lambda value: scale(value) + 1", "x(1) == 4"),
    "recursive function": ("countdown", "x(3) == [3, 2, 1]"),
    "closure with state": ("counter(10)", "(x(), x(5)) == (11, 16)"),
    "decorated function": ("tripled", "x(2) == [6, 6] and x.__name__ == 'tripled'"),
    "async function": ("later", "__import__('asyncio').run(x(2)) == 6"),
    "generator function": ("numbers", "list(x(3)) == [0, 1, 2]"),
    "context manager": ("opened", "x('a').__enter__() == 'A'"),
    "partial": ("functools.partial(scale, 4)", "x() == 12"),
    "cached function": ("fib", "x(30) == 832040 and x.cache_info().maxsize == 7"),
    "single dispatch": ("kind", "(x(1), x('')) == ('number', 'other')"),
    "bound method": ("Derived(4).total", "x() == 5"),
    "bound super": ("super(Derived, Derived(4))", "x.total() == 4"),
    "class method": ("Derived.make", "x().total() == 8"),
    "class": ("Derived", "x(1).total() == 2 and x.helper(2) == 6 and x.Inner.depth == 2"),
    "instance": ("Derived(3)", "(x.total(), x.double, x.triple) == (4, 6, 9)"),
    "slots": ("Slotted()", "x.a == 1 and not hasattr(x, 'b')"),
    "abstract class": ("Square()", "x.area() == 9 and type(x).__mro__[1].__abstractmethods__"),
    "registered subclass": ("[Shape, Slotted()]", "isinstance(x[1], x[0])"),
    "generic class": ("Box[int](4)", "x.item == 4 and type(x)[str]('a').item == 'a'"),
    "protocol": ("Sized", "x.__name__ == 'Sized' and x._is_protocol"),
    "metaclass": ("Made()", "type(type(x)).__name__ == 'Meta'"),
    "single dispatch method": ("Visits()", "(x.visit(1), x.visit('')) == ('number', 'other')"),
    "enum class": ("Colour", "[m.label() for m in x] == ['red', 'green'] and x('r') is x.RED"),
    "enum member": ("[Colour.RED, Colour.RED]", "x[0] is x[1] is type(x[0])('r')"),
    "flag": ("Access.READ | Access.WRITE", "x & type(x).READ and len(type(x)) == 2"),
    "string enum": ("{'l': Level.LOW}", "x['l'] == 'low' and type(x['l']).__name__ == 'Level'"),
    "dataclass": (
        "Row('a', Colour.GREEN, ['t'])",
        "x == type(x)('a', type(x.colour)('g'), ['t']) and x != type(x)('a')",
    ),
    "dataclass class": ("Row", "x('b').tags is not x('b').tags and x('b').colour.label() == 'red'"),
    "frozen dataclass": ("Frozen(size=3)", "x == type(x)(size=3) and hash(x) is not None"),
    "typed dict": ("State", "set(x.__annotations__) == {'topic', 'rows'} and not x.__total__"),
    "named tuple": ("Point(2)", "x == (2, 5) and x.sum() == 7 and x._replace(y=1).sum() == 3"),
    "collections named tuple": ("Pair(1, 2)", "x.right == 2 and type(x).__name__ == 'Pair'"),
    "pydantic model": (
        "Person(name=' Ada ', address=Address(city='L'), friends=[Person(name='B')])",
        "type(x).model_validate_json(x.model_dump_json()) == x and type(x.friends[0]) is type(x)",
    ),
    "pydantic class": (
        "Person",
        "x(name='C ').name == 'C' and 'city' in str(x.model_json_schema())",
    ),
    "exception": ("ShopError(503, body='busy')", "(str(x), x.status) == ('503: busy', 503)"),
    "new type": ("Euro", "x(3) == 3 and (x.__module__, x.__name__) == ('__main__', 'Euro')"),
    "array of C": ("(ctypes.c_int * 3)(1, 2)", "list(x) == [1, 2, 0]"),
    "class of arrays of C": ("ctypes.Array", "x.__name__ == 'Array'"),
    "default dict": ("collections.defaultdict(lambda: scale(1))", "x['new'] == 3"),
    "langchain tool": (
        "search",
        "x.invoke({'query': 'q'}) == 'q/3/3' and x.args['limit']['default'] == 3",
    ),
    "graph builder": (
        "builder",
        "x.compile().invoke({'topic': 'a'})['rows'][0].colour.label() == 'green'",
    ),
    "everything at once": (
        "{'cls': Row, 'row': Row('a'), 'colour': Colour, 'make': lambda: Row('made')}",
        "type(x['row']) is x['cls'] is type(x['make']()) and x['row'].colour is x['colour'].RED",
    ),
}

KEEP = """
import ctypes, json, pathlib, sys
from notebook_agents.pickling import dumps
folder, cases = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
for number, (name, (expression, _)) in enumerate(cases.items()):
    (folder / str(number)).write_bytes(dumps(eval(expression), what=name))
"""

CHECK = """
import json, pathlib, sys
from notebook_agents.pickling import loads
folder, cases = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
answers = {}
for number, (name, (_, claim)) in enumerate(cases.items()):
    try:
        answers[name] = repr(bool(eval(claim, {"x": loads((folder / str(number)).read_bytes())})))
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def run(code: str, *arguments: str, path: str = "") -> str:
    """Run `code` as the `__main__` of a new process and return what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), path]))}
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, str]:
    """Keep every case in one process and check all in another."""
    folder = str(tmp_path_factory.mktemp("kept"))
    run(CELLS + KEEP, folder, json.dumps(CASES))
    return json.loads(run(CHECK, folder, json.dumps(CASES)))


@pytest.mark.parametrize("name", CASES)
def test_usable_in_a_fresh_process(answers, name):
    """What a cell defined is used as before where that cell never ran."""
    assert answers[name] == "True"


def test_one_class_in_a_fresh_process(tmp_path):
    """Records that were kept on their own have one class when a fresh process loads them."""
    kept = {"a": ["[Row('a'), Colour.RED]", ""], "b": ["[Row('a'), Colour.RED]", ""]}
    run(CELLS + KEEP, str(tmp_path), json.dumps(kept))
    code = """
import pathlib, sys
from notebook_agents.pickling import dumps, loads
first, second = [loads((pathlib.Path(sys.argv[1]) / name).read_bytes()) for name in "01"]
again = loads(dumps(second, what="again"))
assert type(first[0]) is type(second[0]) is type(again[0])
assert first[1] is second[1] is again[1]
assert first == second == again
"""
    run(code, str(tmp_path))


def test_annotations_that_are_objects(tmp_path):
    """Names of `typing` that a cell made come back in the annotations that mention them."""
    cells = """
from typing import Callable, NewType, ParamSpec, TypeVar, TypeVarTuple
Euro, P, T, Ts = NewType("Euro", int), ParamSpec("P"), TypeVar("T"), TypeVarTuple("Ts")
def pay(call: Callable[P, T], amount: Euro, *rest: *Ts) -> T: return call(amount)
"""
    claim = (
        "x(str, 3) == '3' and x.__annotations__['amount'].__supertype__ is int"
        " and str(x.__annotations__['call']) == 'typing.Callable[~P, ~T]'"
    )
    cases = json.dumps({"pay": ["pay", claim]})
    run(cells + KEEP, str(tmp_path), cases)
    assert json.loads(run(CHECK, str(tmp_path), cases)) == {"pay": "True"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters(tmp_path):
    """Type parameters and `type` statements of a cell come back, too."""
    cells = """
type Rows[T] = list[T]
def first[T](rows: Rows[T], *, other: Rows[int] | None = None) -> T: return rows[0]
class Box[T]:
    def __init__(self, item: T): self.item = item
"""
    claim = "x[0]([4]) == 4 and x[1].item == 1 and 'Rows' in str(x[0].__annotations__['rows'])"
    cases = json.dumps({"generic": ["[first, Box[int](1)]", claim]})
    run(cells + KEEP, str(tmp_path), cases)
    assert json.loads(run(CHECK, str(tmp_path), cases)) == {"generic": "True"}


def test_modules_by_value(tmp_path):
    """A module of the user's own goes by value when asked to, with what it imports from itself."""
    package = tmp_path / "here" / "shop_helpers"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from shop_helpers import prices\nVAT = 2\n")
    (package / "prices.py").write_text(
        "import functools\nimport shop_helpers\n"
        "class Price:\n    def __init__(self, net): self.net = net\n"
        "    def gross(self): return self.net * shop_helpers.VAT\n"
        "@functools.cache\ndef price(net): return Price(net)\n"
    )
    keep = """
import pathlib, sys
from notebook_agents.pickling import dumps
import shop_helpers
from shop_helpers.prices import price
def node(net): return price(net).gross() + shop_helpers.VAT
for name, by_value in {"value": ["shop_helpers"], "name": []}.items():
    (pathlib.Path(sys.argv[1]) / name).write_bytes(dumps(node, what="node", by_value=by_value))
"""
    load = """
import pathlib, sys
from notebook_agents.errors import ValueNotKeptError
from notebook_agents.pickling import loads
folder = pathlib.Path(sys.argv[1])
assert loads((folder / "value").read_bytes())(10) == 22
try:
    loads((folder / "name").read_bytes())
except ValueNotKeptError as error:
    print(error)
"""
    run(keep, str(tmp_path), path=str(package.parent))
    message = run(load, str(tmp_path))
    assert "No module named 'shop_helpers'" in message
    assert "install or define what is missing" in message


def test_bad_part_of_a_module_by_value(tmp_path):
    """The way to a refused object is found through a module that goes by value."""
    (tmp_path / "shop_lock.py").write_text(
        "import threading\nguard = threading.Lock()\ndef buy(): return guard\n"
    )
    code = """
from notebook_agents.errors import ValueNotKeptError
from notebook_agents.pickling import dumps
from shop_lock import buy
try:
    dumps({"node": lambda: buy()}, what="definition of agent 'shop'", by_value=["shop_lock"])
except ValueNotKeptError as error:
    print(error)
"""
    message = run(code, path=str(tmp_path))
    assert message.startswith("definition of agent 'shop' cannot be kept: ")
    assert "['node'].__globals__['buy'].__globals__['guard'] is a lock" in message
