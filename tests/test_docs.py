"""The pages: the configuration's is current, links lead somewhere, the citation is well-formed, the README short."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_page_of_the_configuration_is_current() -> None:
    made = runpy.run_path(str(ROOT / "jobs" / "configuration_page.py"))["page"]()
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == made, (
        "run `.venv/bin/python jobs/configuration_page.py`"
    )
    for key in ("`max_new_tokens`", "## `source` with `kind: table`", "## `features.visual`", "≥ 1, ≤ 8192"):
        assert key in made


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_citation_is_of_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert "2407.00556" in citation["preferred-citation"]["url"]
