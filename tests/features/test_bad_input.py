"""A bad image or a strange title costs its own row at most, and the reason is kept.

It also tests `features/actors.py`, `features/decode.py`.
"""

from __future__ import annotations

import http.server
import io
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from smp_ray.demo import MODELS
from smp_ray.ray_session import RaySession
from tests.features.conftest import EMBEDDED, exported, run_command, run_features, table_config, write_table


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    return Image.fromarray(ramp)


def bomb() -> bytes:
    """A PNG header that claims 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


GOOD = {
    "plain.jpg": encoded(picture(), "JPEG"),
    "cmyk.jpg": encoded(picture().convert("CMYK"), "JPEG"),
    "sixteen.png": encoded(Image.fromarray(np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)), "PNG"),
    "palette.png": encoded(picture().convert("P"), "PNG"),
    "animated.gif": encoded(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
    "dot.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "rotated.jpg": rotated(),
}
BAD = {
    "truncated.jpg": encoded(picture(), "JPEG")[:400],
    "empty.jpg": b"",
    "page.jpg": b"<!DOCTYPE html><html><body>not found</body></html>",
    "bomb.png": bomb(),
    "noise.jpg": bytes(range(256)) * 8,
}
TITLES = {
    "empty": "",
    "spaces": "  \t ",
    "long": "sunset over the harbour " * 4300,
    "nul": "a boat\0 on a lake",
    "emoji": "🏖️🐕‍🦺✨",
    "right to left": "שקיעה בים التصوير",
    "one token": "a",
    "broken utf-8": "caf\udce9 at night",
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = GOOD["plain.jpg"] if self.path == "/a%20photo.jpg" else None
            self.send_response(200 if data else 404)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()


@pytest.fixture(scope="module")
def zoo(server: str, session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "images").mkdir()
    for name, data in {**GOOD, **BAD}.items():
        (folder / "images" / name).write_bytes(data)
    posts = [{"id": name, "title": "a picture", "image": f"images/{name}"} for name in (*GOOD, *BAD, "missing.jpg")]
    posts += [
        {"id": "url", "title": "a picture", "image": f"{server}/a photo.jpg"},
        {"id": "404", "title": "a picture", "image": f"{server}/nothing.jpg"},
        {"id": "unreachable", "title": "a picture", "image": "http://127.0.0.1:9/x.jpg"},
        {"id": "folder", "title": "a picture", "image": "images"},
    ]
    posts += [{"id": name, "title": title, "image": "images/plain.jpg"} for name, title in TITLES.items()]
    features = {**EMBEDDED, "images": {"allow_private": True, "timeout_s": 2}}
    config = table_config(folder / "run", write_table(folder / "posts.csv", posts), features)
    return exported(run_features(config, session), folder).set_index("post_id")


def test_every_post_has_its_row(zoo: pd.DataFrame) -> None:
    assert len(zoo) == len(GOOD) + len(BAD) + 5 + len(TITLES)
    assert not (zoo[["caption_status", "clip_status", "perplexity_status"]] == "error").any().any()


@pytest.mark.parametrize("name", [*GOOD, "url"])
def test_what_can_be_decoded_is(zoo: pd.DataFrame, name: str) -> None:
    row = zoo.loc[name]
    assert (row["caption_status"], row["clip_status"]) == ("ok", "ok")
    assert isinstance(row["caption"], str)
    assert np.linalg.norm(row["clip_image"].astype(float)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        *((name, "bad_image", "") for name in BAD),
        ("bomb.png", "bad_image", "50000"),
        ("missing.jpg", "no_image", "no such file"),
        ("404", "no_image", "HTTP 404"),
        ("unreachable", "unreachable", "connection failed"),
        ("folder", "no_image", "not a file"),
    ],
)
def test_the_rest_says_why_and_keeps_its_text(zoo: pd.DataFrame, name: str, status: str, reason: str) -> None:
    row = zoo.loc[name]
    assert (row["caption_status"], row["clip_status"], row["perplexity_status"]) == (status, status, "ok")
    assert row["clip_error"]
    assert reason.replace(",", "") in row["clip_error"].replace(",", "")
    assert pd.isna(row["clip_image"])
    assert pd.isna(row["caption"])
    assert pd.isna(row["clip_caption"])
    assert np.isnan(row["similarity_image_title"])
    assert row["clip_title"] is not None


def test_orientation_is_applied(zoo: pd.DataFrame) -> None:
    # The same file without the orientation tag gives another vector.
    assert not np.allclose(zoo.loc["rotated.jpg", "clip_image"], zoo.loc["plain.jpg", "clip_image"], atol=1e-3)


@pytest.mark.parametrize("name", ["empty", "spaces"])
def test_empty_titles_are_no_text(zoo: pd.DataFrame, name: str) -> None:
    row = zoo.loc[name]
    assert row["perplexity_status"] == "no_text"
    assert np.isnan(row["title_perplexity"])
    assert pd.isna(row["clip_title"])
    assert row["clip_status"] == "ok"


@pytest.mark.parametrize("name", [name for name in TITLES if name not in ("empty", "spaces")])
def test_strange_titles_are_scored(zoo: pd.DataFrame, name: str) -> None:
    row = zoo.loc[name]
    assert row["perplexity_status"] == "ok"
    assert np.isfinite(row["title_perplexity"])
    assert row["title_token_count"] >= 1
    assert row["clip_title"] is not None


def test_long_titles_are_cut_and_short_ones_count(zoo: pd.DataFrame) -> None:
    assert zoo.loc["long", "title_token_count"] <= 256
    assert zoo.loc["one token", "title_token_count"] == 1


def test_model_that_is_not_there_is_one_line(tmp_path: Path, session: RaySession) -> None:
    from smp_ray.errors import ModelError

    table = write_table(tmp_path / "posts.csv", [{"id": 1, "title": "t", "image": ""}])
    config = table_config(tmp_path / "run", table, {"families": ["clip"], "clip": {"model": "./nowhere"}})
    with pytest.raises(ModelError, match="nowhere") as caught:
        run_features(config, session)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_damaged_model_ends_with_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODELS / "language_model", model)
    (model / "model.safetensors").write_bytes(b"not weights" * 100)
    table = write_table(tmp_path / "posts.csv", [{"id": 1, "title": "t"}, {"id": 2, "title": "u"}])
    config = tmp_path / "config.yaml"
    config.write_text(
        f"workspace: {tmp_path / 'run'}\n"
        f"source: {{kind: table, path: {table}, columns: {{post_id: id, title: title}}}}\n"
        f"features: {{families: [perplexity], perplexity: {{model: {model}}}}}\n"
    )
    done = run_command("features", str(config))
    assert done.returncode == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("ingest:", "features:", "progress "))]
    assert len(errors) == 1
    assert errors[0].startswith(f"Error: the feature pass stopped: perplexity: model '{model}': cannot be loaded")
