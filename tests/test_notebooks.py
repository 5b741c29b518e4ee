"""The example notebooks do what they say, undisturbed and killed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from support.examples import NOTEBOOKS, PARAMETERS, Example, ShopModel
from support.openai_server import ModelCall

from notebook_agents.errors import NotebookAgentsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
RESUME = "import notebook_agents as na\nprint(na.resume({thread!r}).value['messages'][-1].text)"


@pytest.fixture
def example(tmp_path: Path) -> Callable[..., Example]:
    """Put one of the notebooks into a folder of its own."""

    def make(name: str, environment: dict[str, str] | None = None, **parameters: Any) -> Example:
        return Example(name, tmp_path, parameters, environment or {})

    return make


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_lie_there_clean(name: str) -> None:
    """Valid, without outputs, with short lines and ids that say what a cell is."""
    nb = nbformat.read(NOTEBOOKS / name, as_version=4)
    nbformat.validate(nb)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]

    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert max(len(line) for cell in nb.cells for line in cell.source.splitlines()) <= 110
    assert all(not cell.id.isalnum() or cell.id.isalpha() for cell in nb.cells)
    assert sum(PARAMETERS in cell.metadata.get("tags", ()) for cell in nb.cells) <= 1
    assert nb.cells[0].source.startswith("# ")


# -- 02: a chat agent with tools -------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[ShopModel]:
    """Serve the model, outside of every kernel."""
    with ShopModel() as server:
        yield server


@pytest.fixture
def chat(example: Callable[..., Example], model: ShopModel) -> Example:
    """Have the notebook talk to that model through OpenAI's own client."""
    environment = {"OPENAI_API_KEY": "sk-test"}
    return example("02_chat_with_tools.ipynb", environment, BASE_URL=f"{model.url}/v1")


def looks_right(chat: Example, model: ShopModel, told: dict[str, str]) -> None:
    """Check what the notebook shows when it has run to its end, and what the tools did."""
    assert told["ask"] == model.answers[0]
    assert told["stream"] == model.answers[1]
    lines = ["price of lamp", "price of table", "stock of chair", "stock of lamp"]
    assert told["ledger"].splitlines() == lines
    done = chat.ledger()
    assert len({line["key"] for line in done}) == len(lines)


def test_a_chat_asks_for_each_reply_once(chat: Example, model: ShopModel) -> None:
    """Five replies, streamed; run again in a new kernel, none: the answers are there."""
    looks_right(chat, model, chat.run())
    assert len(model.model_calls) == 5
    assert all(call.body["stream"] for call in model.model_calls)
    assert len(chat.ledger()) == 4

    looks_right(chat, model, chat.run())
    assert len(model.model_calls) == 5
    assert len(chat.ledger()) == 4


@dataclass(frozen=True)
class Moment:
    """When the kernel is killed.

    Attributes:
        hook: Which of the server's hooks kills.
        number: At which request.
        resumes: Whether an empty kernel resumes before all cells are run again.
    """

    hook: str
    number: int
    resumes: bool = False


MOMENTS = {
    "second reply asked for": Moment("arrived", 2, resumes=True),
    "last reply to the first question sent": Moment("replied", 3),
    "reply that streams asked for": Moment("arrived", 5),
}


@pytest.mark.crash
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_killed_chat_pays_for_no_reply_that_returned(
    chat: Example, model: ShopModel, moment: Moment
) -> None:
    """Only the request that was under way is sent again, in the same words."""
    killed: list[ModelCall] = []

    def kill(call: Any) -> None:
        if isinstance(call, ModelCall) and call.number == moment.number and not killed:
            killed.append(call)
            chat.kill()

    setattr(model, moment.hook, kill)
    with pytest.raises(NotebookAgentsError, match=r"its kernel .* died"):
        chat.run()
    assert killed
    if moment.resumes:
        assert chat.instead(RESUME.format(thread="lamps"))["0"] == model.answers[0]

    looks_right(chat, model, chat.run())

    asked = Counter(call.conversation for call in model.model_calls)
    assert len(asked) == 5
    assert asked.pop(killed[0].conversation) <= 2
    assert set(asked.values()) == {1}
    assert len(chat.ledger()) == 4  # no tool was under way


