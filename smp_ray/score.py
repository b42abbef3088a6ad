"""Scoring the posts of a source: few in this process, many by a feature pass on Ray in a workspace that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml

from smp_ray.config import Config, build_config
from smp_ray.errors import ConfigError, one_line
from smp_ray.pipeline import computed, ingested, open_run
from smp_ray.predictor.drafts import aligned, said
from smp_ray.predictor.scoring import Predictor, check_level
from smp_ray.ray_session import ray_session
from smp_ray.run import Run
from smp_ray.sources.table import TableSource, table_like
from smp_ray.sources.table_files import table_columns
from smp_ray.store.export import check_file_name, write_file
from smp_ray.store.manifest import Manifest
from smp_ray.store.reader import iter_posts
from smp_ray.store.wide import PIECE, wide
from smp_ray.training.past import Past

#: Posts that are computed in this process where no workspace is named: starting Ray takes longer.
FEW = 256
#: How the name of a file with a `source` section ends.
YAML = (".yaml", ".yml")


def score_source(
    predictor: Predictor,
    posts: str,
    out: str,
    level: float,
    explain: int = 0,
    workspace: str | None = None,
    debug: bool = False,
) -> int:
    """Score all posts of a table or dataset into the Parquet file `out`; returns how many.

    Args:
        predictor: what is asked.
        posts: a table with the columns of the training's source (or of the posts table), another dataset of that
            source's kind, or a YAML file with a `source` section.
        out: columns as of `Predictor.score`.
        level: of the interval.
        explain: reasons for each post.
        workspace: where features are kept; a run that is broken off goes on there. None: of at most `FEW` posts
            nothing is kept, and more go to `<out>.work`.
        debug: whether Ray's own log is shown.

    Raises:
        ConfigError: there is no such file, or it cannot be read as posts.
        DataError: a post's columns are not those of the predictor.
    """
    check_file_name(out)
    check_level(level)
    predictor.keys()  # before anything is read
    source = source_of(predictor.config, posts)
    if not posts.endswith(YAML) and "columns" in source:
        said(set(), set(table_columns(posts)) - {*source["columns"].values(), "popularity", "split"}, predictor.once)
    name, mark, options = out.partition("?")
    config = _config(predictor, source, workspace or f"{name}.work{mark}{options}")
    with ray_session(config.ray, debug) as session:
        run = open_run(config, session)
        ours = workspace is None and not run.workspace.exists()
        manifest = _posts(run)
        few = workspace is None and manifest.rows <= FEW
        tables: Iterator[pa.Table]
        if few:
            tables = map(predictor.features, iter_posts(run.workspace, manifest, None, FEW))
        else:
            tables = wide(run.workspace, manifest, list(computed(run).values()))
        keys = iter_posts(run.workspace, manifest, ["user_id", "posted_at"], PIECE)
        past = predictor.packed.fitted.past.joined(Past.of_posts(keys))
        count = write_scores(out, predictor, tables, past, level, explain)
        if few and ours and not manifest.counts.get("rejected"):  # whose reasons lie there
            run.workspace.delete_dir()
        return count


def source_of(config: Config, posts: str) -> dict[str, Any]:
    """The `source` section that reads `posts`, see `score_source`."""
    if posts.endswith(YAML):
        try:
            raw = yaml.safe_load(Path(posts).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{posts}: {one_line(error)}") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("source"), dict):
            raise ConfigError(f"{posts}: has no section `source`")
        return dict(raw["source"])
    if not isinstance(config.source, TableSource) and Path(posts).is_dir():
        return {**config.source.model_dump(mode="json"), "path": posts}
    return table_like(posts, config.source)


def _config(predictor: Predictor, source: dict[str, Any], workspace: str) -> Config:
    raw = predictor.config.model_dump(mode="json", exclude={"ray": {"env"}})
    return build_config({**raw, "source": source, "workspace": workspace}, name="score")


def _posts(run: Run) -> Manifest:
    found = ingested(run)
    assert found is not None
    return found


def write_scores(
    out: str, predictor: Predictor, tables: Iterator[pa.Table], past: Past, level: float, explain: int
) -> int:
    """Score wide rows piece by piece into a file, see `score_source`; returns how many."""
    families, rows, lost, examples = tuple(predictor.packed.contents.families), 0, 0, pd.DataFrame()

    def scored() -> Iterator[pa.Table]:
        nonlocal rows, lost, examples
        for table in tables:
            known = aligned(table, predictor.packed.schema, families, predictor.once)
            frame: pd.DataFrame = predictor.judge(known, past, level, explain)
            without = predictor.without_picture(frame)
            rows, lost = rows + len(frame), lost + len(without)
            examples = without if examples.empty else examples
            yield pa.Table.from_pandas(frame, preserve_index=False)

    write_file(out, scored())
    predictor.tell_lost(lost, examples)
    return rows
