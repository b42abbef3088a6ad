"""The HTML report: one self-contained page that opens offline, and every figure's numbers as CSV."""

from smp_ray.report.write import write_report

__all__ = ["write_report"]
