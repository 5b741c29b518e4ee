"""What this package needs of LangGraph and LangGraph does not publish: all of it, in one place.

`tests/test_private.py` is the canary: it fails when a release changes one of these.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import ormsgpack
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor, var_child_runnable_config
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_READ,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_TASK_ID,
    ERROR,
    ERROR_SOURCE_NODE,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
    RETURN,
    TASKS,
)
from langgraph._internal._scratchpad import PregelScratchpad
from langgraph._internal._serde import build_serde_allowlist
from langgraph.checkpoint.serde.jsonplus import EXT_PYDANTIC_V2, JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot as DeltaSnapshot
from langgraph.graph._branch import BranchSpec
from langgraph.graph.state import _DEFAULT_ERROR_HANDLER_NODE as DEFAULT_ERROR_HANDLER
from langgraph.pregel import _executor as EXECUTORS  # noqa: N812 - what handover.py changes
from langgraph.runtime import ExecutionInfo
from langgraph.types import _interrupt_id as interrupt_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from langchain_core.runnables import Runnable, RunnableConfig
    from langgraph.checkpoint.base import Checkpoint

    Execute = Callable[[list[str], set[str]], Any]
    from langgraph.pregel import Pregel

__all__ = [
    "CONTROL",
    "DEFAULT_ERROR_HANDLER",
    "ERROR",
    "ERROR_SOURCE_NODE",
    "EXECUTORS",
    "NULL_TASK_ID",
    "RESUME",
    "RETURN",
    "DeltaSnapshot",
    "execution_info",
    "interrupt_id",
    "is_asked_outside",
    "is_tool_node",
    "keep_off",
    "keeping_off",
    "own_interrupts",
    "path_of",
    "placed",
    "replace_call",
    "schema_types",
    "state_after",
    "superstep",
    "threaded",
    "tools_module",
    "triggered",
    "unpacker",
    "with_path",
    "with_tool_calls",
]


CONTROL = frozenset({ERROR, ERROR_SOURCE_NODE, INTERRUPT, RESUME})
"""The channels by which a task's writes say how it ended, and not what it writes."""


def execution_info(config: RunnableConfig | None) -> ExecutionInfo | None:
    """Return which task of which checkpoint a node runs as; None outside a graph."""
    runtime = (config or {}).get(CONF, {}).get(CONFIG_KEY_RUNTIME)
    info = getattr(runtime, "execution_info", None)
    return info if isinstance(info, ExecutionInfo) else None


def own_interrupts(config: RunnableConfig) -> tuple[str, set[str]]:
    """Return the id of the task that code runs in, and those of all that it can have asked so far.

    An error handler runs as a task of its own, though `execution_info` has the failed node's id.
    """
    configurable = config.get(CONF, {})
    scratchpad, ns = configurable[CONFIG_KEY_SCRATCHPAD], configurable[CONFIG_KEY_CHECKPOINT_NS]
    answers = range(len(scratchpad.resume) + 1)
    return configurable[CONFIG_KEY_TASK_ID], {interrupt_id(ns, number) for number in answers}


def is_asked_outside(error: KeyError) -> bool:
    """Whether an error is what `interrupt()` raises outside a run."""
    return error.args == (CONFIG_KEY_SCRATCHPAD,)


def superstep(config: RunnableConfig | None) -> int:
    """Return the number of the superstep that a node runs in; 0 where the config does not say."""
    step = ((config or {}).get("metadata") or {}).get("langgraph_step")
    return step if isinstance(step, int) else 0


