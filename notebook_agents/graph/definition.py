"""A graph's definition, kept with the run, so that an empty process can go on with it.

Where the agent can be imported, its import path is the definition. Otherwise the graph is pickled
by value: its builder and what it was compiled with, or the function of an `@entrypoint`. Compiled
graphs do not survive pickling (an identity sentinel is copied), so each is rebuilt from those.
"""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

from langchain_core._api import LangChainBetaWarning
from langchain_core.language_models import BaseLanguageModel
from langchain_core.load import dumps as langchain_dumps
from langchain_core.load import loads as langchain_loads
from langgraph.cache.memory import InMemoryCache
from langgraph.func import entrypoint
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from notebook_agents import pickling
from notebook_agents.errors import DefinitionError, ValueNotKeptError
from notebook_agents.graph.private import DEFAULT_ERROR_HANDLER, schema_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from notebook_agents.graph.wrap import Graph

_INSIDE = "[0].__reduce__()[1][0]."  # how the pickler calls what is inside a compiled graph
_COMPILED_ATTRIBUTES = ("config", "step_timeout", "retry_policy", "cache_policy")


def compiled(graph: StateGraph[Any, Any, Any, Any] | Graph) -> Graph:
    """Return a graph that can run: a builder is compiled, a compiled one is returned as it is.

    Raises:
        DefinitionError: It is no LangGraph graph.
    """
    if isinstance(graph, StateGraph):
        return graph.compile()
    if isinstance(graph, Pregel):
        return graph
    raise DefinitionError(
        f"an agent needs a StateGraph, a compiled graph or an @entrypoint, and was given a "
        f"{type(graph).__module__}.{type(graph).__qualname__}"
    )


def capture(
    graph: Graph,
    *,
    agent: str,
    import_path: str | None,
    allow: Iterable[tuple[str, ...] | type],
    reference: Callable[[object], str | None],
) -> dict[str, Any]:
    """Return a graph's definition: an import path, or a pickle.

    Raises:
        DefinitionError: A part cannot be kept; the message names it and says why.
    """
    if import_path is not None:
        return {"import": import_path}
    what = f"the definition of agent {agent!r}"
    kept = (graph, tuple(allow), _main_types(graph, allow))
    try:
        return {
            "pickle": pickling.dumps(
                kept, what=what, secrets=pickling.known_secrets(), reference=reference
            )
        }
    except ValueNotKeptError as error:
        reason = str(error).replace(_INSIDE, "")
        raise DefinitionError(
            f"agent {agent!r} could not be resumed in another process, so its run was not started: "
            f"{reason}; or define the agent in a module that can be imported"
        ) from error


def rebuild(
    definition: dict[str, Any], *, agent: str, reference: Callable[[str], object]
) -> tuple[Graph, tuple[Any, ...]]:
    """Return the graph of a definition, and the types it allows in its state.

    Its classes are put into `__main__` where nothing has their names: the state's serialiser looks
    for them there.

    Raises:
        DefinitionError: It cannot be imported, or not be unpickled here.
    """
    if "import" in definition:
        found = import_object(definition["import"])
        graph, allow = getattr(found, "graph", found), getattr(found, "allow", ())
        return compiled(graph), tuple(allow)
    try:
        kept: Any = pickling.loads(definition["pickle"], reference=reference)
    except ValueNotKeptError as error:
        raise DefinitionError(
            f"agent {agent!r} cannot be rebuilt in this process: {error}"
        ) from error
    graph, allow, types = kept
    main = sys.modules["__main__"]
    for name, value in types.items():
        if not hasattr(main, name):
            setattr(main, name, value)
    return graph, allow


