"""What the paper claims, held against these posts: it holds, it is the other way round, or it is not clear here.

Hsu et al., "Revisiting Vision-Language Features Adaptation and Inconsistency for Social Media Popularity Prediction",
ACM Multimedia 2024 (arXiv 2407.00556). Claims belong to a dataset: one that fails here is a finding, no fault.
"""

from typing import Any, NamedTuple

import pandas as pd

from smp_ray.analysis.intervals import OVERALL, UNCLEANED, WITHIN_USERS
from smp_ray.config import ADAPTED
from smp_ray.evaluation.bootstrap import interval
from smp_ray.families.registry import columns_of, families
from smp_ray.report.inputs import Inputs
from smp_ray.report.quality import TITLE_RULES
from smp_ray.report.wording import known_sign

HOLDS, REVERSED, UNCLEAR, UNKNOWN = "holds", "the other way round", "not clear here", "not measured here"
#: There is a value, but of too few users for an interval; and the two metrics contradict each other.
NO_INTERVAL, DIVIDED = "no interval: too few users", "SRC and {} disagree"
_NONE = "–"
#: Of signs that are not known.
_SAYS = {"undefined": UNKNOWN, "no interval": NO_INTERVAL, "unclear": UNCLEAR}


class Claim(NamedTuple):
    """A row of the table: all in words, effects with their 95 % intervals."""

    claim: str
    verdict: str = UNKNOWN
    effect: str = _NONE
    before_cleaning: str = _NONE
    within_users: str = _NONE
    how: str = ""


def claims(inputs: Inputs) -> pd.DataFrame:
    """A row a claim, with `Claim`'s columns; comes after the sections, whose numbers it takes."""
    rows = [*_measures(inputs), _cleaning(inputs), *_groups(inputs)]
    return inputs.publish("claims", pd.DataFrame(rows, columns=list(Claim._fields)))


def judged(value: float | None, low: float | None, high: float | None, sign: int) -> str:
    """What an effect and its interval say of a claim that it has this sign."""
    known = known_sign(value, low, high)
    return _SAYS.get(known) or (HOLDS if (known == "positive") == (sign > 0) else REVERSED)


def _falls(claim: str, found: pd.DataFrame | None, label: str) -> Claim:
    """A claim that something falls with popularity, by its correlations in each scope."""
    how = f"Spearman correlation of the {label} with popularity; the claim is that it falls"
    if found is None or found.empty:
        return Claim(claim, how=how)
    numbers = {row.scope: (row.spearman, row.low, row.high) for row in found.itertuples()}
    said = judged(*numbers[OVERALL], sign=-1)
    shown = {scope: interval(value, low, high, 2, signed=True) for scope, (value, low, high) in numbers.items()}
    return Claim(claim, said, shown[OVERALL], shown.get(UNCLEANED, _NONE), shown[WITHIN_USERS], how)


def _measures(inputs: Inputs) -> list[Claim]:
    """Claims that a measure falls with popularity: of each claim, the first measure that has values."""
    found = inputs.published.get("correlations")
    rows: dict[str, Claim] = {}
    for name, column in columns_of(families()).items():
        measure = column.measure
        if measure is None or not measure.claim or rows.get(measure.claim, Claim("")).verdict != UNKNOWN:
            continue
        own = None if found is None else found[found["measure"] == name]
        row = _falls(measure.claim, own, measure.label)
        if row.verdict != UNKNOWN or measure.claim not in rows:
            rows[measure.claim] = row
    return list(rows.values())


def _cleaning(inputs: Inputs) -> Claim:
    """The claim that cleaning drops fewer of the popular posts; cleaning takes part in no other."""
    found = inputs.published.get("cleaning_correlations")
    own = None if found is None else found[found["rules"] == TITLE_RULES]
    return _falls("Low-quality titles are rarer among popular posts", own, "titles that a rule removes (0 or 1)")


def _groups(inputs: Inputs) -> list[Claim]:
    """Claims that groups of columns make predictions better: beside the others they start from, and beside all."""
    pairs = [] if inputs.metrics is None else inputs.metrics["differences"]
    columns = columns_of(families()).values()
    measured = dict.fromkeys(c.group for c in columns if c.measure is not None and c.measure.claim and c.group)
    rows = []
    for group in (ADAPTED, *measured):
        said = "Features adapted to popularity help" if group == ADAPTED else f"The group {group} helps"
        added = [pair for pair in pairs if pair["variant"].endswith(f" + {group}")]
        # The adapted embeddings before all against those that they are made of.
        added.sort(key=lambda pair: " + " not in pair["reference"])
        left_out = [pair for pair in pairs if pair["reference"].endswith(f" - {group}")]
        both = (*added[:1], *left_out[:1])
        found = [_helps(f"{said} to predict, {_beside(pair)}", pair, inputs.objective) for pair in both]
        rows += found or [Claim(f"{said} to predict", how="the ablation has no such pair")]
    return rows


def _beside(pair: dict[str, Any]) -> str:
    """What a group of columns is added to, or replaces, in a pair of the ablation."""
    if " - " in pair["reference"]:
        return "beside all other columns"
    beside, _, replaced = pair["reference"].rpartition(" + ")
    return f"in place of {replaced}" if beside else f"beside {replaced}"


def _helps(claim: str, pair: dict[str, Any], objective: str) -> Claim:
    """A claim that the pair's variant is better than its reference, by SRC and by what models are tuned for."""
    by_error, by_rank = judged(**pair[objective], sign=-1), judged(**pair["src"], sign=1)
    verdict = DIVIDED.format(objective.upper()) if {by_error, by_rank} == {HOLDS, REVERSED} else by_error
    effect = ", ".join(f"{name.upper()} {interval(**pair[name], signed=True)}" for name in ("src", objective))
    how = f"`{pair['variant']}` against `{pair['reference']}`, out of fold"
    return Claim(claim, verdict, effect, how=how)
