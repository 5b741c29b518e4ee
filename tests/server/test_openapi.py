"""The routes are those of openapi.json, and each of them answers as it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator

import notebook_agents as na
from notebook_agents.server.handlers import API as VERSION
from notebook_agents.server.handlers import ROUTES
from notebook_agents.server.refusals import STATUS

from .agents import add, ask, chained, look, pay
from .openapi import API, seen

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from .served import Served

VERBS = ("get", "post", "put", "patch", "delete")


def test_routes_and_codes() -> None:
    """No route, verb or code is on one side alone."""
    served = {
        (f"/{re.sub(re.escape('([^/]+)'), '*', path)}", verb)
        for path, handler in ROUTES.items()
        for verb in VERBS
        if verb in vars(handler)
    }
    told = {
        (re.sub(r"\{\w+\}", "*", path), verb)
        for path, verbs in API["paths"].items()
        for verb in verbs
    }
    assert served == told
    schemas = API["components"]["schemas"]
    assert set(schemas["Error"]["properties"]["code"]["enum"]) == set(STATUS)
    assert schemas["About"]["properties"]["api"] == {"const": VERSION} | {
        "description": schemas["About"]["properties"]["api"]["description"]
    }
    assert set(STATUS.values()) == {400, 404, 409, 500}


@pytest.mark.parametrize("name", sorted(API["components"]["schemas"]))
def test_schemas_are_schemas(name: str) -> None:
    """Each is valid, and what it refers to is there."""
    schema = API["components"]["schemas"][name]
    Draft202012Validator.check_schema(schema)
    for reference in re.findall(r"#/components/schemas/(\w+)", str(schema)):
        assert reference in API["components"]["schemas"]


def test_every_operation(
    server: Served,
    home: Path,
    where: str,
    driver: subprocess.Popen[str],
    dies: Callable[[Callable[[], object]], None],
) -> None:
    """Each is done once, and its answer is as openapi.json says."""

    def body() -> None:
        with na.Journal.open(home) as journal:
            na.Agent(chained(pay), "payer", journal).run({"n": 0}, thread="doubt")

    dies(body)
    with na.Journal.open(home) as journal:
        na.Agent(chained(add, look), "looker", journal).run({"n": 0}, thread="done")
        na.Agent(chained(ask), "asker", journal).run({"n": 0}, thread="who")
        na.Agent(chained(pay), "payer", journal).resume("doubt")
    for path in ("about", "journals"):
        server.ask(path)
    server.ask("variables", journal=where, of="a.ipynb")
    for path in ("health", "threads", "threads/who", "threads/done/runs/1", "journal/size"):
        server.ask(path, journal=where)
    state = server.ask("threads/doubt/runs/newest", journal=where)
    (step,) = [step["id"] for step in state["steps"] if step["undecided"]]
    server.ask(f"threads/doubt/steps/{step}", journal=where)
    asked = {"step": step, "happened": False}
    server.ask("threads/doubt/resolve", "POST", journal=where, sent=asked)
    server.ask("threads/done/fork", "POST", journal=where, expect=201)
    server.ask("threads/done", "DELETE", journal=where)
    server.ask("threads/t/cancel", "POST", journal=where)
    server.ask("threads/t/stop", "POST", journal=where)
    driver.wait(30)
    server.ask("journal/compact", "POST", journal=where)
    stream = server.stream(journal=where, thread="doubt")
    stream.until("run")
    stream.close()
    for path, verbs in API["paths"].items():
        for verb, operation in verbs.items():
            good = min(operation["responses"])
            assert (path, verb, good) in seen, f"nobody saw {verb} {path} answer {good}"
