"""Writing the report: all sections, their CSV files, and the page last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from smp_ray.report import wording
from smp_ray.report.adaptation import adaptation
from smp_ray.report.cleaning import cleaning
from smp_ray.report.gallery import gallery
from smp_ray.report.head import head
from smp_ray.report.inputs import Inputs
from smp_ray.report.prediction import prediction
from smp_ray.report.quality import quality
from smp_ray.report.search_section import sweep
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest

PAGE = "index.html"


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
    sections = {
        "cleaning": cleaned, "quality": quality(inputs, kept), "adaptation": adaptation(inputs),
        "prediction": prediction(inputs), "sweep": sweep(inputs), "posts": gallery(inputs),
    }  # fmt: skip
    return templates().get_template("page.html.jinja").render(
        head=head(inputs), sections=sections, posts=len(inputs.frame), settings=inputs.config.report,
        labelled=inputs.labelled, measures=inputs.measures, plotly=get_plotlyjs(),
    )  # fmt: skip


def templates() -> jinja2.Environment:
    """The page's templates: every text is escaped, and a name that is not there is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = wording.number
    words = ("counted", "interval", "listed", "relation", "verdict", "numeric")
    environment.globals.update({name: getattr(wording, name) for name in words})
    # Plotly's own JSON; Jinja sees to it that it cannot end the script that it stands in.
    environment.policies["json.dumps_function"] = _figure_json
    return environment


def _figure_json(figure: Any, **_: Any) -> str:
    return str(figure.to_json())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
