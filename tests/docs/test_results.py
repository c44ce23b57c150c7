"""The page of results, from evidence as it is kept."""

from __future__ import annotations

from suffuse.claims import evidence
from suffuse.docs import results
from suffuse.docs.results import results_page


def test_every_evidence_file_has_a_section(monkeypatch):
    found = {
        "deis": {
            "title": "DEIS", "claim": "One sentence\nover two lines.\n\nMore.", "passed": False,
            "figures": {
                "a": {"mean": 0.51234, "interval": [0.4, 0.61], "expected": {"at_most": 0.6}, "passed": True,
                      "firm": False},
                "b": {"mean": 2, "expected": {"at_least": 3.0}, "passed": False, "firm": False},
                "c": {"mean": "inf"},
            },
        }
    }  # fmt: skip
    monkeypatch.setattr(evidence, "read", lambda key, at=None: found.get(key))
    text = results_page()
    assert "1 claims were run; 0 passed." in text and "One sentence over two lines." in text and "More." not in text
    assert "| a | 0.512 [0.4, 0.61] | at most 0.6 | not firm |" in text
    assert "| b | 2 | at least 3 | missed |" in text and "| c | inf |  |  |" in text
    assert results.HEAD in text
