"""A predictor's file: packed, loaded elsewhere, asked, and refused where it is not what it says.

It also tests `predictor/calibrate.py`, `predictor/drafts.py`, `predictor/pack.py`, `predictor/reasons.py`,
`predictor/scoring.py`, `predictor/unpack.py`, `features/steps.py`, `asking.py` and `operations.py`.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from smp_ray.asking import candidates
from smp_ray.cli import app
from smp_ray.demo import MODELS
from smp_ray.errors import ConfigError, DataError, ModelError
from smp_ray.fetch.outcome import NO_ADDRESS
from smp_ray.pipeline import open_run, pack, run_stages
from smp_ray.predictor.drafts import aligned, posts_of
from smp_ray.predictor.scoring import Predictor
from smp_ray.predictor.unpack import EMPTY
from smp_ray.ray_session import RaySession
from smp_ray.score import score_source, write_scores
from smp_ray.store.manifest import Manifest
from smp_ray.training.past import Past, seconds, user_hashes
from tests.features.conftest import run_command
from tests.predictor.small import NAMES, config, rows, write_posts

pytestmark = pytest.mark.slow  # all of them wait for one predictor to be trained
TESTED = rows(12, 500, label=False)


@pytest.fixture(scope="module")
def trained(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A predictor's file, whose workspace is gone, and what the workspace predicted of the posts of split test."""
    folder = tmp_path_factory.mktemp("trained")
    run = open_run(config(folder, rows(120) + TESTED), session)
    run_stages(run, ["predict"])
    card = pack(run, str(folder / "small.predictor"))
    assert (card["posts"], card["users"]) == (120, 12)
    assert card["metrics"]["tuned"]["mae"]["low"] is not None
    found = run.artefact("predict")
    assert isinstance(found, Manifest)
    frame = pd.read_parquet(run.workspace.path(found.details["predictions"]))
    shutil.rmtree(folder / "run")
    return folder / "small.predictor", frame[frame["split"] == "test"].reset_index(drop=True)


def as_frame(posts: list[dict[str, Any]]) -> pd.DataFrame:
    """With the columns of the posts table."""
    frame = pd.DataFrame(posts).rename(columns={there: name for name, there in NAMES.items()})
    return frame.drop(columns=["popularity", "split"])


