from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from smp_ray.errors import DataError
from smp_ray.sources import registry
from smp_ray.sources.base import Intake, RawPost, Reader, SourceSettings
from smp_ray.store.workspace import Workspace
from tests.sources.helpers import section, take


class ToySource(SourceSettings):
    kind: Literal["toy"]
    posts: int = 3

    def open(self, workspace: Workspace) -> Reader:
        return ToyReader(self)


class ToyReader(Reader):
    def identify(self) -> Any:
        return self.source.model_dump()

    def posts(self, intake: Intake) -> Iterator[RawPost]:
        for number in range(self.source.model_dump()["posts"]):
            yield RawPost({"post_id": str(number), "split": "test"}, None, "toy")


def test_a_source_is_a_file_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", (*registry.BUILT_IN, f"{__name__}:ToySource"))
    taken = take(tmp_path, kind="toy", posts=2)
    assert list(taken.posts) == ["0", "1"]
    assert taken.made.details["synthetic"] is False


@pytest.mark.parametrize("source", [{"kind": "toy"}, {"path": "posts.csv", "columns": {"post_id": "id"}}])
def test_unknown_kind_is_an_error_of_the_configuration(source: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        section(**source)
    assert error.value.errors()[0]["type"] in ("union_tag_invalid", "union_tag_not_found")


@pytest.mark.parametrize("kind", ["smpd_image", "smpd_video", "table"])
def test_path_that_the_filesystem_refuses_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    columns = {"columns": {"post_id": "id"}} if kind == "table" else {}
    with pytest.raises(DataError, match="cannot be read") as error:
        take(tmp_path / "ws", kind=kind, path=str(tmp_path / ("x" * 300)), **columns)
    assert "\n" not in str(error.value)


def test_loading_a_configuration_loads_no_heavy_library() -> None:
    code = "import sys; from smp_ray.sources import source_type; source_type(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "PIL", "torch", "ray", "scipy", "smp_ray.demo.world"} & set(loaded)
