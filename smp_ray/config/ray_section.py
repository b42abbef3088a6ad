"""The `ray` section: where Ray runs, and what its cluster may grow to."""

from pydantic import Field, SecretStr

from smp_ray.section import Section


class NodeGroup(Section):
    """Equal nodes that the cluster has or may grow to."""

    nodes: int = Field(1, ge=1, le=100_000, description="at most how many")
    cpus: float = Field(gt=0, le=4096, description="of one node, as Ray sees them")
    gpus: int = Field(0, ge=0, le=64, description="of one node")
    gpu: str = Field("", description="their kind as Ray calls it (A100, L4, …); '': any")
    gpu_memory_gb: float | None = Field(None, gt=0, description="of one GPU")
    memory_gb: float | None = Field(None, gt=0, description="of one node, what Ray gives to its workers")
    price: float | None = Field(None, ge=0, description="of one node and hour, in any currency; for smp-ray plan")


class RayConfig(Section):
    """Where Ray runs."""

    address: str | None = Field(None, description="null: RAY_ADDRESS if set (inside a job), else this machine alone")
    num_cpus: int | None = Field(None, ge=1, description="logical CPUs of a local Ray; null: all, at least 4")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; null: all")
    object_store_mb: int | None = Field(
        None, ge=80, description="local object store; null: 30 % of memory, at most 2048"
    )
    cluster: tuple[NodeGroup, ...] | None = Field(
        None, min_length=1, description="what an autoscaled cluster may grow to; null: the nodes that are there"
    )
    wait_s: float = Field(
        1800.0, ge=0, description="for the nodes that a pass needs at least, where `cluster` is given"
    )
    env: dict[str, SecretStr] = Field(
        {}, description="environment variables of the workers (HF_HOME, AWS_…); their values are never shown"
    )