def test_another_process_scores_as_the_workspace_did(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    path, expected = trained
    as_frame(TESTED).to_csv(tmp_path / "posts.csv", index=False)
    ask = (
        "import sys, pandas as pd; from smp_ray import Predictor; "
        "scores = Predictor.load(sys.argv[1]).score(pd.read_csv(sys.argv[2])); scores.to_parquet(sys.argv[3]); "
        "assert 'ray' not in sys.modules"
    )
    out = tmp_path / "scores.parquet"
    subprocess.run([sys.executable, "-c", ask, str(path), str(tmp_path / "posts.csv"), str(out)], check=True)
    scores = pd.read_parquet(out)
    assert scores["post_id"].tolist() == expected["post_id"].tolist()
    np.testing.assert_allclose(scores["prediction"], expected["prediction"], atol=1e-6)
    assert (scores["low"] < scores["prediction"]).all()
    assert (scores["prediction"] < scores["high"]).all()
    assert (scores["perplexity_status"] == "ok").all()


def test_few_here_and_many_on_ray_are_the_same(
    trained: tuple[Path, pd.DataFrame], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, expected = trained
    posts = write_posts(tmp_path / "posts.csv", TESTED)
    for name, workspace in (("few", None), ("many", str(tmp_path / "work"))):
        out = tmp_path / f"{name}.parquet"
        call = ["score", str(path), str(posts), "--out", str(out), *(["--workspace", workspace] if workspace else [])]
        done = run_command(*call)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(pd.read_parquet(out)["prediction"], expected["prediction"], atol=1e-6)
    again = run_command(*call)
    assert "features: up to date" in again.stderr


def test_the_order_of_columns_and_rows_means_nothing_and_what_lacks_is_said(trained: tuple[Path, pd.DataFrame]) -> None:
    path, expected = trained
    told: list[str] = []
    predictor = Predictor.load(str(path), tell=told.append)
    frame = as_frame(TESTED)
    other = frame.sample(frac=1, random_state=0)[sorted(frame, reverse=True)]
    scores = predictor.score(other).set_index("post_id")["prediction"]
    assert np.allclose(scores[expected["post_id"]], expected["prediction"], atol=1e-6)
    assert not [line for line in told if "user_photo_count" in line]
    predictor.score(other.drop(columns=["user_photo_count", "posted_at"]).assign(colour="red"))
    assert any("posted_at" in line and "user_photo_count" in line for line in told)
    assert any(line.endswith("left out: colour") for line in told)
    count = len(told)
    predictor.score(other.drop(columns=["user_photo_count", "posted_at"]).assign(colour="red"))
    assert len(told) == count  # once
    with pytest.raises(DataError, match="row 2: user_photo_count: found 'many'"):
        predictor.score(pd.DataFrame({"title": ["a", "b"], "user_photo_count": [3, "many"]}))


def test_reasons_add_up_and_candidates_are_ranked(trained: tuple[Path, pd.DataFrame]) -> None:
    predictor = Predictor.load(str(trained[0]), tell=lambda line: None)
    scores = predictor.score(as_frame(TESTED), explain=3)
    assert all(1 <= len(lines) <= 3 for lines in scores["reasons"])
    matrix_mean = scores["prediction"] - [sum(groups.values()) for groups in scores["by_group"]]
    assert np.ptp(matrix_mean) < 1e-6  # what is left is the mean prediction, the same for all
    ranked = predictor.compare(scores)
    assert ranked["rank"].tolist() == list(range(1, 13))
    assert (ranked["prediction"].diff().dropna() <= 0).all()
    assert ((ranked["behind_low"] > 0) == ranked["clear"]).all()
    assert ranked["behind"][0] == 0
    best, others = ranked["typical_error"][0], ranked["typical_error"][1:]
    half = (ranked["behind_high"] - ranked["behind"])[1:] / np.hypot(best, others)
    assert np.ptp(half) < 1e-9  # as wide as the two typical errors say
    wide = predictor.score(as_frame(TESTED), level=0.99)
    assert ((wide["high"] - wide["low"]) >= (scores["high"] - scores["low"])).all()


def test_the_command_ranks_titles(trained: tuple[Path, pd.DataFrame]) -> None:
    titles = ["--title", "good good boat", "--title", "boat", "--set", "user_photo_count=20", "--explain", "2"]
    done = run_command("score", str(trained[0]), *titles)
    assert done.returncode == 0, done.stderr
    assert "the best first" in done.stderr
    assert "1: good good boat" in done.stderr
    assert "behind: " in done.stderr
    for wrong, said in (
        (["--title", "a", "--set", "x"], "found 'x', allowed: COLUMN=VALUE"),
        ([], "name POSTS, or give a post by --image and --title"),
        (["posts.csv"], "--out is needed"),
        (["none.csv", "--out", "a.parquet"], "no such file"),
        (["--title", "a", "--level", "2"], "found 2.0, allowed: between 0 and 1"),
        (["--title", "a", "--image", "a", "--image", "b", "--image", "c", "--title", "d"], "3 pictures and 2 titles"),
    ):
        done = CliRunner().invoke(app, ["score", str(trained[0]), *wrong])
        assert done.exit_code in (1, 2), done.output
        assert said in " ".join(done.output.split()), done.output


def test_columns_of_families_that_others_read_stay() -> None:
    """The captions that CLIP reads are no column of the matrix; the columns of the posts are those of the training."""
    told: list[str] = []
    wide = pa.table({"post_id": ["a"], "colour": ["red"], "caption": ["a boat"], "caption_status": ["ok"]})
    schema = pa.schema([("post_id", pa.string()), ("title", pa.string()), ("clip_status", pa.string())])
    schema = schema.append(pa.field("concept", pa.string(), metadata=EMPTY))
    found = aligned(wide, schema, ("caption", "clip"), told.append)
    posts = {"post_id": "a", "title": None, "concept": None}
    assert found.to_pylist() == [{**posts, "caption": "a boat", "caption_status": "ok"}]
    assert [line.rpartition(": ")[2] for line in told] == ["title", "colour"]


def test_posts_of_which_not_all_could_be_computed_are_told_and_candidates_refused(
    trained: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []
    predictor = Predictor.load(str(trained[0]), tell=told.append)
    frame = pd.DataFrame({"title": ["a", "b", "c"], "image": [None, "nope.jpg", __file__]})

    def judged(table: pa.Table, *_: Any) -> pd.DataFrame:
        """As a predictor does that has CLIP."""
        families = {
            "clip_status": ["no_image", "no_image", "error"], "clip_error": [NO_ADDRESS.reason, "no such file", "oops"],
            "perplexity_status": ["ok"] * 3, "perplexity_error": [None] * 3,
        }  # fmt: skip
        return pd.DataFrame({"post_id": ["1", "2", "3"], **families})

    monkeypatch.setattr(predictor, "judge", judged)
    monkeypatch.setattr(predictor, "features", lambda table: table)
    monkeypatch.setitem(predictor.packed.contents.families, "clip", {})
    predictor.score(frame)
    line = "posts scored although not all of them could be computed: {} (2: no such file)"
    assert told[-1] == line.format(2)
    with pytest.raises(DataError, match=r"nope\.jpg: no such file"):
        predictor.score(frame, together=False)
    with pytest.raises(DataError, match="no posts"):
        predictor.score(frame[:0])

    monkeypatch.setattr("smp_ray.score.aligned", lambda table, *_: table)
    pieces, past = [pa.table({"image_uri": [None, "nope.jpg", "a"]})] * 4, predictor.packed.fitted.past
    assert write_scores(str(tmp_path / "lost.parquet"), predictor, iter(pieces), past, 0.9) == 12
    assert told[-1] == line.format(8), "once, of all pieces"
    assert sum("not all of them" in line for line in told) == 2
    with pytest.raises(DataError, match=r"nope\.jpg: no such file"):
        write_scores(str(tmp_path / "lost.parquet"), predictor, iter(pieces), past, 0.9, together=False)


def test_a_frame_as_pandas_reads_the_posts_table(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    """Lists come as arrays, the picture by its address or as a path object; half a place is none."""
    frame = pd.DataFrame({"title": ["a"], "tags": [["sea", "sun"]], "image_uri": ["a.jpg"], "latitude": [40.0]})
    frame.to_parquet(tmp_path / "posts.parquet")
    packed = Predictor.load(str(trained[0])).packed
    told: list[str] = []
    read = posts_of(pd.read_parquet(tmp_path / "posts.parquet"), packed.schema, (), told.append)
    (post,) = read.to_pylist()
    assert (post["tags"], post["latitude"]) == (["sea", "sun"], None)
    assert post["image_uri"] == str(Path("a.jpg").absolute())
    assert not [line for line in told if "left out" in line]
    (other,) = posts_of(pd.DataFrame({"image": [Path("a.jpg")]}), packed.schema, (), told.append).to_pylist()
    assert other["image_uri"] == post["image_uri"]


def judged_without_one(table: pa.Table, *_: Any) -> pd.DataFrame:
    """As of a first post on which a model failed."""
    statuses, errors = (pd.Series([None] * len(table), dtype=object) for _ in range(2))
    statuses[0], errors[0] = "error", "oops"
    return pd.DataFrame(
        {"post_id": table["post_id"].to_pandas(), "perplexity_status": statuses, "perplexity_error": errors}
    )


def test_candidates_of_a_table_are_not_each_others_past(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    path, _ = trained
    drafts = [{**TESTED[0], "id": f"d{n}", "when": 1_800_000_000 + 3600 * n} for n in range(12)]
    posts, out = write_posts(tmp_path / "drafts.csv", drafts), tmp_path / "out.parquet"
    predictor = Predictor.load(str(path), tell=lambda line: None)
    for together, more in ((True, list(range(12))), (False, [0] * 12)):
        seen: list[float] = []

        def judged(table: pa.Table, past: Past, *_: Any, seen: list[float] = seen) -> pd.DataFrame:
            seen += past.counts(user_hashes(table["user_id"]), seconds(table["posted_at"])).tolist()
            return Predictor.judge(predictor, table, past)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predictor, "judge", judged)
            assert score_source(predictor, str(posts), str(out), 0.9, together=together) == 12
            patch.setattr(predictor, "judge", judged_without_one)
            if not together:
                with pytest.raises(DataError, match="post 1: oops"):
                    score_source(predictor, str(posts), str(out), 0.9, together=together)
                assert not (tmp_path / "out.parquet.work").exists(), "nothing stays of few posts"
        assert [count - seen[0] for count in seen] == more
        assert seen[0] > 0


def test_a_table_says_what_it_lacks_and_what_is_left_out(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "drafts.csv").write_text("post_id,title,colour\n1,a boat,red\n")
    told: list[str] = []
    predictor = Predictor.load(str(trained[0]), tell=told.append)
    assert score_source(predictor, str(tmp_path / "drafts.csv"), str(tmp_path / "out.parquet"), 0.9) == 1
    assert "not known to the predictor, and left out: colour" in told
    (lacking,) = [line for line in told if line.startswith("missing in these posts")]
    assert "posted_at" in lacking
    assert "latitude" not in lacking, "training had none either"
    assert "perplexity_error" in pd.read_parquet(tmp_path / "out.parquet")


def test_a_predictor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.predictor: no such file$"):
        Predictor.load(str(tmp_path / "none.predictor"))


def test_candidates() -> None:
    frame = candidates(["a.jpg"], ["one", "two"], ["user_id=u", "x=a=b"])
    assert frame.to_dict("list") == {
        "image": ["a.jpg"] * 2, "title": ["one", "two"], "user_id": ["u"] * 2, "x": ["a=b"] * 2,
        "post_id": ["1: one", "2: two"],
    }  # fmt: skip
    with pytest.raises(ConfigError):
        candidates([], [], ["a=b"])


def repacked(path: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(path) as file:
        files = {name: file.read(name) for name in file.namelist()}
    change(files)
    with zipfile.ZipFile(out, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return out


def renumbered(files: dict[str, bytes]) -> None:
    """A liar's file: its hashes are right."""
    import hashlib

    facts = json.loads(files["predictor.json"])
    hashes = {name: hashlib.blake2b(data, digest_size=16).hexdigest() for name, data in files.items()}
    facts["files"] = {name: [len(files[name]), hashes[name]] for name in files if name != "predictor.json"}
    files["predictor.json"] = json.dumps(facts).encode()


def hostile(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[name] = data
        renumbered(files)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.pop("encoder.safetensors"), "encoder.safetensors: missing, torn or changed"),
        (lambda files: files.update({"model-0.txt": files["model-0.txt"] + b" "}), "model-0.txt: missing, torn"),
        (lambda files: files.update({"../../evil": b""}), "found '../../evil'"),
        (lambda files: files.update({"/etc/passwd": b""}), "found '/etc/passwd'"),
        (lambda files: files.update({"predictor.json": b"{"}), "predictor.json"),
        (lambda files: files.update({"predictor.json": b'{"format": 2}'}), "format"),
        (hostile("model-0.txt", b"tree\nnum_class=1\nTree=0\n"), "not a whole model"),
        (hostile("encoder.safetensors", b"\xff" * 100), "no predictor that can be loaded"),
        (hostile("encoder.safetensors", b"\x02" + bytes(7) + b"[]"), "no predictor that can be loaded"),
        (hostile("past.safetensors", b""), "no predictor that can be loaded"),
        (hostile("columns.parquet", b"PAR1"), "no predictor that can be loaded"),
    ],
)
def test_what_is_torn_or_lies_is_refused(
    trained: tuple[Path, pd.DataFrame], tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    broken = repacked(trained[0], tmp_path / "broken.predictor", change)
    with pytest.raises(DataError) as error:
        Predictor.load(str(broken))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_archive_is_refused(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    whole = trained[0].read_bytes()
    for number, data in enumerate((b"", b"hello", whole[: len(whole) // 2], whole[100:])):
        path = tmp_path / f"{number}.predictor"
        path.write_bytes(data)
        with pytest.raises(DataError, match="predictor"):
            Predictor.load(str(path))
    with pytest.raises(DataError, match=r"none\.predictor"):
        Predictor.load(str(tmp_path / "none.predictor"))
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("predictor.json", b" " * (65 * 2**20))
    (tmp_path / "bomb.predictor").write_bytes(bomb.getvalue())
    with pytest.raises(DataError, match="too many"):
        Predictor.load(str(tmp_path / "bomb.predictor"))


def test_another_model_is_refused_by_name(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    shutil.copytree(MODELS / "language_model", tmp_path / "model")
    setting = f"features.perplexity.model={tmp_path / 'model'}"
    Predictor.load(str(trained[0]), [setting], tell=lambda line: None).score(pd.DataFrame({"title": ["a boat"]}))
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ModelError, match=r"perplexity: is not the model .*tokenizer_config\.json"):
        Predictor.load(str(trained[0]), [setting]).keys  # noqa: B018
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(ModelError, match="perplexity"):
        Predictor.load(str(trained[0]), [setting]).keys  # noqa: B018


def test_a_source_of_ones_own(trained: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    """A YAML file with a source, and a table with other columns than those of the training."""
    path, expected = trained
    posts = write_posts(tmp_path / "tomorrow.csv", [{**row, "name": row["id"]} for row in TESTED])
    source = tmp_path / "source.yaml"
    source.write_text(
        json.dumps({"source": {"kind": "table", "path": str(posts), "columns": {**NAMES, "post_id": "name"}}})
    )
    predictor = Predictor.load(str(path), tell=lambda line: None)
    assert score_source(predictor, str(source), str(tmp_path / "out.parquet"), 0.9) == 12
    assert not (tmp_path / "out.parquet.work").exists()  # of few posts nothing is kept
    found = pd.read_parquet(tmp_path / "out.parquet")["prediction"]
    np.testing.assert_allclose(found, expected["prediction"], atol=1e-6)
    with pytest.raises(ConfigError, match="--level: found 90"):
        score_source(predictor, "nowhere.csv", str(tmp_path / "out.parquet"), 90)
    write_posts(tmp_path / "bad.csv", [*TESTED[:2], {**TESTED[2], "when": "soon"}])
    assert score_source(predictor, str(tmp_path / "bad.csv"), str(tmp_path / "bad.parquet"), 0.9) == 2
    assert list((tmp_path / "bad.parquet.work").glob("ingest/*/rejected.parquet"))
    pd.DataFrame({"title": ["a"]}).to_csv(tmp_path / "nameless.csv")
    with pytest.raises(ConfigError, match="has no column id"):
        score_source(predictor, str(tmp_path / "nameless.csv"), str(tmp_path / "out.parquet"), 0.9)
    # Texts of users that nobody asked for are left out, and keep no post from being taken.
    write_posts(tmp_path / "named.csv", [{**row, "user_name": "bob"} for row in TESTED])
    assert score_source(predictor, str(tmp_path / "named.csv"), str(tmp_path / "named.parquet"), 0.9) == 12
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "named.parquet")["prediction"], found, atol=1e-6)
