"""openapi.json as what every answer is held against."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import Mapping

API: dict[str, Any] = json.loads(
    files("notebook_agents.server").joinpath("openapi.json").read_text("utf-8")
)
seen: set[tuple[str, str, str]] = set()
"""Path, verb and status of every answer that was checked."""


@cache
def _validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator({**API, "$ref": pointer})


def path_of(path: str) -> str:
    """Return the path of openapi.json that a request's path is one of."""
    bare = "/" + path.partition("?")[0]
    found = [one for one in API["paths"] if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one), bare)]
    exact = [one for one in found if one == bare] or found
    assert len(exact) == 1, f"openapi.json has {found} for {path}"
    return exact[0]


def checked(method: str, path: str, status: int, headers: Mapping[str, str], body: Any) -> None:
    """Hold an answer against openapi.json: its status, its type, its body, its headers."""
    known = path_of(path)
    operation = API["paths"][known][method.lower()]
    assert str(status) in operation["responses"], f"{method} {known} has no answer {status}: {body}"
    answer = operation["responses"][str(status)]
    if "$ref" in answer:
        answer = API["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    assert headers["x-content-type-options"] == "nosniff"
    kind = headers["content-type"].partition(";")[0]
    assert kind in answer["content"], f"{method} {known} answers {kind}"
    _held(answer["content"][kind]["schema"], body, f"{method} {known} {status}")
    seen.add((known, method.lower(), str(status)))


def checked_event(name: str, data: Any) -> None:
    """Hold an event of the stream against openapi.json."""
    kind = API["paths"]["/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    _held(kind["x-events"][name], data, f"event {name}")
    seen.add(("/events", "get", "200"))


def _held(schema: dict[str, Any], body: Any, what: str) -> None:
    if set(schema) == {"$ref"}:
        validator = _validator(schema["$ref"])
    else:
        validator = Draft202012Validator({**schema, "components": API["components"]})
    problems = [
        f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(body)
    ]
    assert not problems, f"{what}: {problems[:5]}"
