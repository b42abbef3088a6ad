"""smp_ray: distributed feature computation for social-media popularity prediction."""

__version__ = "0.1.0"
