"""All predictors by name: the built-in one and those of installed packages.

A package of one's own adds a predictor by an entry point, whose name is what `training.predictor` gives:

    [project.entry-points."smp_ray.predictors"]
    forest = "my_package.forest:Forest"
"""

from importlib.metadata import EntryPoint

from smp_ray.config import LIGHTGBM, PREDICTORS
from smp_ray.errors import ConfigError
from smp_ray.plugins import found, loaded
from smp_ray.training.boosting.base import Predictor

BUILT_IN = EntryPoint(LIGHTGBM, "smp_ray.training.boosting.lightgbm:LightGBM", PREDICTORS)


def find(name: str) -> Predictor:
    """The predictor of this name.

    Raises:
        ConfigError: it is not installed here, cannot be imported or is no `Predictor`.
    """
    entry = {entry.name: entry for entry in (*found(PREDICTORS, ()), BUILT_IN)}.get(name)
    if entry is None:
        raise ConfigError(f"training.predictor: '{name}' is not installed here")
    who = f"training.predictor: '{name}' ({entry.value})"
    return loaded(entry, Predictor, who, ConfigError)()  # type: ignore[type-abstract]
