"""The saver passes LangGraph's own conformance suite, base and extended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from conformance import CHECKS, FORMS, report

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("form", FORMS)
async def test_the_saver_passes_all_checks(form: str, home: Path) -> None:
    """81 of 81: none fails, and none of a capability is missing."""
    found = await report(form, home)
    assert [failure for result in found.results.values() for failure in result.failures] == []
    assert {name: result.tests_passed for name, result in found.results.items()} == CHECKS
    assert sum(CHECKS.values()) == 81
    assert found.conformance_level() == "FULL"
