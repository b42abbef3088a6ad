"""Scoring the posts of a source: few in this process, many by a feature pass on Ray in a workspace that goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import yaml
from pyarrow.fs import FileType

from smp_ray.config import Config, build_config
from smp_ray.errors import ConfigError, one_line
from smp_ray.features.steps import FEW
from smp_ray.pipeline import computed, ingested, open_run
from smp_ray.predictor.drafts import aligned, said
from smp_ray.predictor.scoring import Predictor, check_level, refuse
from smp_ray.ray_session import ray_session
from smp_ray.sources.location import Location
from smp_ray.sources.table import TableSource, table_like
from smp_ray.sources.table_files import table_columns
from smp_ray.store.export import check_file_name, write_file
from smp_ray.store.reader import iter_posts
from smp_ray.store.wide import PIECE, wide
from smp_ray.training.past import Past

#: How the name of a file with a `source` section ends.
YAML = (".yaml", ".yml")


def score_source(
    predictor: Predictor,
    posts: str,
    out: str,
    level: float,
    explain: int = 0,
    workspace: str | None = None,
    together: bool = True,
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
        together: as in `Predictor.score`.
        debug: whether Ray's own log is shown.

    Raises:
        ConfigError: there is no such file, or it cannot be read as posts.
        DataError: a post's columns are not those of the predictor, or of a candidate not all can be computed.
    """
    check_file_name(out)
    check_level(level)
    predictor.keys  # noqa: B018  (models that are not there end this before anything is read)
    source = source_of(predictor, posts)
    if not posts.endswith(YAML) and "columns" in source:
        said(set(), set(table_columns(posts)) - {*source["columns"].values(), "popularity", "split"}, predictor.once)
    name, mark, options = out.partition("?")
    config = _config(predictor, source, workspace or f"{name}.work{mark}{options}")
    with ray_session(config.ray, debug) as session:
        run = open_run(config, session)
        ours = workspace is None and not run.workspace.exists()
        manifest = ingested(run)
        assert manifest is not None
        few = workspace is None and manifest.rows <= FEW
        tables: Iterator[pa.Table]
        if few:  # with the rules for pictures of this source
            features = Predictor(predictor.packed, config, predictor.once).features
            tables = map(features, iter_posts(run.workspace, manifest, None, FEW))
        else:
            tables = wide(run.workspace, manifest, list(computed(run).values()))
        past = predictor.packed.fitted.past
        if together:
            past = past.joined(Past.of_posts(iter_posts(run.workspace, manifest, ["user_id", "posted_at"], PIECE)))
        try:
            return write_scores(out, predictor, tables, past, level, explain, together)
        finally:
            if few and ours and not manifest.counts.get("rejected"):  # whose reasons lie there
                run.workspace.delete_dir()


def source_of(predictor: Predictor, posts: str) -> dict[str, Any]:
    """The `source` section that reads `posts`, see `score_source`."""
    if posts.endswith(YAML):
        try:
            raw = yaml.safe_load(Path(posts).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{posts}: {one_line(error)}") from None
        if not isinstance(raw, dict) or not isinstance(raw.get("source"), dict):
            raise ConfigError(f"{posts}: has no section `source`")
        return dict(raw["source"])
    other = predictor.config.source
    section = other.model_dump(mode="json")
    if not isinstance(other, TableSource) and "path" in section and Location.open(posts).kind() == FileType.Directory:
        return {**section, "path": posts}
    numbers = {field.name for field in predictor.packed.schema if pa.types.is_floating(field.type)}
    return table_like(posts, other, numbers)


def _config(predictor: Predictor, source: dict[str, Any], workspace: str) -> Config:
    raw = predictor.config.model_dump(mode="json", exclude={"ray": {"env"}})  # secrets are not written out
    config = build_config({**raw, "source": source, "workspace": workspace}, name="score")
    ray = config.ray.model_copy(update={"env": predictor.config.ray.env})
    return config.model_copy(update={"ray": ray})


def write_scores(
    out: str,
    predictor: Predictor,
    tables: Iterator[pa.Table],
    past: Past,
    level: float,
    explain: int = 0,
    together: bool = True,
) -> int:
    """Score wide rows piece by piece into a file, see `score_source`; returns how many."""
    families, rows, lost, examples = tuple(predictor.packed.contents.families), 0, 0, pd.DataFrame()

    def scored() -> Iterator[pa.Table]:
        nonlocal rows, lost, examples
        for table in tables:
            known = aligned(table, predictor.packed.schema, families, predictor.once)
            frame: pd.DataFrame = predictor.judge(known, past, level, explain)
            incomplete = predictor.incomplete(frame)
            if not together:
                refuse(known, incomplete)
            rows, lost = rows + len(frame), lost + len(incomplete)
            examples = incomplete if examples.empty else examples
            yield pa.Table.from_pandas(frame, preserve_index=False)

    write_file(out, scored())
    predictor.tell_incomplete(lost, examples)
    return rows
