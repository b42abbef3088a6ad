"""The `ray` section."""

from pydantic import Field

from smp_ray.section import Section


class RayConfig(Section):
    """Where Ray runs."""

    address: str | None = Field(None, description="null: RAY_ADDRESS if set (inside a job), else this machine alone")
    num_cpus: int | None = Field(None, ge=1, description="logical CPUs of a local Ray; null: all, at least 4")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; null: all")
    object_store_mb: int | None = Field(
        None, ge=80, description="local object store; null: 30 % of memory, at most 2048"
    )
    env: dict[str, str] = Field({}, description="environment variables of the workers (HF_HOME, AWS_…)")
