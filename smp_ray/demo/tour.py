"""What `smp-ray demo` runs and shows: the sample world's settings, and a few of its posts at the end."""

from typing import Any

import pyarrow.parquet as pq

from smp_ray.progress import console

#: As configs/demo.yaml says it to those who start from there; a test holds them equal.
SETTINGS: dict[str, Any] = {
    "source": {"kind": "demo"},
    "features": {"families": ["caption", "clip", "perplexity", "visual"], "visual": {"side": 128}},
    "training": {
        "matrix": {"pca_dimensions": 16, "text_dimensions": 16},
        "tune": {
            "trials": 8, "max_rounds": 400, "early_stopping_rounds": 30, "models": 3, "asha": {"grace_rounds": 200},
            "params": {"max_bin": 63},
        },
        "baselines": ["mean", "user_mean", "lightgbm_default"],
        "ablation": {"candidates": 1},
    },
    "report": {"edges": [2, 4, 6, 8, 10, 12]},
}  # fmt: skip


def show_examples(path: str) -> None:
    """A few posts of the export, so that the newcomer sees what the numbers are about."""
    columns = ["title", "caption", "similarity_title_caption", "title_perplexity"]
    if lacking := set(columns) - set(pq.read_schema(path).names):
        console.print(f"without examples, as nobody computed {', '.join(sorted(lacking))}")
        return
    with_all = pq.read_table(path, columns=columns).to_pandas().dropna().sort_values("similarity_title_caption")
    places = {round(part * (len(with_all) - 1)) for part in (0, 0.25, 0.5, 0.75, 1)} if len(with_all) else ()
    picked = with_all.iloc[sorted(places)]
    line = "{:<40.40}  {:<34.34} {:>10} {:>10}".format
    console.print("\n" + line("title", "caption of the picture", "similarity", "perplexity"), style="bold")
    for row in picked.itertuples():
        numbers = f"{row.similarity_title_caption:.2f}", f"{row.title_perplexity:,.1f}"
        console.print(line(row.title, row.caption, *numbers), markup=False)
