"""The commands that make a predictor one file, ask it about posts, and check what was made for a challenge."""

from typing import Annotated

import pandas as pd
import pyarrow as pa
import typer
import yaml

from smp_ray.config import load_config
from smp_ray.errors import ConfigError
from smp_ray.pipeline import pack
from smp_ray.progress import say
from smp_ray.shell import ConfigArgument, DebugOption, SetOption, WorkspaceOption, app, errors, opened
from smp_ray.store.export import check_file_name, write_file

#: Posts that are shown in the terminal.
_SHOWN = 20
_FILE = typer.Argument(metavar="PREDICTOR", help="file of `smp-ray pack`")


@app.command("pack")
def pack_command(
    config: ConfigArgument,
    out: Annotated[str, typer.Option("--out", metavar="FILE.predictor", help="where to write it")],
    workspace: WorkspaceOption = None,
    sets: SetOption = None,
    debug: DebugOption = False,
) -> None:
    """All that was learned as one file, which scores posts anywhere with the same models; trains where it must."""
    with errors(debug), opened(load_config(config, sets, workspace), debug) as run:
        card = pack(run, out)
        say(f"pack: learned from {card['posts']:,} posts of {card['users']:,} users → {out}")


@app.command("card")
def card_command(predictor: Annotated[str, _FILE], debug: DebugOption = False) -> None:
    """What a predictor learned from, and how good it is, as YAML."""
    from smp_ray.predictor.unpack import unpack

    with errors(debug):
        typer.echo(yaml.safe_dump(unpack(predictor).contents.card, sort_keys=False, allow_unicode=True), nl=False)


@app.command("check")
def check_command(
    submission: Annotated[str, typer.Argument(metavar="SUBMISSION.json", help="as predict writes it")],
    listed: Annotated[str, typer.Option("--covers", metavar="FILE.txt", help="a post a line: its id, or its picture")],
    debug: DebugOption = False,
) -> None:
    """Check that a submission file of the SMP Challenge has a score for each of the posts that it should, once."""
    from smp_ray.predictor.challenge import check_submission

    with errors(debug):
        say(f"{submission} covers all {check_submission(submission, listed):,} posts of {listed}")


@app.command("score")
def score_command(
    predictor: Annotated[str, _FILE],
    posts: Annotated[
        str | None,
        typer.Argument(metavar="[POSTS]", help="table, dataset of the training's kind, or YAML with a source"),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE.parquet", help="needed with POSTS")] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="picture of one post; may be repeated")] = None,
    title: Annotated[list[str] | None, typer.Option("--title", help="title of one post; repeat it to compare")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="COLUMN=VALUE", help="any other column of this post")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="of the interval")] = 0.9,
    explain: Annotated[int, typer.Option("--explain", metavar="N", min=0, help="so many reasons for each post")] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="rank the posts as candidates for one")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option("--config", metavar="KEY=VALUE", help="where models lie here, as --set elsewhere: models=/models"),
    ] = None,
    workspace: WorkspaceOption = None,
    debug: DebugOption = False,
) -> None:
    """Predict the popularity of posts: of a table or dataset, or of one given here, with an interval and reasons."""
    with errors(debug):
        from smp_ray.predictor.scoring import Predictor, check_level

        check_level(level)
        loaded = Predictor.load(predictor, where or ())
        if level > (highest := loaded.packed.contents.uncertainty.highest_level):
            say(
                f"intervals hold fewer labels than {level:.0%}: so few were learned from that {highest:.1%} is the most"
            )
        if posts is not None:
            from smp_ray.score import score_source

            if image or title or sets or out is None:
                raise ConfigError("score: with POSTS, --out is needed, and --image, --title and --set have no meaning")
            count = score_source(loaded, posts, out, level, explain, workspace, not compare, debug)
            say(f"score: {count:,} posts → {out}")
            if compare or count <= _SHOWN:
                scores = pd.read_parquet(out)
                show(loaded.compare(scores, level) if compare else scores, level)
            return
        given = candidates(image or [], title or [], sets or [])
        if out is not None:
            check_file_name(out)
        scores = loaded.score(given, level, explain, together=False)
        if len(given) > 1:
            scores = loaded.compare(scores, level)
        show(scores, level)
        if out is not None:
            write_file(out, iter([pa.Table.from_pandas(scores, preserve_index=False)]))


def candidates(images: list[str], titles: list[str], sets: list[str]) -> pd.DataFrame:
    """One post, or one for each of several titles or pictures, with the columns of `drafts.posts_of`.

    Raises:
        ConfigError: neither picture nor title, or titles and pictures that do not go together.
    """
    if not (images or titles):
        raise ConfigError("score: name POSTS, or give a post by --image and --title")
    count = max(len(images), len(titles))
    if len(images) not in (0, 1, count) or len(titles) not in (0, 1, count):
        raise ConfigError(f"score: found {len(images)} pictures and {len(titles)} titles, allowed: as many, or one")
    numbers = range(count)
    given_each = {"image": images, "title": titles}
    columns = {name: list(values) * (count // len(values)) for name, values in given_each.items() if values}
    for given in sets:
        name, found, value = given.partition("=")
        if not found:
            raise ConfigError(f"--set: found {given!r}, allowed: COLUMN=VALUE")
        columns[name] = [value for _ in numbers]
    columns["post_id"] = [f"{n + 1}: {titles[n]}" if len(titles) > 1 else str(n + 1) for n in numbers]
    return pd.DataFrame(columns)


def show(scores: pd.DataFrame, level: float) -> None:
    """Scores in the terminal, a post a line and its reasons below."""
    from smp_ray.evaluation.bootstrap import interval

    ranked, width = "behind" in scores, min(60, scores["post_id"].astype(str).str.len().max())
    say(f"predicted popularity, with {level:.0%} intervals" + (", the best first" if ranked else ""))
    for number, (_, row) in enumerate(scores.head(_SHOWN).iterrows()):
        shown = str(row["post_id"])
        shown = shown if len(shown) <= width else f"{shown[: width - 1]}…"
        line = f"{shown:<{width}}  {interval(row['prediction'], row['low'], row['high'], 2)}"
        if ranked and number:
            clear = "clearly" if row["clear"] else "not clearly"
            behind = interval(row["behind"], row["behind_low"], row["behind_high"], 2)
            line += f"  {clear} behind: {behind}"
        say(line)
        for reason in row.get("reasons", ()):
            say(f"    {reason}")
    if len(scores) > _SHOWN:
        say(f"… and {len(scores) - _SHOWN:,} more")
