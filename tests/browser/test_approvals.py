"""Stories of LangChain's human-in-the-loop middleware: what is decided under the cell is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .people import Desk

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator

    from .lab import Lab

OFFICE = """\
import json
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
import notebook_agents as na

def note(**what):
    with open("effects", "a") as file:
        print(json.dumps(what), file=file)

@tool
def send_email(to: str, subject: str) -> str:
    "Send an e-mail."
    note(to=to, subject=subject)
    return f"sent to {to}"

@tool
def delete_file(path: str) -> str:
    "Delete a file."
    note(path=path)
    return f"deleted {path}"

MAIL = {"name": "send_email", "args": {"to": "ann@example.com", "subject": "Your trip"}, "id": "1"}
DELETE = {"name": "delete_file", "args": {"path": "old.log"}, "id": "2"}

class Scripted(BaseChatModel):
    "Asks for its calls once, then repeats what the tools said."
    calls: list
    _llm_type = "scripted"
    def bind_tools(self, tools, **options):
        return self
    def _generate(self, messages, stop=None, run_manager=None, **options):
        heard = [message.text for message in messages if isinstance(message, ToolMessage)]
        reply = AIMessage("; ".join(heard), tool_calls=[] if heard else self.calls)
        return ChatResult(generations=[ChatGeneration(message=reply)])

def office(name, *calls, **options):
    asking = HumanInTheLoopMiddleware(**options)
    model = Scripted(calls=list(calls))
    graph = create_agent(model, [send_email, delete_file], middleware=[asking])
    return na.Agent(graph, name=name)

def ask(agent):
    return agent.run({"messages": [("user", "Do it.")]}, thread=agent.name)
"""
"""An agent with two tools; `effects` has a line for each call that was really made."""

ALL = '{"send_email": True}'
NO_REJECT = '{"send_email": {"allowed_decisions": ["approve", "edit"]}}'
BOTH = """{"send_email": {"allowed_decisions": ["edit", "reject"]},
     "delete_file": {"allowed_decisions": ["approve", "reject"]}}"""


def _opened(lab: Callable[..., Lab], *agents: str) -> list[Desk]:
    """Open a notebook in which each of these agents has been asked to do something."""
    tab = lab([OFFICE, *(f"ask({agent})" for agent in agents)])
    tab.run(0)
    tab.done(0)
    for number in range(1, len(agents) + 1):
        tab.run(number)
        tab.done(number)
    return [Desk(tab, number) for number in range(1, len(agents) + 1)]


def _effects(desk: Desk) -> list[dict[str, str]]:
    return [json.loads(line) for line in desk.effects()]


def _call(desk: Desk, tool: str) -> Locator:
    """Return the part of a form that decides on one call."""
    return desk.timeline.get_by_role("group", name=f"call of {tool}")


def _offered(call: Locator) -> list[str]:
    return call.get_by_role("button").all_inner_texts()


def test_langchains_approve_edit_and_reject_do_what_they_say(lab: Callable[..., Lab]) -> None:
    """Approved: one effect; edited: one, with the new argument; rejected: none, and a reason."""
    agents = [f"office('{name}', MAIL, interrupt_on={ALL})" for name in ("yes", "edited", "no")]
    approving, editing, rejecting = _opened(lab, *agents)
    call = _call(approving, "send_email")
    shown = call.get_by_label("Arguments, as JSON")
    assert json.loads(shown.input_value()) == {"to": "ann@example.com", "subject": "Your trip"}
    assert shown.get_attribute("readonly") is not None
    assert _offered(call) == ["Approve", "Edit", "Reject", "Respond"]
    approving.shot("1-asked")
    assert approving.timeline.get_by_text("Args:").count() == 0  # they stand there once
    assert approving.effects() == []
    approving.button("Approve").click()
    approving.status("succeeded").wait_for()
    approving.timeline.get_by_text("Answer: sent to ann@example.com").wait_for()
    mail = {"to": "ann@example.com", "subject": "Your trip"}
    assert _effects(approving) == [mail]
    approving.shot("2-approved")
    editing.button("Edit").click()
    field = editing.timeline.get_by_label("Arguments, as JSON")
    field.fill(field.input_value().replace("ann@", "bob@"))
    editing.shot("3-editing")
    editing.button("Send").click()
    editing.status("succeeded").wait_for()
    assert _effects(editing) == [mail, {**mail, "to": "bob@example.com"}]
    editing.shot("4-edited")
    rejecting.button("Reject").click()
    rejecting.timeline.get_by_label("Reason").fill("not on a Sunday")
    rejecting.shot("5-rejecting")
    rejecting.button("Send").click()
    rejecting.status("succeeded").wait_for()
    rejecting.timeline.get_by_text("with reason: not on a Sunday").first.wait_for()
    assert len(_effects(rejecting)) == 2
    rejecting.shot("6-rejected")


def test_two_calls_are_decided_in_their_order_and_as_allowed(lab: Callable[..., Lab]) -> None:
    """Each call has its own decision, of those that are allowed, sent only together."""
    (desk,) = _opened(lab, f"office('office', MAIL, DELETE, interrupt_on={BOTH})")
    mail, delete = _call(desk, "send_email"), _call(desk, "delete_file")
    assert _offered(mail) == ["Edit", "Reject"]
    assert _offered(delete) == ["Approve", "Reject"]
    delete.get_by_role("button", name="Approve").click()
    assert desk.button("Send").is_disabled()
    mail.get_by_role("button", name="Reject").click()
    mail.get_by_label("Reason").fill("nobody answers")
    desk.shot("1-deciding")
    desk.button("Send").click()
    desk.status("succeeded").wait_for()
    said = desk.timeline.get_by_text("Answer: ")
    said.wait_for()
    first, second = said.inner_text().split("; ")
    assert "with reason: nobody answers" in first
    assert second == "deleted old.log"
    assert _effects(desk) == [{"path": "old.log"}]
    desk.shot("2-done")


def test_what_is_not_allowed_is_not_offered(lab: Callable[..., Lab]) -> None:
    """No Reject where nobody may reject; what may be done works."""
    (desk,) = _opened(lab, f"office('office', MAIL, interrupt_on={NO_REJECT})")
    assert _offered(_call(desk, "send_email")) == ["Approve", "Edit"]
    desk.button("Approve").click()
    desk.status("succeeded").wait_for()
    assert len(_effects(desk)) == 1
