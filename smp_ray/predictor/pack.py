"""A fitted predictor as one file, for other machines and other posts; `unpack` says what it holds."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.config import matrix_families, matrix_groups
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find
from smp_ray.predictor import unpack
from smp_ray.predictor.calibrate import load_sizes
from smp_ray.predictor.uncertainty import Uncertainty
from smp_ray.predictor.unpack import Contents
from smp_ray.run import Run
from smp_ray.schema import POSTS as POSTS_TABLE
from smp_ray.store.manifest import Made, Manifest, content_of, git_commit, library_versions
from smp_ray.training.adapter.rows import ADAPTERS
from smp_ray.training.boosting.registry import find as find_predictor
from smp_ray.training.examples import POSTS, example_pieces
from smp_ray.training.measure import METRICS_FILE
from smp_ray.training.splits import load_splits

#: In the artefact's folder.
FILE = "fitted.predictor"
_LICENSE = (
    "What was learned from posts and from the outputs of pre-trained models is bound by the licenses of both; the "
    "models themselves are not in this file."
)


def make(
    run: Run,
    folder: str,
    gathered: Manifest,
    splits: Manifest,
    adapted: Manifest | None,
    matrix: Manifest,
    tuned: Manifest,
    calibrated: Manifest,
    used: Mapping[str, Manifest | None],
) -> Made:
    """Write the predictor of a configuration as one file, the same, byte for byte, of the same artefacts.

    `used` tells whether the metrics at the workspace's root are those of this configuration.
    """
    read = run.workspace.read
    files = {unpack.ENCODER: read(matrix.details["encoder"]), unpack.PAST: read(matrix.details["past"])}
    files[unpack.SIZES] = read(calibrated.details["sizes"])
    files |= {f"model-{number}.txt": read(path) for number, path in enumerate(tuned.details["models"])}
    embeddings = None
    if adapted is not None:
        files[unpack.ADAPTERS] = read(adapted.stage, adapted.fingerprint, ADAPTERS)
        embeddings = tuple(adapted.details["embeddings"])
    families = matrix_families(run.config)
    empty, moments = _seen(run, gathered)
    files[unpack.COLUMNS] = _without_rows(next(example_pieces(run.workspace, gathered, (POSTS, *families))), empty)
    keys = _with_inputs(run.families, families)
    model = find_predictor(tuned.details["predictor"]).load(files["model-0.txt"].decode())
    measured = run.workspace.read_json(METRICS_FILE) if any(used.values()) else None
    contents = Contents(
        config=_config(run, keys), predictor=tuned.details["predictor"], groups=matrix_groups(run.config),
        delay_days=run.config.training.matrix.history_delay_days,
        families={name: {"fingerprint": key.fingerprint, "model": key.model} for name, key in keys.items()},
        embeddings=embeddings, columns=model.columns,
        sizing=load_sizes(files[unpack.SIZES].decode()).columns,
        uncertainty=Uncertainty(**calibrated.details["uncertainty"]),
        card=_card(run, moments, splits, calibrated, measured),
        files={name: (len(data), content_of(data)) for name, data in files.items()},
    )  # fmt: skip
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in {unpack.FACTS: contents.model_dump_json(indent=1).encode(), **files}.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without a time
    run.workspace.write(archive.getvalue(), folder, FILE)
    size = len(archive.getvalue()) / 1e6
    return Made(
        rows=gathered.rows,
        details={"file": f"{folder}/{FILE}", "card": contents.card},
        note=f"{size:.1f} MB, learned from {gathered.rows:,} posts",
    )


def _with_inputs(keys: Mapping[str, FamilyKey], wanted: Sequence[str]) -> dict[str, FamilyKey]:
    """Some families and those that they read, in the order in which they are computed."""
    needed = set(wanted)
    for name in reversed(list(keys)):
        if name in needed:
            needed |= set(keys[name].inputs)
    return {name: key for name, key in keys.items() if name in needed}


def _config(run: Run, keys: Mapping[str, FamilyKey]) -> dict[str, Any]:
    """The configuration, with the families that are needed, each with the revision and the dtype that it had."""
    sections = run.config.features.model_dump(mode="json") | {"families": list(keys)}
    for name, key in keys.items():
        section = sections[find(name).key()]
        section |= {setting: value for setting, value in key.settings.items() if setting in section}
    return dict(run.config.model_dump(mode="json", exclude={"workspace", "ray"}), features=sections)


def _seen(run: Run, gathered: Manifest) -> tuple[set[str], list[Any]]:
    """The posts' own columns that no post has a value in, and times, the first and the last among them."""
    empty, moments = list[set[str]](), []
    for table in example_pieces(run.workspace, gathered, [POSTS]):
        empty.append({name for name in table.column_names if table[name].null_count == len(table)})
        moments += [value for value in pc.min_max(table["posted_at"]).as_py().values() if value is not None]
    return set.intersection(*empty), moments


def _without_rows(table: pa.Table, empty: set[str]) -> bytes:
    """A Parquet file of a table's columns alone, and of the pictures' addresses, which nothing is learned from."""
    table = table.slice(0, 0).append_column(POSTS_TABLE.field("image_uri"), pa.nulls(0, pa.string()))
    fields = [field.with_metadata(unpack.EMPTY) if field.name in empty else field for field in table.schema]
    buffer = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields)), buffer)
    return buffer.getvalue()


def _card(
    run: Run, moments: list[Any], splits: Manifest, calibrated: Manifest, metrics: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What people should know of it; `metrics` is what the workspace's root has."""
    folds = load_splits(run.workspace, splits)
    labels, source = folds.popularity, run.config.source
    variants = {} if metrics is None else metrics["variants"]
    return {
        "made_by": "smp_ray", "data": source.kind, "synthetic": source.synthetic,
        "posts": len(folds.row_ids), "users": len(np.unique(folds.users)),
        "period": [str(min(moments)), str(max(moments))] if moments else None,
        "label": "popularity, as the source gives it",
        "popularity": {"mean": float(labels.mean()), "min": float(labels.min()), "max": float(labels.max())},
        "split": f"{folds.count} folds by {folds.kind}",
        "metrics": {name: variant["pooled"] for name, variant in variants.items()},
        "interval": calibrated.details["coverage"], "versions": library_versions(), "commit": git_commit(),
        "license": _LICENSE,
    }  # fmt: skip
