"""Agents with models and tools, as graphs to kill: nothing in their code knows of the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode, tools_condition

from .shapes import Shape, fire

if TYPE_CHECKING:
    from collections.abc import Sequence

TURNS = 2
"""How often the model calls tools."""
CALLS = 3
"""How many tools it calls each time."""


class Scripted(BaseChatModel):
    """A model that calls some tools a few times and then says that it is done."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Have the tools at hand."""
        return self

    def _generate(
        self, messages: list[Any], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        turn = sum(isinstance(message, AIMessage) for message in messages)
        said = f"model{turn}={fire(f'model{turn}')}"
        calls = [
            {"name": "work", "args": {"label": f"tool{turn}.{number}"}, "id": f"{turn}.{number}"}
            for number in range(CALLS if turn < TURNS else 0)
        ]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said, tool_calls=calls))])


@tool
def work(label: str) -> str:
    """Do something outside."""
    return f"{label}={fire(label)}"


class Chat(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def _classic() -> StateGraph[Any, Any, Any, Any]:
    def model(state: Chat) -> dict[str, Any]:
        return {"messages": [Scripted().invoke(state["messages"])]}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tools", ToolNode([work]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition, {"tools": "tools", END: END})
    builder.add_edge("tools", "model")
    return builder


def _read(value: dict[str, Any]) -> dict[str, Any]:
    """Return what models and tools said, by label."""
    texts = [m.content for m in value["messages"] if isinstance(m, AIMessage | ToolMessage)]
    return {"results": dict(text.split("=") for text in texts), "order": [], "pages": []}


_SAID = tuple(f"model{turn}" for turn in range(TURNS + 1))
_DONE = tuple(f"tool{turn}.{number}" for turn in range(TURNS) for number in range(CALLS))

CHAT = {
    shape.name: shape
    for shape in (
        Shape(
            name=name,
            build=build,
            orders=((),),
            calls=(),
            inner=(*_SAID, *_DONE),
            given=lambda: {"messages": [HumanMessage("go on")]},
            read=_read,
        )
        for name, build in {
            "create-agent": lambda: create_agent(Scripted(), [work]),
            "tool-node": _classic,
        }.items()
    )
}