def import_object(path: str) -> Any:
    """Return the object at `module:name`.

    Raises:
        DefinitionError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DefinitionError(
            f"the agent was imported from {path} when its run began and cannot be now ({error}): "
            "resume where that module can be imported"
        ) from error


def import_path_of(values: Iterable[object], module: str) -> str | None:
    """Return `module:name` of the first of `values` that is a global of an importable module."""
    loaded = sys.modules.get(module)
    if module == "__main__" or loaded is None or getattr(loaded, "__spec__", None) is None:
        return None
    for value in values:
        for name, held in vars(loaded).items():
            if held is value:
                return f"{module}:{name}"
    return None


def _main_types(graph: Graph, allow: Iterable[tuple[str, ...] | type]) -> dict[str, type]:
    """Return the classes of `__main__` that the state may hold, by name."""
    names = {path[1] for path in schema_types(graph) if path[0] == "__main__"}
    names |= {kind.__name__ for kind in allow if isinstance(kind, type)}
    main = vars(sys.modules["__main__"])
    return {name: main[name] for name in sorted(names) if isinstance(main.get(name), type)}


# -- how graphs and models pickle -------------------------------------------------------------


def _reduce_graph(graph: Graph) -> tuple[Any, ...]:
    arguments: dict[str, Any]
    attributes = {name: getattr(graph, name) for name in _COMPILED_ATTRIBUTES}
    if isinstance(graph, CompiledStateGraph):
        builder = copy.copy(graph.builder)
        # compile() adds the default error handler to the builder and refuses to find it there.
        builder.nodes = {
            name: node for name, node in builder.nodes.items() if name != DEFAULT_ERROR_HANDLER
        }
        arguments = {
            "checkpointer": graph.checkpointer if isinstance(graph.checkpointer, bool) else None,
            "store": graph.store,
            "cache": graph.cache,
            "interrupt_before": graph.interrupt_before_nodes,
            "interrupt_after": graph.interrupt_after_nodes,
            "debug": graph.debug,
            "name": graph.name,
            "transformers": graph.stream_transformers,
        }
        return _compile_again, (builder, arguments, attributes)
    function = _entrypoint_function(graph)
    if function is None:
        raise ValueNotKeptError(
            f"graph {graph.name!r} is a {type(graph).__qualname__} that was built by hand: build "
            "it with StateGraph or @entrypoint"
        )
    arguments = {
        "store": graph.store,
        "cache": graph.cache,
        "cache_policy": graph.cache_policy,
        "retry_policy": graph.retry_policy or None,
        "context_schema": graph.context_schema,
        "timeout": next(iter(graph.nodes.values())).timeout,
    }
    return _entrypoint_again, (function, arguments, {"config": graph.config})


def _compile_again(
    builder: StateGraph[Any, Any, Any, Any], arguments: dict[str, Any], attributes: dict[str, Any]
) -> Graph:
    return builder.compile(**arguments).copy(attributes)


def _entrypoint_again(
    function: Callable[..., Any], arguments: dict[str, Any], attributes: dict[str, Any]
) -> Graph:
    made: Graph = entrypoint(**arguments)(function)
    return made.copy(attributes)


def _entrypoint_function(graph: Graph) -> Callable[..., Any] | None:
    """Return the function under an `@entrypoint`, or None if the graph is something else."""
    if len(graph.nodes) != 1:
        return None
    bound = next(iter(graph.nodes.values())).bound
    found = getattr(bound, "afunc", None) or getattr(bound, "func", None)
    return found if callable(found) else None


def _is_remote(kind: type) -> bool:
    return any(
        (base.__module__, base.__name__) == ("langgraph.pregel.remote", "RemoteGraph")
        for base in kind.__mro__
    )


def _reduce_remote(graph: Any) -> tuple[Any, ...]:
    client = graph.sync_client or graph.client
    url = None if client is None else str(client.http.client.base_url)
    return _remote_again, (type(graph), graph.assistant_id, url, graph.name, graph.config)


def _remote_again(kind: Any, assistant: str, url: str | None, name: str, config: Any) -> Any:
    """Rebuild a graph on a server; its key comes from the environment, as it does by default."""
    return kind(assistant, url=url, name=name, config=config)


def _reduce_model(model: Any) -> tuple[Any, ...]:
    return _load_model, (langchain_dumps(model),)


def _load_model(text: str) -> Any:
    """Rebuild a LangChain model; its secrets come from the environment, as when it was made."""
    with warnings.catch_warnings():
        # Every load says that `loads` is in beta; there is nothing that its reader could do.
        warnings.simplefilter("ignore", LangChainBetaWarning)
        return langchain_loads(text, secrets_from_env=True, allowed_objects="all")


def _is_model(kind: type) -> bool:
    return issubclass(kind, BaseLanguageModel) and bool(kind.is_lc_serializable())


def _reduce_cache(_: InMemoryCache[Any]) -> tuple[Any, ...]:
    return InMemoryCache, ()  # what it held is gone with its process, as its user expects


pickling.register(lambda kind: issubclass(kind, Pregel), _reduce_graph)
pickling.register(lambda kind: kind is InMemoryCache, _reduce_cache)
pickling.register(_is_remote, _reduce_remote)
pickling.register(_is_model, _reduce_model)
