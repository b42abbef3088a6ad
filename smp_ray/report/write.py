"""Writing the report: all sections, their CSV files, and the page last."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from smp_ray.report import page
from smp_ray.report.adaptation import adaptation
from smp_ray.report.cleaning import cleaning
from smp_ray.report.gallery import gallery
from smp_ray.report.head import head, title
from smp_ray.report.inputs import Inputs
from smp_ray.report.prediction import prediction
from smp_ray.report.quality import quality
from smp_ray.report.search_section import sweep
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest

PAGE = "index.html"
_THREADS = 2


def write_report(
    run: Run, folder: str, posts: Manifest, store: Mapping[str, Manifest], used: Mapping[str, Manifest | None]
) -> Made:
    """Write `index.html` and the figures' numbers, `*.csv`, into a folder of the workspace.

    Args:
        run: the command's run.
        folder: of the workspace.
        posts: the committed posts.
        store: the committed feature families by name.
        used: the other artefacts by their stage's name; a section whose artefact is missing or None says so.

    Raises:
        WorkspaceError: an artefact contradicts its manifest.
    """
    workspace = run.workspace
    inputs = Inputs(run.config, workspace, posts, store, used)
    html = _page(inputs)
    for name, frame in inputs.published.items():
        workspace.write(_encoded(frame.to_csv(index=False)), folder, f"{name}.csv")
    workspace.write(_encoded(html), folder, PAGE)
    # Numbers of an earlier report that this one does not show any more would only mislead.
    for info in workspace.files(folder):
        name = info.path.rsplit("/", 1)[-1]
        if name.endswith(".csv") and name.removesuffix(".csv") not in inputs.published:
            workspace.filesystem.delete_file(info.path)
    outputs = [f"{folder}/{PAGE}"]
    return Made(rows=posts.rows, details={"outputs": outputs}, note=f"→ {workspace.path(folder, PAGE)}")


def _page(inputs: Inputs) -> str:
    cleaned, kept = cleaning(inputs)
    # Most of the time goes to libraries that let go of Python's lock: t-SNE beside everything else takes half of it.
    with ThreadPoolExecutor(_THREADS) as pool:
        maps = pool.submit(adaptation, inputs)
        others = [pool.submit(quality, inputs, kept), *(pool.submit(part, inputs) for part in (prediction, sweep))]
        measured, predicted, searched = (part.result() for part in others)
        sections = [cleaned, measured, maps.result(), predicted, searched, gallery(inputs)]
    return page.render(title(inputs), head(inputs), sections)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
