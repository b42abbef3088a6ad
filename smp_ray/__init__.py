"""smp_ray: social-media popularity prediction with Ray, from posts to features, predictions and a report."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smp_ray.config import build_config, load_config
    from smp_ray.pipeline import export, open_run, run_stages
    from smp_ray.predictor.scoring import Predictor
    from smp_ray.stage import status

__version__ = "0.1.0"
__all__ = ["Predictor", "build_config", "export", "load_config", "open_run", "run_stages", "status"]

_HOMES = {"build_config": "config", "load_config": "config", "status": "stage", "Predictor": "predictor.scoring"}


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: workers and `smp_ray.models` need none of it.
    if name not in __all__:
        raise AttributeError(f"module 'smp_ray' has no attribute '{name}'")
    return getattr(import_module(f"smp_ray.{_HOMES.get(name, 'pipeline')}"), name)
