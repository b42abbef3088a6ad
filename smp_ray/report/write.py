"""Writing the report: all sections, their CSV files, and the page last."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

from smp_ray.config import Config, Family
from smp_ray.report import page
from smp_ray.report.adaptation import adaptation
from smp_ray.report.cleaning import cleaning
from smp_ray.report.gallery import gallery
from smp_ray.report.head import head, title
from smp_ray.report.inputs import Inputs
from smp_ray.report.prediction import prediction
from smp_ray.report.quality import quality
from smp_ray.report.sweep import sweep
from smp_ray.workspace import Manifest, Workspace

FOLDER = "report"
PAGE = "index.html"
_THREADS = 2


def write_report(
    config: Config,
    workspace: Workspace,
    posts: Manifest,
    families: Mapping[Family, Manifest],
    artefacts: Mapping[str, Manifest | None],
) -> str:
    """Write `report/index.html` and `report/*.csv` into the workspace.

    Args:
        config: the resolved configuration.
        workspace: where the artefacts lie and the report goes.
        posts: the committed posts.
        families: the committed feature families, those that there are.
        artefacts: the committed manifests by name (adapted, splits, matrix, baselines, tune, predict, ablate); a
            section whose artefact is missing or None says so.

    Returns:
        The page's full path.

    Raises:
        WorkspaceError: an artefact contradicts its manifest.
    """
    inputs = Inputs(config, workspace, posts, families, artefacts)
    cleaned, kept = cleaning(inputs)
    # Most of the time goes to libraries that let go of Python's lock: t-SNE beside everything else takes half of it.
    with ThreadPoolExecutor(_THREADS) as pool:
        maps = pool.submit(adaptation, inputs)
        others = [pool.submit(quality, inputs, kept), *(pool.submit(part, inputs) for part in (prediction, sweep))]
        measured, predicted, searched = (part.result() for part in others)
        sections = [cleaned, measured, maps.result(), predicted, searched, gallery(inputs)]
    html = page.render(title(inputs), head(inputs), sections)
    workspace.make_dir(FOLDER)
    for name, frame in inputs.published.items():
        buffer = io.StringIO()
        frame.to_csv(buffer, index=False)
        _write(workspace, f"{name}.csv", buffer.getvalue())
    _write(workspace, PAGE, html)
    # Numbers of an earlier report that this one does not show any more would only mislead.
    for info in workspace.files(FOLDER):
        name = info.path.rsplit("/", 1)[-1]
        if name.endswith(".csv") and name.removesuffix(".csv") not in inputs.published:
            workspace.filesystem.delete_file(info.path)
    return workspace.path(FOLDER, PAGE)


def _write(workspace: Workspace, name: str, content: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    path, filesystem = workspace.path(FOLDER, name), workspace.filesystem
    local = isinstance(filesystem, pafs.LocalFileSystem)
    target = f"{path}.tmp" if local else path  # an object appears when it is complete
    with filesystem.open_output_stream(target) as stream:
        stream.write(content.encode("utf-8", errors="replace"))
    if local:
        filesystem.move(target, path)
