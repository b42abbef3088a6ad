"""The HTML report: one self-contained page that opens offline, and every figure's numbers as CSV."""
