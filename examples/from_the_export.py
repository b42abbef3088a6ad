"""From the exported file to a plot and a LightGBM model, without smp_ray: pandas, plotly and lightgbm alone.

    smp-ray demo                                                        # ends with runs/demo/features.parquet
    python examples/from_the_export.py runs/demo/features.parquet out

Writes `out/inconsistency.html` (how far title and picture agree, by popularity) and `out/model.txt`, and prints how
well the model does on users that it has not seen.
"""

import sys
from pathlib import Path

import lightgbm
import pandas as pd
import plotly.express as px

#: Numbers of the export that a tree can use as they are. Any that an export lacks is left out.
NUMBERS = [
    "similarity_title_caption", "similarity_image_title", "similarity_image_caption", "title_perplexity",
    "title_token_count", "user_photo_count", "user_ispro", "latitude", "longitude",
]  # fmt: skip


def main(path: str, out: str) -> None:
    """Draw, fit, judge, save."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    posts = pd.read_parquet(path)
    posts = posts[posts["popularity"].notna()]
    if "clip_status" in posts:
        # A status says why a value is missing; the values themselves are null then, which LightGBM takes.
        print(posts["clip_status"].value_counts().to_string())

    both = posts.dropna(subset=["similarity_title_caption"])
    figure = px.scatter(both, x="popularity", y="similarity_title_caption", hover_data=["title", "caption"])
    figure.write_html(folder / "inconsistency.html")

    columns = posts[[name for name in NUMBERS if name in posts]].astype("float64")
    columns = columns.assign(hour=posts["posted_at"].dt.hour, weekday=posts["posted_at"].dt.day_of_week)
    # Embeddings are lists; one column a dimension.
    seen = posts["clip_image"].dropna()
    image = pd.DataFrame(seen.tolist(), index=seen.index).astype("float64")
    columns = columns.join(image.add_prefix("clip_image_"))

    # No user in both halves, or the model is judged by its memory of users.
    held_out = pd.util.hash_array(posts["user_id"].astype(str).to_numpy()) % 5 == 0
    model = lightgbm.LGBMRegressor(objective="l1", n_estimators=200, learning_rate=0.05, verbose=-1)
    model.fit(columns[~held_out], posts.loc[~held_out, "popularity"])
    predicted = pd.Series(model.predict(columns[held_out]), posts.index[held_out])
    actual = posts.loc[held_out, "popularity"]
    middle = (actual - posts.loc[~held_out, "popularity"].median()).abs().mean()
    print(f"MAE {(predicted - actual).abs().mean():.3f} (the median of all: {middle:.3f})")
    print(f"SRC {predicted.corr(actual, method='spearman'):.3f}")
    model.booster_.save_model(folder / "model.txt")


if __name__ == "__main__":
    main(*sys.argv[1:3])
