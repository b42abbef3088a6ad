"""Writing the report: all sections, their CSV files, and the page last."""

from collections.abc import Mapping
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from smp_ray.evaluation.bootstrap import FEWEST_USERS, interval
from smp_ray.report import wording
from smp_ray.report.adaptation import adaptation
from smp_ray.report.claims import claims
from smp_ray.report.gallery import gallery
from smp_ray.report.head import head
from smp_ray.report.inputs import Inputs
from smp_ray.report.prediction import prediction
from smp_ray.report.quality import cleaning, quality
from smp_ray.report.search_section import sweep
from smp_ray.run import Run
from smp_ray.store.manifest import Made, Manifest

PAGE = "index.html"


def write_report(
    run: Run, folder: str, posts: Manifest, store: Mapping[str, Manifest], used: Mapping[str, Manifest | None]
) -> Made:
    """Write `index.html` and the figures' numbers, `*.csv`, into a folder of the workspace.

    `store` has the families and `used` the other artefacts by their stage's name; what is not there is said.
    """
    workspace = run.workspace
    inputs = Inputs(run.config, workspace, posts, store, used)
    html = _page(inputs)
    # Numbers of an earlier report that this one does not show any more would only mislead.
    for info in workspace.files(folder):
        if info.path.endswith(".csv"):
            workspace.filesystem.delete_file(info.path)
    for name, frame in inputs.published.items():
        workspace.write(frame.to_csv(index=False).encode(errors="replace"), folder, f"{name}.csv")
    workspace.write(html.encode(errors="replace"), folder, PAGE)
    outputs = [f"{folder}/{PAGE}"]
    return Made(rows=posts.rows, details={"outputs": outputs}, note=f"→ {workspace.path(folder, PAGE)}")


def _page(inputs: Inputs) -> str:
    cleaned, kept = cleaning(inputs)
    sections = {
        "cleaning": cleaned, "quality": quality(inputs, kept), "adaptation": adaptation(inputs),
        "prediction": prediction(inputs), "sweep": sweep(inputs), "posts": gallery(inputs),
    }  # fmt: skip
    return templates().get_template("page.html.jinja").render(
        head=head(inputs), claims=claims(inputs), sections=sections, posts=len(inputs.frame),
        settings=inputs.config.report, labelled=inputs.labelled, measures=inputs.measures,
        fewest=FEWEST_USERS, resamples=inputs.resamples(len(inputs.frame)), plotly=get_plotlyjs(),
    )  # fmt: skip


def templates() -> jinja2.Environment:
    """The page's templates: every text is escaped, and a name that is not there is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = wording.number
    words = (wording.counted, interval, wording.listed, wording.relation, wording.verdict, wording.numeric)
    environment.globals.update({word.__name__: word for word in words})
    # Plotly's own JSON; Jinja sees to it that it cannot end the script that it stands in.
    environment.policies["json.dumps_function"] = lambda figure, **_: figure.to_json()
    return environment
