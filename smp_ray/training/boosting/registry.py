"""All predictors by name: the built-in one and those of installed packages.

A package of one's own adds a predictor by an entry point, whose name is what `training.predictor` gives:

    [project.entry-points."smp_ray.predictors"]
    forest = "my_package.forest:Forest"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from smp_ray.config import LIGHTGBM, PREDICTORS
from smp_ray.errors import ConfigError
from smp_ray.training.boosting.base import Predictor

BUILT_IN = EntryPoint(LIGHTGBM, "smp_ray.training.boosting.lightgbm:LightGBM", PREDICTORS)


def find(name: str) -> Predictor:
    """The predictor of this name.

    Raises:
        ConfigError: it is not installed here, cannot be imported or is no `Predictor`.
    """
    found = {entry.name: entry for entry in (*entry_points(group=PREDICTORS), BUILT_IN)}.get(name)
    if found is None:
        raise ConfigError(f"training.predictor: '{name}' is not installed here")
    who = f"training.predictor: '{name}' ({found.value})"
    try:
        predictor = found.load()
    except Exception as error:  # a package may raise anything while it is imported
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{who} cannot be imported: {reason}") from error
    if not (isinstance(predictor, type) and issubclass(predictor, Predictor)):
        raise ConfigError(f"{who} is no subclass of {Predictor.__module__}.Predictor")
    return predictor()
