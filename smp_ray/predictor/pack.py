"""A fitted predictor as one file, for other machines and other posts; `unpack` says what it holds."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from smp_ray.errors import SmpRayError
from smp_ray.families.keys import FamilyKey
from smp_ray.families.registry import find
from smp_ray.predictor import unpack
from smp_ray.predictor.calibrate import load_sizes
from smp_ray.predictor.fitted import Fitted
from smp_ray.predictor.uncertainty import Uncertainty
from smp_ray.predictor.unpack import Contents, content_of
from smp_ray.run import Run
from smp_ray.store.manifest import Manifest, git_commit, library_versions
from smp_ray.store.parquet import read_table
from smp_ray.store.wide import wide
from smp_ray.store.workspace import Place, writing
from smp_ray.training.adapter.rows import ADAPTERS
from smp_ray.training.measure import METRICS_FILE
from smp_ray.training.splits import load_splits

_LICENSE = (
    "What was learned from posts and from the outputs of pre-trained models is bound by the licenses of both; the "
    "models themselves are not in this file."
)
_STAGES = ("splits", "matrix", "tune", "calibrate")


_STAGES = ("splits", "matrix", "tune", "calibrate")


def pack(run: Run, out: str) -> dict[str, Any]:
    """Write the predictor of a configuration whose stages are committed; returns its card.

    Raises:
        SmpRayError: a stage is not committed.
        WorkspaceError: the file cannot be written.
    """
    found = {name: run.artefact(name) for name in ("ingest", "features", *_STAGES)}
    if missing := [name for name, artefact in found.items() if artefact is None]:
        raise SmpRayError(f"pack: not committed for these settings: {', '.join(missing)}; run `smp-ray run` first")
    splits, matrix, tuned, calibrated = (_manifest(run, name) for name in _STAGES)
    adapted, read = run.artefact("adapt"), run.workspace.read
    files = {unpack.ENCODER: read(matrix.details["encoder"]), unpack.PAST: read(matrix.details["past"])}
    files[unpack.SIZES] = read(calibrated.details["sizes"])
    files |= {f"model-{number}.txt": read(path) for number, path in enumerate(tuned.details["models"])}
    embeddings = None
    if isinstance(adapted, Manifest):
        files[unpack.ADAPTERS] = read(adapted.stage, adapted.fingerprint, ADAPTERS)
        embeddings = tuple(adapted.details["embeddings"])
    trained = adapted if isinstance(adapted, Manifest) else None
    fitted = Fitted.of(run.workspace, run.config, splits, trained, matrix, tuned)
    files[unpack.COLUMNS] = _schema(run, fitted.families)
    keys = _with_inputs(run.families, fitted.families)
    contents = Contents(
        config=_config(run, keys), predictor=tuned.details["predictor"], groups=fitted.groups,
        delay_days=fitted.delay_days,
        families={name: {"fingerprint": key.fingerprint, "model": key.model} for name, key in keys.items()},
        embeddings=embeddings, columns=fitted.models[0].columns,
        sizing=load_sizes(files[unpack.SIZES].decode()).columns,
        uncertainty=Uncertainty(**calibrated.details["uncertainty"]), card=_card(run, splits, calibrated),
        files={name: (len(data), content_of(data)) for name, data in files.items()},
    )  # fmt: skip
    place = Place.open(out)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in {unpack.FACTS: contents.model_dump_json(indent=1).encode(), **files}.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without a time: the same, byte for byte
    with writing(out):
        place.filesystem.create_dir(place.root.rpartition("/")[0] or ".", recursive=True)
        place.write(archive.getvalue())
    return contents.card


def _manifest(run: Run, name: str) -> Manifest:
    found = run.artefact(name)
    assert isinstance(found, Manifest)
    return found


def _with_inputs(keys: Mapping[str, FamilyKey], wanted: Sequence[str]) -> dict[str, FamilyKey]:
    """Some families and those that they read, in the order in which they are computed."""
    needed = set(wanted)
    for name in reversed(list(keys)):
        if name in needed:
            needed |= set(keys[name].inputs)
    return {name: key for name, key in keys.items() if name in needed}


def _config(run: Run, keys: Mapping[str, FamilyKey]) -> dict[str, Any]:
    """The configuration, with the families that are needed, each with the revision and the dtype that it had."""
    config = run.config.model_dump(mode="json", exclude={"workspace", "ray"})
    config["features"]["families"] = list(keys)
    for name, key in keys.items():
        section = config["features"][find(name).key()]
        section |= {setting: value for setting, value in key.settings.items() if setting in section}
    return dict(config)


def _schema(run: Run, families: Sequence[str]) -> bytes:
    """A Parquet file without rows: the columns of wide rows."""
    posts, store = run.artefact("ingest"), run.artefact("features")
    assert isinstance(posts, Manifest)
    assert isinstance(store, dict)
    few = replace(posts, fragments=posts.fragments[:1])
    table = next(wide(run.workspace, few, [store[name] for name in families], keep=lambda piece: piece.slice(0, 0)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _card(run: Run, splits: Manifest, calibrated: Manifest) -> dict[str, Any]:
    """What people should know of it."""
    posts = _manifest(run, "ingest")
    folds, period = load_splits(run.workspace, splits), []
    for fragment in posts.fragments:
        moments = read_table(run.workspace, fragment.path, ["posted_at"])["posted_at"]
        period += [str(pc.min(moments)), str(pc.max(moments))]
    times = sorted(moment for moment in period if moment != "None")
    measured = run.artefact("evaluate")
    metrics = run.workspace.read_json(METRICS_FILE) if isinstance(measured, Manifest) else None
    return {
        "made_by": "smp_ray", "data": run.config.source.kind, "synthetic": run.config.source.synthetic,
        "posts": len(folds.row_ids), "users": len(np.unique(folds.users)),
        "period": [times[0], times[-1]] if times else None,
        "label": "popularity, as the source gives it", "popularity": {
            "mean": float(folds.popularity.mean()), "min": float(folds.popularity.min()),
            "max": float(folds.popularity.max()),
        },
        "split": f"{folds.count} folds by {folds.kind}",
        "metrics": None if metrics is None else {
            name: values["pooled"] for name, values in metrics["variants"].items() if values["from"] == "tune"
        },
        "interval": calibrated.details["coverage"], "versions": library_versions(), "commit": git_commit(),
        "license": _LICENSE,
    }  # fmt: skip
