"""The configuration: sections, each in a file of its own, and the whole that reads and checks a YAML file."""

from smp_ray.config.features_section import FeaturesConfig, ImagesConfig
from smp_ray.config.ray_section import NodeGroup, RayConfig
from smp_ray.config.report_section import CleaningConfig
from smp_ray.config.sweep_section import CPUS_PER_TRIAL, Choice, FloatRange, IntRange, SearchRange, TuneConfig
from smp_ray.config.training_section import LIGHTGBM, PREDICTORS, AdapterConfig, MatrixConfig, SplitConfig
from smp_ray.config.whole import (
    Config,
    build_config,
    config_class,
    embeddings,
    external_data,
    load_config,
    matrix_families,
    matrix_groups,
)
from smp_ray.families.base import ADAPTED, HISTORY, METADATA, TEXT
