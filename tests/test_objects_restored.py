"""Objects that come back and that do not: reports, hooks, modules, versions."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

import numpy
import pytest
from support.objects import counting, fresh, no_hooks  # noqa: F401 - a fixture

import notebook_agents as na
from notebook_agents.errors import (
    ObjectNotRestoredError,
    UsageError,
)
from notebook_agents.pickling import reopen, versions

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def agent(journal: na.Journal) -> na.Agent:
    """An agent whose only node adds to what is in the objects."""
    return counting(journal)


def test_one_that_fails_does_not_stop_the_others(journal, agent, python, home):
    """Its bytes stay: where what it needs is there it comes back, also after more snapshots."""
    program = (
        "import sys, types\nimport notebook_agents as na\n"
        "sys.modules['shop'] = shop = types.ModuleType('shop')\n"
        "exec('class Price: net = 3', vars(shop))\nshop.Price.__module__ = 'shop'\n"
        f"with na.Journal.open({str(home)!r}) as journal:\n"
        "    from notebook_agents.graph.objects import Objects\n"
        "    objects = Objects(journal, 't')\n    {}\n"
    )
    put = "objects['<b>price'] = shop.Price(); objects['rows'] = [1]"
    done = python(program.format(put))
    assert done.code == 0, done.err
    objects = fresh(journal)
    assert objects["rows"] == [1]
    with pytest.raises(ObjectNotRestoredError, match="No module named 'shop'") as caught:
        objects["<b>price"]
    assert (caught.value.thread, caught.value.name) == ("t", "<b>price")
    report = objects.restore()
    assert (report.restored, list(report.failed)) == (("rows",), ["<b>price"])
    assert "1 restored, 1 failed" in str(report)
    assert "failed <b>price: " in str(report)
    assert "<b>" not in report.to_html()
    assert "&lt;b&gt;price" in report._repr_html_()
    assert json.loads(report.to_json())["failed"].keys() == {"<b>price"}
    agent.run({"n": 1}, thread="t")
    objects["rows"] = [2]
    done = python(program.format("print(objects['<b>price'].net, objects['rows'])"))
    assert done.out == "3 [2]\n", done.err


def test_reopened_by_name_and_by_type(journal, agent, tmp_path: Path):
    """What cannot be kept is described, and opened again where it is asked for."""
    path = str(tmp_path / "shop.db")
    na.on_restore("db", lambda: sqlite3.connect(path))

    @na.on_restore(
        sqlite3.Cursor, keep=lambda cursor: cursor.connection.execute("select 5").fetchone()
    )
    def again(row: tuple[int]) -> str:
        return f"again {row[0]}"

    with sqlite3.connect(path) as db:
        db.execute("create table rows (n)")
        db.execute("insert into rows values (3)")
    objects = agent.thread("t", new=True).objects
    objects["db"] = db
    objects["nested"] = {"cursor": db.cursor()}
    reopen._hooks.clear()
    found = fresh(journal)
    assert found["db"].execute("select n from rows").fetchone() == (3,)
    assert found["nested"] == {"cursor": "again 5"}
    found["db"].close()
    db.close()
    na.on_restore("db", lambda: "by this process's hook")
    assert fresh(journal)["db"] == "by this process's hook"
    with pytest.raises(UsageError, match="give the object's name"):
        na.on_restore(3)


def test_modules_that_a_cell_wrote(journal, python, home, tmp_path: Path):
    """Their source is kept: they are there again where there is no such file."""
    write = (
        "import pathlib, sys\nsys.path.insert(0, '')\n"
        "pathlib.Path('helper_mod.py').write_text('import inner_mod\\nclass Box:\\n'\n"
        "    '    n = 2\\n    def more(self): return inner_mod.ADD + self.n\\n')\n"
        "pathlib.Path('inner_mod.py').write_text('ADD = 40\\n')\n"
        "import helper_mod, notebook_agents as na\n"
        "from notebook_agents.graph.objects import Objects\n"
        f"with na.Journal.open({str(home)!r}) as journal:\n"
        "    Objects(journal, 't').update(box=helper_mod.Box(), mod=helper_mod)\n"
    )
    done = python(write)
    assert done.code == 0, done.err
    use = (
        "import notebook_agents as na\nfrom notebook_agents.graph.objects import Objects\n"
        f"with na.Journal.open({str(home)!r}) as journal:\n"
        "    o = Objects(journal, 't')\n    print(o['box'].more(), o['mod'].Box.n)\n"
        "    print(o.restore())\n    o['again'] = o['box']\n"
    )
    (tmp_path / "helper_mod.py").unlink()
    (tmp_path / "inner_mod.py").unlink()
    for _ in range(2):
        done = python(use)
        assert done.out.startswith("42 2\n"), done.err
        assert "module helper_mod is not here: its kept source is used" in done.out
        assert "module helper_mod" in done.err


def test_other_versions_are_said_before_loading(journal, agent, capsys, monkeypatch):
    """They are recorded; where this process has others it is said which, and what to do."""
    monkeypatch.setattr(
        versions, "here", lambda: {"python": "3.9.1", "numpy": "1.2.3", "dill": "0.1.0"}
    )
    agent.thread("t", new=True).objects["a"] = 1
    monkeypatch.undo()
    assert versions.here().keys() >= {"python", "dill", "cloudpickle", "numpy"}
    objects = fresh(journal)
    assert objects["a"] == 1
    said = capsys.readouterr().err
    assert "kept under Python 3.9.1" in said
    assert 'pip install "numpy==1.2.*"' in said
    assert 'pip install "dill==0.1.*"' in said
    assert objects.restore().notes == tuple(
        line.removeprefix("objects of thread 't': ")
        for line in said.splitlines()
        if line.startswith("objects of")
    )


def test_one_whose_record_was_altered(journal, agent, python, home):
    """It is not unpickled: it fails with the record's number, and the others are there."""
    objects = agent.thread("t", new=True).objects
    objects["rows"], objects["table"] = [1], numpy.arange(1000.0)
    done = python(
        f"import sqlite3\ndb = sqlite3.connect({str(home / 'queue.sqlite')!r})\n"
        "with db: print(db.execute('update records set payload = zeroblob(length(payload)) where '"
        "'seq = (select seq from records where size > 7000 and digest is not null)').rowcount)"
    )
    assert done.out == "1\n", done.err
    objects = fresh(journal)
    with pytest.raises(ObjectNotRestoredError, match=r"\(chunk\) of thread 't' does not"):
        objects["table"]
    assert objects["rows"] == [1]
    report = objects.restore()
    assert (report.restored, list(report.failed)) == (("rows",), ["table"])
    objects["table"] = 2
    assert fresh(journal).restore().complete
