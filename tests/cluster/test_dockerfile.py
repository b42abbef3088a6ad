"""`cluster/Dockerfile`: what can be said without a daemon; docs/cluster.md says how far its steps were run by hand."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cluster.manifests import ROOT

TEXT = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
#: Its instructions, comments and line ends taken out.
STEPS = [
    tuple(line.split(None, 1))
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def test_what_is_copied_is_here_and_is_no_more_than_a_run_needs() -> None:
    copied = [word for name, rest in STEPS if name == "COPY" for word in rest.split()[:-1]]
    assert [word for word in copied if not (ROOT / word).exists()] == []
    assert {"smp_ray", "jobs", "configs", "constraints.txt"} <= set(copied)
    # Never the folder as a whole, in which credentials may lie.
    assert {".", "./", "/"}.isdisjoint(copied)


def test_packages_are_pinned_and_nothing_runs_as_root() -> None:
    installs = [part for name, rest in STEPS if name == "RUN" for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert [part for part in installs if "--constraint constraints.txt" not in part] == []
    names = [name for name, _ in STEPS]
    user = len(names) - names[::-1].index("USER") - 1
    assert STEPS[user][1] == "1000"
    assert [rest for name, rest in STEPS[user:] if name in ("COPY", "ADD")] == []
    assert "CMD" in names[user:]


def test_python_is_that_of_the_constraints() -> None:
    (version,) = re.findall(r"FROM python:(\d+\.\d+)", TEXT)
    assert f"(Python {version})" in Path(ROOT / "constraints.txt").read_text(encoding="utf-8")
