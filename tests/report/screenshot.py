"""Picture of a report's top for the README: `python -m tests.report.screenshot runs/demo/report/index.html`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tests.report.browser import chromium

_WIDTH, _HEIGHT = 1100, 1640
_LARGEST = 300_000


def main(report: str, out: str = "docs/report.png", start: str = "") -> None:
    """Write the picture, at most 300 kB; `start` is the id of the element at its top."""
    target = Path(out)
    target.parent.mkdir(exist_ok=True)
    with chromium(_WIDTH, _HEIGHT) as page:
        page.go(Path(report).resolve())
        page.evaluate("document.querySelectorAll('.modebar').forEach(bar => bar.style.display = 'none')")
        if start:
            page.evaluate(f"document.getElementById('{start}').scrollIntoView()")
        page.screenshot(target)
    picture = Image.open(target).convert("RGB")
    picture.save(target, optimize=True)
    if target.stat().st_size > _LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    size = target.stat().st_size
    print(f"{target}: {picture.width} x {picture.height}, {size:,} bytes")
    if size > _LARGEST:
        sys.exit(f"{target}: larger than {_LARGEST:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
