"""Asking a predictor about posts that it has never seen: in this process, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from smp_ray.config import Config, build_config
from smp_ray.errors import ConfigError, DataError, ModelError
from smp_ray.families.keys import FamilyKey, family_keys
from smp_ray.features.steps import Here
from smp_ray.fetch.outcome import NO_ADDRESS
from smp_ray.predictor import reasons
from smp_ray.predictor.calibrate import sizes_of
from smp_ray.predictor.drafts import posts_of
from smp_ray.predictor.unpack import Packed, unpack
from smp_ray.progress import say
from smp_ray.schema import BAD_IMAGE, ERROR, NO_IMAGE, UNREACHABLE
from smp_ray.training.past import Past

#: Level of an interval, if none is asked for.
LEVEL = 0.9


def check_level(level: float) -> None:
    """Refuse, with a `ConfigError`, what is no level of an interval."""
    if not 0 < level < 1:
        raise ConfigError(f"--level: found {level}, allowed: between 0 and 1, as 0.9")


class Predictor:
    """A trained predictor; `Predictor.load("my.predictor").score(frame)` is all that most need.

    Attributes:
        packed: what its file holds; `card` is for people.
        config: what it was trained with, changed by `settings`.
    """

    def __init__(self, packed: Packed, config: Config, tell: Callable[[str], None] = say) -> None:
        self.packed, self.config = packed, config
        self._tell, self._told = tell, set[str]()

    @classmethod
    def load(cls, path: str, settings: Sequence[str] = (), tell: Callable[[str], None] = say) -> Predictor:
        """Read a `.predictor` file, of this machine or a bucket.

        Args:
            path: as `smp-ray pack` wrote it.
            settings: KEY=VALUE as in `--set`, where a model lies elsewhere here (`features.clip.model=/models/clip`,
                `models=s3://bucket/models`).
            tell: says a line to the user.

        Raises:
            DataError: it is no predictor, or torn.
            ConfigError: it needs a family or a setting that is not there.
        """
        packed = unpack(path)
        raw = {**packed.contents.config, "workspace": "."}
        return cls(packed, build_config(raw, list(settings), name=path), tell)

    @property
    def card(self) -> dict[str, Any]:
        """Data, users, period, split, metrics with intervals, versions, license."""
        return self.packed.contents.card

    @cached_property
    def keys(self) -> dict[str, FamilyKey]:
        """The families that it needs, each with the very model that it was trained with.

        Raises:
            ModelError: a model is missing here, or is another one.
        """
        features = self.config.features
        keys = family_keys(features.sections, features.images.limits, lambda _: False, self.config.models)
        for name, wanted in self.packed.contents.families.items():
            if keys[name].fingerprint != wanted["fingerprint"]:
                raise ModelError(f"{name}: {_difference(wanted['model'], keys[name].model)}")
        return keys

    def score(self, posts: pd.DataFrame, level: float = LEVEL, explain: int = 0, together: bool = True) -> pd.DataFrame:
        """Predict the popularity of posts.

        Args:
            posts: a row a post, see `drafts.posts_of`.
            level: of the interval; 0.9: nine of ten posts like these lie within.
            explain: how many reasons are given for each post.
            together: whether all are posted, so that the earlier count as the later one's past; False for candidates.

        Returns:
            A row a post in their order: post_id, prediction, low, high, typical_error, `<family>_status`,
            `<family>_error`, and with `explain` reasons (a list of texts) and by_group (a dict of sums).

        Raises:
            DataError: a value cannot be read, or the picture of a candidate: without it, it would be another one; there
                are no posts.
            ModelError: a model is missing here, or is another one.
        """
        if posts.empty:
            raise DataError("there are no posts to score")
        table = posts_of(posts, self.packed.schema, tuple(self.packed.contents.families), self.once)
        past = self.packed.fitted.past
        if together:
            past = past.joined(Past.of_posts([table]))
        scores = self.judge(self.features(table), past, level, explain)
        lost = self.incomplete(scores)
        if not together:
            refuse(table, lost)
        self.tell_incomplete(len(lost), lost)
        return scores

    def judge(self, wide: pa.Table, past: Past, level: float = LEVEL, explain: int = 0) -> pd.DataFrame:
        """As `score`, of wide rows with the predictor's columns; `past` is what counts as their users' past."""
        check_level(level)
        fitted, families = self.packed.fitted, tuple(self.packed.contents.families)
        matrix = fitted.matrix([wide], past)
        prediction = fitted.predict(matrix)
        sizes = sizes_of(self.packed.sizes, matrix, prediction)
        low, high = self.packed.contents.uncertainty.interval(prediction, sizes, level)
        told = [f"{name}_{what}" for name in families for what in ("status", "error")]
        statuses = {name: wide[name].to_pandas() for name in told}
        frame = pd.DataFrame(
            {"post_id": wide["post_id"].to_pandas(), "prediction": prediction, "low": low, "high": high,
             "typical_error": self.packed.contents.uncertainty.sized(sizes), **statuses}
        )  # fmt: skip
        if explain:
            shap = reasons.contributions(fitted.models, matrix)
            if shap is None:
                raise ConfigError(f"--explain: {self.packed.contents.predictor} gives no contributions")
            frame["reasons"] = reasons.reasons(shap, matrix, families, explain)
            frame["by_group"] = reasons.by_group(shap, matrix)
        return frame

    def incomplete(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Of scored posts those of which not all could be computed: post_id, why; indexed by their places.

        The picture that they name could not be had, or a model failed on them.
        """
        why = pd.Series(None, index=scores.index, dtype=object)
        for family in self.packed.contents.families:
            errors = scores[f"{family}_error"]
            failed = [ERROR, BAD_IMAGE, NO_IMAGE, UNREACHABLE]
            why = why.mask(scores[f"{family}_status"].isin(failed) & (errors != NO_ADDRESS.reason), errors)
        return scores[["post_id"]].assign(why=why).dropna()

    def tell_incomplete(self, count: int, examples: pd.DataFrame) -> None:
        """Say of how many posts not all could be computed, if any, with the first of some."""
        if count:
            post_id, why = examples.iloc[0]
            self._tell(f"posts scored although not all of them could be computed: {count:,} ({post_id}: {why})")

    def compare(self, scores: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
        """Candidates for one post by one user, the best first, with how far each is behind it.

        Args:
            scores: of `score`.
            level: of the interval of a difference.

        Returns:
            `scores` with rank (from 1), behind, behind_low, behind_high, and `clear`: whether the interval of the
            difference to the best excludes 0.
        """
        ranked = scores.sort_values("prediction", ascending=False, ignore_index=True)
        sizes = ranked["typical_error"].to_numpy()
        behind = ranked["prediction"].iloc[0] - ranked["prediction"].to_numpy()
        half = self.packed.contents.uncertainty.apart(sizes, np.full(len(sizes), sizes[0]), level)
        half[0] = 0.0
        return ranked.assign(
            rank=np.arange(1, len(ranked) + 1), behind=behind, behind_low=behind - half, behind_high=behind + half,
            clear=behind > half,
        )  # fmt: skip

    def once(self, line: str) -> None:
        """Say a line, if it was not said before."""
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    @cached_property
    def features(self) -> Here:
        """Makes wide rows of few posts, in this process; the models are loaded once."""
        return Here(self.config.images, list(self.keys.values()), self.once)


def refuse(posts: pa.Table, incomplete: pd.DataFrame) -> None:
    """A DataError, if of some candidates not all could be computed (see `Predictor.incomplete`)."""
    if len(incomplete):
        place = incomplete.index[0]
        raise DataError(f"{posts['image_uri'][place].as_py() or f'post {place + 1}'}: {incomplete['why'][place]}")


def _difference(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """What is other in a model, in words."""
    files, there = wanted.get("files", {}), found.get("files", {})
    other = sorted(name for name in {*files, *there} if files.get(name) != there.get(name))
    what = f" ({', '.join(other[:3])})" if other else ""
    names = " instead of ".join(str(one.get("name", "its own settings")) for one in (found, wanted))
    return f"is not the model that the predictor was trained with{what}: {names}; --config names where that lies"
