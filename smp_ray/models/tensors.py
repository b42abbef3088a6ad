"""Safetensors files: their metadata, which the library's readers of bytes do not give."""

import json


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; it begins with the length of a JSON header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))
