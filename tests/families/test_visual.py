"""The numbers of pictures: known ones of made-up pictures, and independent formulas on real photographs."""

from __future__ import annotations

import colorsys
import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smp_ray.families.visual import Visual, VisualSettings
from smp_ray.models.images import decode
from smp_ray.ray_session import RaySession
from tests.features.conftest import exported, run_features, table_config

NAMES = [column.name.removeprefix("image_") for column in Visual.columns]


def measured(image: Image.Image, **settings: float) -> dict[str, float]:
    chosen = VisualSettings.model_validate(settings)
    values = Visual(chosen, "cpu", 1).compute([Visual.transform(chosen).pixels(image)])
    return {name: float(values[f"image_{name}"][0]) for name in NAMES}


def test_a_plain_picture_has_no_detail() -> None:
    found = measured(Image.new("RGB", (640, 320), (200, 100, 50)))
    assert (found["width"], found["height"], found["aspect_ratio"]) == (640, 320, 2)
    assert found["brightness"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, rel=1e-5)
    assert found["saturation"] == pytest.approx(0.75)
    assert found["colourfulness"] == pytest.approx(0.3 * math.hypot(100, 100), rel=1e-5)
    for name in ("contrast", "sharpness", "luma_entropy", "edge_share"):
        assert found[name] == pytest.approx(0, abs=1e-4), name


def test_a_half_black_half_white_picture() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, 50:] = 255
    found = measured(Image.fromarray(pixels), side=100)
    assert found["brightness"] == pytest.approx(127.5, rel=1e-5)
    assert found["contrast"] == pytest.approx(127.5, rel=1e-5)
    assert found["luma_entropy"] == pytest.approx(1)
    assert (found["saturation"], found["colourfulness"]) == (0, pytest.approx(0, abs=1e-4))
    assert found["edge_share"] == pytest.approx(0.02)  # the two columns beside the border
    assert found["sharpness"] == pytest.approx(2 * 255**2 / 100, rel=1e-4)


def test_a_picture_that_was_decoded_smaller_has_the_size_that_is_shown() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (1600, 1200)).save(stream, "JPEG")
    found = measured(decode(stream.getvalue(), 10**8, jpeg_side=448))
    assert (found["width"], found["height"]) == (1600, 1200)


def test_the_same_picture_at_two_sizes_compares(flickr_photos: Path) -> None:
    image = Image.open(next((flickr_photos / "images").glob("*.jpg"))).convert("RGB")
    large, small = measured(image, side=128), measured(image.resize((image.width // 2, image.height // 2)), side=128)
    for name in ("brightness", "contrast", "saturation", "colourfulness", "luma_entropy"):
        assert small[name] == pytest.approx(large[name], rel=0.03), name


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
def test_odd_shapes_have_numbers(size: tuple[int, int]) -> None:
    found = measured(Image.new("RGB", size, "black"))
    assert all(math.isfinite(value) for value in found.values())
    assert (found["width"], found["height"], found["saturation"]) == (*size, 0)


def independent(path: Path, side: int, edge: float) -> dict[str, float]:
    """The definitions again, pixel by pixel or by other means than the family's."""
    original = Image.open(path).convert("RGB")
    scale = side / max(original.size)
    size = (max(1, round(original.width * scale)), max(1, round(original.height * scale)))
    colours = np.asarray(original.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)
    luma = 0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]
    around = np.pad(luma, 1, mode="reflect")

    def shifted(down: int, right: int) -> np.ndarray:
        return around[1 + down : 1 + down + luma.shape[0], 1 + right : 1 + right + luma.shape[1]]

    laplacian = shifted(1, 0) + shifted(-1, 0) + shifted(0, 1) + shifted(0, -1) - 4 * luma
    across = sum(weight * (shifted(down, 1) - shifted(down, -1)) for down, weight in ((-1, 1), (0, 2), (1, 1)))
    along = sum(weight * (shifted(1, right) - shifted(-1, right)) for right, weight in ((-1, 1), (0, 2), (1, 1)))
    few = colours[::7, ::7].reshape(-1, 3)
    counts = Counter(np.rint(luma).astype(int).ravel().tolist())
    shares = [count / luma.size for count in counts.values()]
    rg, yb = colours[..., 0] - colours[..., 1], (colours[..., 0] + colours[..., 1]) / 2 - colours[..., 2]
    return {
        "width": original.width,
        "height": original.height,
        "aspect_ratio": original.width / original.height,
        "brightness": float(luma.sum() / luma.size),
        "contrast": math.sqrt(float(((luma - luma.mean()) ** 2).mean())),
        "saturation_of_few": float(np.mean([colorsys.rgb_to_hsv(*(pixel / 255))[1] for pixel in few])),
        "colourfulness": math.sqrt(rg.var() + yb.var()) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2),
        "sharpness": float((laplacian**2).mean() - laplacian.mean() ** 2),
        "luma_entropy": -sum(share * math.log2(share) for share in shares),
        "edge_share": float((across**2 + along**2 >= edge**2).mean()),
    }


def test_real_photographs_equal_independent_formulas(flickr_photos: Path, session: RaySession, tmp_path: Path) -> None:
    lines = (flickr_photos / "posts.csv").read_text().splitlines()[:61]
    (tmp_path / "posts.csv").write_text("\n".join(lines) + "\n")
    config = table_config(tmp_path / "run", tmp_path / "posts.csv", {"families": ["visual"]}, post_id="photo_id")
    source = config.source.model_copy(update={"image_root": str(flickr_photos)})
    frame = exported(run_features(config.model_copy(update={"source": source}), session), tmp_path)
    assert (frame["visual_status"] == "ok").all()
    for row in frame.to_dict("records"):
        expected = independent(Path(row["image_uri"]), 512, 100.0)
        few = expected.pop("saturation_of_few")
        assert row["image_saturation"] == pytest.approx(few, abs=0.02)  # a sample of the pixels
        for name, value in expected.items():
            tolerance = 2e-4 if name in ("edge_share", "luma_entropy") else 1e-4
            assert row[f"image_{name}"] == pytest.approx(value, rel=tolerance, abs=2e-5), (name, row["post_id"])
