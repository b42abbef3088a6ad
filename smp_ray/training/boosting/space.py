"""A configured search space in Optuna's terms, and a predictor's own settings as a point of it."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from smp_ray.config import Choice, FloatRange, IntRange, SearchRange


def distributions(space: Mapping[str, SearchRange]) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each parameter."""
    found: dict[str, BaseDistribution] = {}
    for name, range_ in space.items():
        if isinstance(range_, Choice):
            found[name] = CategoricalDistribution(range_.values)
        elif isinstance(range_, FloatRange):
            found[name] = FloatDistribution(range_.low, range_.high, log=range_.log)
        else:
            found[name] = IntDistribution(range_.low, range_.high, log=range_.log)
    return found


def default_point(space: Mapping[str, SearchRange], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Each default at the nearest value that its range allows; where there is none, the low end or first choice."""
    return {name: _nearest(range_, defaults.get(name)) for name, range_ in space.items()}


def _nearest(range_: SearchRange, default: Any) -> Any:
    if isinstance(range_, Choice):
        return default if default in range_.values else range_.values[0]
    if default is None or isinstance(default, str):
        return range_.low
    value = min(max(default, range_.low), range_.high)
    return int(value) if isinstance(range_, IntRange) else float(value)
