"""The benchmark: no two posts are equal, medians and shares of the limit are what the table shows."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from jobs.bench import forward, variants
from jobs.bench.__main__ import plot, summary, table
from jobs.bench.cases import CASES, read_posts, write_posts
from jobs.bench.contenders import in_batches


def test_every_post_is_another(tmp_path: Path) -> None:
    write_posts(tmp_path / "posts", 23, None)
    pictures, titles = read_posts(tmp_path / "posts")
    assert len({path.read_bytes() for path in pictures}) == len(set(titles)) == 23
    assert {Image.open(path).size for path in pictures} == {(768, 576)}


def test_real_posts_are_read_relative_to_their_table(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "one.jpg")
    (tmp_path / "given.csv").write_text("image,title,other_captions\none.jpg,a boat,a red boat | a boat at sea\n")
    write_posts(tmp_path / "posts", 4, tmp_path / "given.csv")
    pictures, titles = read_posts(tmp_path / "posts")
    assert titles == ["a boat 0", "a red boat 1", "a boat at sea 2", "a boat 3"]
    assert {Image.open(path).size for path in pictures} == {(40, 30)}


def test_medians_and_shares() -> None:
    limit = {"case": "clip", "contender": "limit", "posts": 100, "first": 9.0, "whole": 20.0}
    rounds = [{**limit, "rate": rate} for rate in (19.0, 20.0, 30.0)]
    ours = {"case": "clip", "contender": "smp_ray", "posts": 100, "rate": 15.0, "first": 12.0, "whole": 25.0}
    peer = {"case": "clip", "contender": "other", "posts": 100, "rate": 5.0, "whole": 50.0}
    found = summary([*rounds, ours, peer])
    assert [row["share"] for row in found] == [1.0, 0.75, 0.25]
    shown = table(found).splitlines()
    assert shown[3] == f"| clip | smp_ray | 100 | 15 | 12 | 25 | 0.75 | {CASES['clip'].wanted} |"
    assert shown[4] == "| clip | other | 100 | 5 |  | 50 | 0.25 |  |"
    assert len(json.loads(plot(found).to_json())["data"]) == 3


def test_where_start_up_counts_the_whole_time_is_held_against_the_limit() -> None:
    limit = {"case": "all", "contender": "limit", "posts": 100, "rate": 2.0, "first": 9.0, "whole": 80.0}
    ours = {"case": "all", "contender": "smp_ray", "posts": 100, "rate": 2.0, "first": 12.0, "whole": 100.0}
    assert [row["share"] for row in summary([limit, ours])] == [pytest.approx(0.625), 0.5]


def test_parts_of_a_list() -> None:
    assert in_batches([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def test_models_alone_by_batch_fed_and_by_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forward, "write_models", lambda folder, clip: None)
    monkeypatch.setattr(forward, "MODELS", {"small CLIP": lambda folder: ("clip", {"model": "embedded"})})
    given = ["forward", "--out", str(tmp_path), "--sizes", "2", "4", "--decoders", "1", "--threads", "1"]
    monkeypatch.setattr("sys.argv", given)
    forward.main()
    took = json.loads((tmp_path / "forward.json").read_text())["models"]["small CLIP"]
    assert set(took["rates"]) == {"2", "4"}
    assert took["ready"] == max(took["rates"].values())
    assert 0 < took["fed"] < 2 * took["ready"]
    # Not more than the device can do.
    assert 0 < took["share"] < 1.2
    monkeypatch.setattr("sys.argv", [*given, "--arithmetic"])
    forward.main()
    said = capsys.readouterr().out
    assert "By arithmetic, not measured" in said
    rate = forward.ASSUMED * forward.CARDS["T4"][0] * 1e12 / took["operations"]
    assert f"| small CLIP | {rate:,.0f}/s" in said


def test_variants_of_a_tower_give_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda tower, dynamic: tower)  # takes half a minute, and a compiler
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Flatten())
    found = variants.measure(tower, torch.randn(3, 3, 8, 8))
    assert list(found) == ["as it is", "channels last", "compiled"]
    assert all(took["rate"] > 0 and took["first"] > 0 and took["differs"] < 1e-5 for took in found.values())
    assert {took["differs"] for name, took in found.items() if name != "channels last"} == {0.0}