# -- 03 to 06 --------------------------------------------------------------------------------------


def test_a_person_approves(example: Callable[..., Example]) -> None:
    """Asked, answered, done; a second time in another kernel nothing is asked and nothing done."""
    notebook = example("03_human_approval.ipynb")
    for _ in range(2):
        told = notebook.run()
        assert told["answer"] == "sent to Ann: Dear Ann, your order is ready."
        assert told["decide"].endswith("the thesis stays; deleted old.log")
        assert told["ledger"].splitlines() == ["deleted old.log", told["answer"]]
        assert len(notebook.ledger()) == 2


@pytest.mark.crash
def test_a_question_outlives_the_kernel(example: Callable[..., Example]) -> None:
    """What the notebook says to try: a question, the kernel's death, the answer in another."""
    notebook = example("03_human_approval.ipynb")
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOKS / notebook.name, 4).cells}
    with pytest.raises(NotebookAgentsError, match=r"its kernel .* died"):
        notebook.instead(cells["imports"], cells["letter"], "import os; os.kill(os.getpid(), 9)")

    told = notebook.instead(cells["imports"], cells["answer"])

    assert told["1"] == "sent to Ann: Dear Ann, your order is ready."
    assert len(notebook.ledger()) == 1


@pytest.mark.crash
def test_parts_of_a_fan_out_are_worked_on_once(example: Callable[..., Example]) -> None:
    """A kernel that dies among the parts leaves those that are done; an empty one does the rest."""
    notebook = example("04_fan_out.ipynb")
    dying = """
import os
dice = random.Random
def Random(part):
    if part == 7 and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), 9)
    return dice(part)
random.Random = Random
"""
    nb = nbformat.read(NOTEBOOKS / notebook.name, 4)
    imports, *rest = (
        cell.source for cell in nb.cells if cell.cell_type == "code" and cell.id != "parameters"
    )
    with pytest.raises(NotebookAgentsError, match=r"its kernel .* died"):
        notebook.instead("PARTS, DARTS, SECONDS = 12, 1000, 0", imports + dying, *rest)

    told = notebook.run()

    assert told["run"].startswith("π is about 3.1")
    assert [line.split(":")[0] for line in told["result"].splitlines()] == [
        f"part {part:2}" for part in range(12)
    ]
    assert told["ledger"] == "12 parts were worked on"
    assert len({line["what"] for line in notebook.ledger()}) == 12


def test_the_journal_answers_in_sql(example: Callable[..., Example]) -> None:
    """Counts that anybody can check, the failures, and a plot."""
    pytest.importorskip("matplotlib")
    told = example("05_journal_in_sql.ipynb").run()

    assert told["work"].splitlines() == ["owl 1000", "moon 2000", "voodoo 4000"]
    assert "fetch  3 steps, 6 attempts" in told["questions"]
    assert told["failures"].splitlines() == [
        f"{name}: attempt 1 of fetch failed" for name in ("owl", "moon", "voodoo")
    ]
    assert told["plots"] == "<image/png>"


@pytest.mark.crash
def test_the_command_line_from_a_cell(example: Callable[..., Example]) -> None:
    """Killed, resumed, shown; and a notebook inside the notebook."""
    notebook = example("06_headless.ipynb")
    told = notebook.run()

    assert told["run"] == "it ended with 137"
    greeted = [f"{name} was greeted" for name in ("ann", "bob", "eve")]
    assert told["resume"].splitlines() == ["it ended with 0", *greeted]
    assert told["notebook"].splitlines() == ["it ended with 0", "['zoe was greeted']"]
    done = Counter(line["what"] for line in notebook.ledger())
    assert done == Counter(f"greeted {name}" for name in ("ann", "bob", "eve", "zoe"))
