"""What the paper claims, held against these posts: it holds, it is the other way round, or it is not clear here.

Hsu et al., "Revisiting Vision-Language Features Adaptation and Inconsistency for Social Media Popularity Prediction",
ACM Multimedia 2024 (arXiv 2407.00556). Claims belong to a dataset: one that fails here is a finding, no fault.
"""

from typing import Any

import pandas as pd

from smp_ray.analysis.intervals import OVERALL, WITHIN_USERS
from smp_ray.config import ADAPTED
from smp_ray.evaluation.bootstrap import interval
from smp_ray.families.registry import columns_of, families
from smp_ray.report.inputs import Inputs

HOLDS, REVERSED, UNCLEAR, UNKNOWN = "holds", "the other way round", "not clear here", "not measured here"
_NONE = "–"


def claims(inputs: Inputs) -> pd.DataFrame:
    """A row a claim; comes after the sections, whose numbers it takes.

    Returns:
        claim, verdict, effect, within_users, how: all in words, effects with their 95 % intervals.
    """
    rows = [*_measures(inputs), *_groups(inputs)]
    return inputs.publish("claims", pd.DataFrame(rows, columns=["claim", "verdict", "effect", "within_users", "how"]))


def judged(value: float | None, low: float | None, high: float | None, sign: int) -> str:
    """What an effect and its interval say of a claim that it has this sign."""
    if value is None or low is None or high is None or pd.isna([value, low, high]).any():
        return UNKNOWN
    if low <= 0 <= high:
        return UNCLEAR
    return HOLDS if value * sign > 0 else REVERSED


def _measures(inputs: Inputs) -> list[tuple[str, str, str, str, str]]:
    """Claims that a measure falls with popularity: of each claim, the first measure that has values."""
    found = inputs.published.get("correlations")
    measures = {name: column.measure for name, column in columns_of(families()).items() if column.measure is not None}
    rows: dict[str, tuple[str, str, str, str, str]] = {}
    for name, measure in measures.items():
        if not measure.claim or rows.get(measure.claim, ("", UNKNOWN))[1] != UNKNOWN:
            continue
        said, effects = UNKNOWN, {OVERALL: _NONE, WITHIN_USERS: _NONE}
        own = None if found is None else found[found["measure"] == name].set_index("scope")
        if own is not None and len(own):
            for scope in effects:
                value, low, high = (float(number) for number in own.loc[scope, ["spearman", "low", "high"]])
                effects[scope] = interval(value, low, high, digits=2, signed=True)
                said = judged(value, low, high, sign=-1) if scope == OVERALL else said
        how = f"Spearman correlation of the {measure.label} with popularity; the claim is that it falls"
        if said != UNKNOWN or measure.claim not in rows:
            rows[measure.claim] = (measure.claim, said, effects[OVERALL], effects[WITHIN_USERS], how)
    return list(rows.values())


def _groups(inputs: Inputs) -> list[tuple[str, str, str, str, str]]:
    """Claims that groups of columns make predictions better."""
    pairs = [] if inputs.metrics is None else inputs.metrics["differences"]
    columns = columns_of(families()).values()
    measured = dict.fromkeys(c.group for c in columns if c.measure is not None and c.measure.claim and c.group)
    rows = []
    for group in (ADAPTED, *measured):
        wanted = [pair for pair in pairs if _is_about(pair, group)]
        # The adapted embeddings against those that they are made of; else against all other columns together.
        pair = next((pair for pair in wanted if pair["variant"].endswith(group)), None) if group == ADAPTED else None
        pair = pair or next((pair for pair in wanted if pair["reference"].endswith(f" - {group}")), None)
        said, effect, how = UNKNOWN, _NONE, "the ablation has no such pair"
        if pair is not None:
            said = judged(**pair["mae"], sign=-1)
            effect = f"MAE {interval(**pair['mae'], signed=True)}"
            how = f"`{pair['variant']}` against `{pair['reference']}`, out of fold"
        words = "Features adapted to popularity" if group == ADAPTED else f"The group {group}"
        rows.append((f"{words} {'help' if group == ADAPTED else 'helps'} to predict", said, effect, _NONE, how))
    return rows


def _is_about(pair: dict[str, Any], group: str) -> bool:
    """Whether a pair of the ablation differs by a group: it is in the one alone, or replaces others in it."""
    added = pair["variant"].endswith(f" + {group}") and " + " in pair["reference"]
    return bool(added or pair["reference"].endswith(f" - {group}"))
