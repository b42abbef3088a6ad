"""The configuration: every mistake ends with file, key, what was found and what is allowed.

It also tests `config/report_section.py`, `config/sweep_section.py`, `config/training_section.py`, `config/whole.py`,
`section.py`.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from smp_ray.cli import app
from smp_ray.config import build_config, load_config
from smp_ray.demo.tour import SETTINGS
from smp_ray.errors import ConfigError
from smp_ray.pipeline import STAGES

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(path).features.families


def test_shipped_configs_are_found() -> None:
    assert {"demo.yaml", "smpd.yaml", "smp-video.yaml", "cluster.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("features.clap.batch_size=3", "--set: features.clap: unknown key, allowed: "),
        ("features.clip.batchsize=3", "features.clip.batchsize: unknown key, allowed: batch_size"),
        ("features.clip.batch_size=0", "features.clip.batch_size: found 0, allowed: greater than or equal to 1"),
        ("features.clip.batch_size=many", "features.clip.batch_size: found 'many', allowed: a valid integer"),
        ("features.placement=somewhere", "allowed: 'auto', 'spread' or 'colocated'"),
        ("features.families=[caption, caption]", "the list has 'caption' twice"),
        ("features.families=[smell]", "--set: features.families.0: found 'smell'"),
        ("features.clip.min_actors=9", None),
        ("source.kind=flickr", "source.kind: found 'flickr', allowed: 'demo', 'smpd_image', 'smpd_video', 'table'"),
        ("workspace=gs://bucket/x", "workspace: found 'gs://bucket/x', allowed: a folder or s3://bucket/prefix"),
        ("source.seeds=3", "source.seeds: unknown key, allowed: kind, posts, seed, test_share"),
        ("bar=1", "bar: unknown key, allowed: workspace, models, source, features, training, report, ray"),
        ("features=3", "features: found 3"),
        (
            "training.tune.space.x={type: int, low: 5, high: 3}",
            "space.x: found {'type': 'int', 'low': 5, 'high': 3}, allowed: low (5) must not be above high (3)",
        ),
        (
            "training.tune.space.x={type: float, low: 0, high: 3, log: true}",
            "low (0.0) must be above 0 where log is true",
        ),
        (
            "training.tune.space.x={low: 0, high: 3}",
            "training.tune.space.x.type: missing, allowed: 'float', 'int', 'choice'",
        ),
        (
            "training.tune.space.x={type: real}",
            "training.tune.space.x.type: found 'real', allowed: 'float', 'int', 'choice'",
        ),
        (
            "training.tune.space.x={type: float, low: 0, high: 3, step: 1}",
            "training.tune.space.x.step: unknown key, allowed: type, low, high, log",
        ),
        ("training.tune.space.metric={type: choice, values: [l1]}", "metric set by smp_ray itself"),
        (
            "training.tune={params: {max_depth: 3}, space: {max_depth: {type: int, low: 1, high: 3}}}",
            "max_depth in 'space' and in 'params'",
        ),
        ("training.split.folds=1", "training.split.folds: found 1, allowed: greater than or equal to 2"),
        ("training.split.kind=week", "training.split.kind: found 'week', allowed: 'user', 'time' or 'random'"),
        ("training.baselines=[median]", "training.baselines.0: found 'median'"),
        ("report.edges=[4, 2]", "report.edges: found [4, 2], allowed: edges in rising order"),
        (
            'report.cleaning.camera_names=["*.jpg"]',
            "report.cleaning.camera_names: found ['*.jpg'], allowed: regular expressions; '*.jpg' is none: nothing to",
        ),
        (
            "features.images.hosts=['localhost:8000']",
            "hosts.0: found 'localhost:8000', allowed: a host name or an IP address, without scheme, port and path",
        ),
        ("features.clip", "found no KEY=VALUE"),
        ("features.clip.batch_size=[", "the value is not YAML"),
        ("workspace.deep=1", "workspace is 'w', not a section"),
    ],
)
def test_overrides(override: str, expected: str | None) -> None:
    raw = {"workspace": "w", "source": {"kind": "demo"}}
    if expected is None:
        assert build_config(raw, [override]).features.clip.min_actors == 9
        return
    with pytest.raises(ConfigError) as caught:
        build_config(raw, [override])
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert raw == {"workspace": "w", "source": {"kind": "demo"}}, "it is the caller's"


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("source: {kind: table, path: x}\nfeatures: {clip: {max_actors: 1, min_actors: 2}}\nworkspace: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(str(path)) for line in lines)
    assert any("source.columns: missing" in line for line in lines)
    assert any("max_actors (1) is below min_actors (2)" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "not YAML"),
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("- 1\n", "found [1]"),
        ("", "found None"),
        (b"\xff\xfe\x00", "codec"),
    ],
)
def test_rubbish_files(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = tmp_path / "rubbish.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        load_config("nowhere.yaml")


def test_table_columns_are_checked() -> None:
    source = {"kind": "table", "path": "x.csv", "columns": {"post_id": "id", "likes": "n"}}
    with pytest.raises(ConfigError, match="'likes' is not one of"):
        build_config({"workspace": "w", "source": source})
    source["columns"] = {"title": "t"}
    with pytest.raises(ConfigError, match="needs a 'post_id' entry"):
        build_config({"workspace": "w", "source": source})


def test_the_sample_command_and_its_file_say_the_same() -> None:
    file = load_config("configs/demo.yaml")
    assert build_config(copy.deepcopy(SETTINGS), workspace=file.workspace) == file


def test_baselines_see_the_columns_at_the_resolution_of_the_sweep() -> None:
    raw = {"workspace": "runs", "source": {"kind": "demo"}, "training": {"tune": {"params": {"max_bin": 63}}}}
    stage = next(stage for stage in STAGES if stage.name == "baselines")
    assert build_config(raw).training.tune.bins == {"max_bin": 63}
    assert stage.settings(build_config(raw))["max_bin"] == 63
    raw["training"] = {"tune": {"params": {"max_depth": 3}}}
    assert build_config(raw).training.tune.bins == {}


def test_secrets_are_neither_accepted_in_addresses_nor_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    raw = {"workspace": "run", "source": {"kind": "demo"}, "ray": {"env": {"AWS_SECRET_ACCESS_KEY": "hush"}}}
    path.write_text(yaml.safe_dump(raw))
    shown = CliRunner().invoke(app, ["validate", str(path)])
    assert shown.exit_code == 0
    assert "AWS_SECRET_ACCESS_KEY" in shown.output
    assert "hush" not in shown.output
    loaded = load_config(path)
    assert "hush" not in repr(loaded)
    assert pickle.loads(pickle.dumps(loaded)).ray.env["AWS_SECRET_ACCESS_KEY"].get_secret_value() == "hush"
    for override in ("workspace=s3://me:hush@bucket/x", "source.path=https://host/x.csv?access_key=hush"):
        with pytest.raises(ConfigError, match=r"--set: .*found credentials in an address.*environment") as caught:
            load_config(path, [override])
        assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"ray\.env.*not shown") as caught:
        load_config(path, ["ray.env.AWS_SECRET_ACCESS_KEY=[hush]"])
    assert "hush" not in str(caught.value)