def state_after(config: RunnableConfig | None, writes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the state as it is where a node runs, with what the node would write.

    Nothing is changed.

    Raises:
        Exception: What a reducer says of a write.
    """
    read = (config or {}).get(CONF, {}).get(CONFIG_KEY_READ)
    if read is None:
        return {}
    _, channels, *_ = read.args  # it is a partial
    written: dict[str, list[Any]] = {}
    for name, value in writes:
        if name in channels:
            written.setdefault(name, []).append(value)
    after = dict(channels)
    for name, values in copy.deepcopy(written).items():
        after[name] = copy.deepcopy(channels[name])  # a reducer may change what it is given
        after[name].update(values)
    return {name: channel.get() for name, channel in after.items() if channel.is_available()}


def schema_types(graph: Pregel[Any, Any, Any, Any]) -> set[tuple[str, ...]]:
    """Return (module, name) of the types that a graph's state declares."""
    builder = getattr(graph, "builder", None)
    schemas = [
        getattr(builder, name, None)
        for name in ("state_schema", "input_schema", "output_schema", "context_schema")
    ]
    channels = {
        name: channel for name, channel in graph.channels.items() if hasattr(channel, "ValueType")
    }
    found: set[tuple[str, ...]] = build_serde_allowlist(
        schemas=[schema for schema in schemas if schema is not None], channels=channels
    )
    return found


def path_of(writer: Runnable[Any, Any]) -> Runnable[Any, Any] | None:
    """Return the route function of a node's writer; None where it is no conditional edge."""
    branch = getattr(getattr(writer, "func", None), "__self__", None)
    return branch.path if isinstance(branch, BranchSpec) else None


def with_path(
    writer: Runnable[Any, Any], wrapped: Callable[[Runnable[Any, Any]], Runnable[Any, Any]]
) -> Runnable[Any, Any] | None:
    """Return a copy of a conditional edge whose route function is wrapped; None for other writers.

    Compiling bound the edge to its function, so the copy is bound anew.
    """
    path = path_of(writer)
    if path is None:
        return None
    made: Any = copy.copy(writer)
    branch = made.func.__self__._replace(path=wrapped(path))
    made.func, made.afunc = branch._route, branch._aroute
    return made  # type: ignore[no-any-return]  # a RunnableCallable


def replace_call(
    config: RunnableConfig | None, made: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Replace what `@task` calls inside a node by what `made` makes of it.

    The config of a task's attempt is that attempt's own, and LangGraph's context variable holds the
    same dict.
    """
    configurable = (config or {}).get(CONF, {})
    call = configurable.get(CONFIG_KEY_CALL)
    if call is not None:
        configurable[CONFIG_KEY_CALL] = made(call)


def triggered(checkpoint: Checkpoint) -> set[str]:
    """Return the names of the nodes that a checkpoint's channels tell to run next.

    A node that waits for several others counts as soon as one of them is done.
    """
    values = checkpoint["channel_values"]
    found = {packet.node for packet in values.get(TASKS) or ()}
    for channel, value in values.items():
        kind, _, rest = channel.partition(":")
        if (kind == "branch" and rest.startswith("to:")) or (kind == "join" and value):
            found.add(rest.rpartition(":")[2])
    return found


def threaded(
    bound: Any,
    given: Any,
    run: Callable[..., Any],
) -> Runnable[Any, Any] | None:
    """Return a node's runnable whose sync function `run` calls, in a worker thread of a loop.

    None where the node has no such function: it awaits, or is no function at all.

    Args:
        bound: A node's runnable.
        given: What the node is given.
        run: Gets the function and its arguments.
    """
    afunc = getattr(bound, "afunc", None)
    if isinstance(afunc, partial) and afunc.func is run_in_executor:
        function = afunc.args[1]  # an `@entrypoint` has it nowhere else
    elif is_tool_node(bound) and _is_one_call(given) and is_sync_call(bound, _one_call(given)):
        function = bound.func
    else:
        return None
    made: Any = copy.copy(bound)
    made.afunc = partial(run_in_executor, None, partial(run, function))
    return made  # type: ignore[no-any-return]  # a RunnableCallable


def is_sync_call(bound: Any, call: dict[str, Any]) -> bool:
    """Whether a `ToolNode` on an event loop gives a call to a worker thread and nothing else."""
    tool = bound.tools_by_name.get(call["name"])
    wrapped = bound._awrap_tool_call is not None or bound._wrap_tool_call is not None
    return not wrapped and getattr(tool, "coroutine", tool) is None


def tools_module() -> Any:
    """Return the module of `ToolNode`; None where nobody has loaded it: it shall cost nobody."""
    return sys.modules.get("langgraph.prebuilt.tool_node")


def is_tool_node(bound: Runnable[Any, Any]) -> bool:
    """Whether a node's runnable is a `ToolNode`, or of a subclass of it."""
    prebuilt = tools_module()
    return prebuilt is not None and isinstance(bound, prebuilt.ToolNode)


def with_tool_calls(
    bound: Any,
    run: Callable[[dict[str, Any], str, Execute], Any],
    arun: Callable[[dict[str, Any], str, Execute, Execute | None], Awaitable[Any]],
) -> Any:
    """Return a copy of a `ToolNode` that has each of its calls executed by `run` or `arun`.

    They get the call, the name of the channel of its messages, and what executes it: that takes a
    list, to which the places are added that the call takes, and the places that other calls have.
    `arun` gets also what executes it in a worker thread, if nothing in it awaits.
    Not so where the node is given one call and nothing else, as `create_agent` does.

    `wrap_tool_call` would do as much for most nodes. But with it a `ToolNode` handles errors that
    it raises without, and on an event loop a user's sync wrapper could not be called inside it.
    """
    made = copy.copy(bound)
    key = bound._messages_key

    def sync(call: dict[str, Any], input_type: str, runtime: Any) -> Execute:
        def execute(used: list[str], taken: set[str]) -> Any:
            return bound._run_one(call, input_type, _placed(runtime, used, taken))

        return execute

    def run_one(call: dict[str, Any], input_type: str, runtime: Any) -> Any:
        return run(call, key, sync(call, input_type, runtime))

    async def arun_one(call: dict[str, Any], input_type: str, runtime: Any) -> Any:
        async def execute(used: list[str], taken: set[str]) -> Any:
            return await bound._arun_one(call, input_type, _placed(runtime, used, taken))

        threaded = sync(call, input_type, runtime) if is_sync_call(bound, call) else None
        return await arun(call, key, execute, threaded)

    made._run_one, made._arun_one = run_one, arun_one
    # The copy's functions are still the original's own methods.
    each, aeach = type(bound)._func.__get__(made), type(bound)._afunc.__get__(made)

    @wraps(bound.func)
    def func(input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LangGraph's name
        return (bound.func if _is_one_call(input) else each)(input, **kwargs)

    @wraps(bound.afunc)
    async def afunc(input: Any, **kwargs: Any) -> Any:  # noqa: A002 - LangGraph's name
        return await (bound.afunc if _is_one_call(input) else aeach)(input, **kwargs)

    made.func, made.afunc = func, afunc
    return made


def _placed(runtime: Any, used: list[str], taken: set[str]) -> Any:
    """Return a tool's runtime in which its questions and subgraphs keep off others' places."""
    config = keeping_off(runtime.config, used, taken)
    return runtime if config is None else dataclasses.replace(runtime, config=config)


def keep_off(config: RunnableConfig | None, used: list[str], taken: set[str]) -> None:
    """Have a node's questions and subgraphs keep off the places that calls inside it have.

    Those that they take are added to `used`. The config of a task's attempt is that attempt's own.
    """
    changed = keeping_off(config or {}, used, taken)
    if config is not None and changed is not None:
        config[CONF][CONFIG_KEY_SCRATCHPAD] = changed[CONF][CONFIG_KEY_SCRATCHPAD]


@contextmanager
def placed(used: list[str], taken: set[str]) -> Iterator[None]:
    """Note in `used` the places that the code in the block takes, off those that are `taken`."""
    changed = keeping_off(var_child_runnable_config.get() or {}, used, taken)
    if changed is None:
        yield
        return
    token = var_child_runnable_config.set(changed)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def keeping_off(config: RunnableConfig, used: list[str], taken: set[str]) -> RunnableConfig | None:
    """Return a config whose questions and subgraphs keep off places; None where it has no places.

    LangGraph gives an answer to the question that is asked in its place among those of a node, and
    a subgraph the checkpoints of its place. A call that is not made again takes no place, and the
    next one would get its answers.
    """
    configurable = config.get(CONF, {})
    scratchpad = configurable.get(CONFIG_KEY_SCRATCHPAD)
    if not isinstance(scratchpad, PregelScratchpad):
        return None

    def keeping_off(kind: str, counter: Callable[[], int]) -> Callable[[], int]:
        def take() -> int:
            place = counter()
            while f"{kind}{place}" in taken:
                place = counter()
            used.append(f"{kind}{place}")
            return place

        return take

    scratchpad = dataclasses.replace(
        scratchpad,
        interrupt_counter=keeping_off("interrupt", scratchpad.interrupt_counter),
        subgraph_counter=keeping_off("subgraph", scratchpad.subgraph_counter),
    )
    return {**config, CONF: {**configurable, CONFIG_KEY_SCRATCHPAD: scratchpad}}


_SAID = [
    (b"\x94" + ormsgpack.packb(kind.__module__) + ormsgpack.packb(kind.__name__), kind)
    for kind in (HumanMessage, AIMessage, ToolMessage, SystemMessage)
]
"""How the bytes of a message begin, in LangGraph's packing: an array of four, module, name."""
_seen: set[type] = set()
_direct: set[type] = set()
"""The types whose constructor was seen to do no more with a message's fields than validate them."""


def unpacker(serializer: Any) -> Callable[[bytes], Any]:
    """Return what unpacks MessagePack as a serialiser does, but messages in half the time.

    LangGraph looks each message's class up by its name, and LangChain hands its fields through four
    functions to pydantic's validator. Here the validator gets them at once; the first message of
    each type is made both ways, and if they differ, so are all others.

    Args:
        serializer: Any; only what LangGraph's own one unpacks is unpacked otherwise than it does.
    """
    if type(serializer) is not JsonPlusSerializer or serializer._custom_unpack_ext_hook:
        return lambda data: serializer.loads_typed(("msgpack", data))
    hook = serializer._unpack_ext_hook

    def unpacked(code: int, data: bytes) -> Any:
        if code == EXT_PYDANTIC_V2:
            for beginning, kind in _SAID:
                if data.startswith(beginning):
                    try:
                        fields = unpack(data)[2]
                        if kind not in _direct or "content_blocks" in fields:
                            return _constructed(kind, fields)
                        return _validated(kind, fields)
                    except Exception:  # noqa: BLE001 - LangGraph says what becomes of it
                        break
        return hook(code, data)

    def unpack(data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=unpacked, option=ormsgpack.OPT_NON_STR_KEYS)

    return unpack


def _constructed(kind: type[Any], fields: dict[str, Any]) -> Any:
    """Return a message, and see whether its type's constructor is needed."""
    made = kind(**fields)
    if kind not in _seen:
        _seen.add(kind)
        if _validated(kind, fields).__getstate__() == made.__getstate__():
            _direct.add(kind)
    return made


def _validated(kind: type[Any], fields: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    kind.__pydantic_validator__.validate_python(fields, self_instance=made)
    return made


def _one_call(given: Any) -> dict[str, Any]:
    """Return the tool call that a `ToolNode` is given alone."""
    found: dict[str, Any] = given["tool_call"] if isinstance(given, dict) else given[0]
    return found


def _is_one_call(given: Any) -> bool:
    """Whether a `ToolNode` is given one tool call instead of a state or messages."""
    if isinstance(given, dict):
        return given.get("__type") == "tool_call_with_context"
    return (
        isinstance(given, list)
        and len(given) == 1
        and isinstance(given[0], dict)
        and given[0].get("type") == "tool_call"
    )
