"""docs/add-a-method.md: its blocks run, and the methods in it keep to their contracts."""

from __future__ import annotations

import pytest

from suffuse.testing import check_method


@pytest.fixture(scope="module")
def page(ran):
    return ran("add-a-method.md")


@pytest.mark.parametrize("name", ["Jitter", "Renormalised", "Gain", "Reconsider", "Cubic"])
def test_what_the_page_adds_keeps_to_its_contract(page, name):
    results = check_method(getattr(page, name)())
    assert results and sum(reason is None for reason in results.values()) > len(results) / 2
