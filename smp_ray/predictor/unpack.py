"""What a predictor's file holds, and how it is read: nothing in it is ever executed, and all that it claims is checked.

A `.predictor` file is a zip archive of `predictor.json` (what it is: `Contents`), `columns.parquet` (no row: names and
types of the columns that posts had), `adapters.safetensors`, `encoder.safetensors`, `past.safetensors`, `sizes.txt` and
`model-<i>.txt`. It holds no post: of the users there are numbers, times and popularity, for those who post again.
"""

import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from smp_ray.errors import DataError, WorkspaceError, one_line
from smp_ray.predictor.calibrate import load_sizes
from smp_ray.predictor.fitted import Fitted
from smp_ray.predictor.uncertainty import Uncertainty
from smp_ray.store.manifest import content_of
from smp_ray.store.workspace import Place
from smp_ray.training.adapter.apply import Adapters
from smp_ray.training.adapter.plan import of_others
from smp_ray.training.boosting.base import Model
from smp_ray.training.boosting.registry import find
from smp_ray.training.matrix.encoder import Encoder
from smp_ray.training.past import Past

FACTS, COLUMNS, ADAPTERS, SIZES = "predictor.json", "columns.parquet", "adapters.safetensors", "sizes.txt"
ENCODER, PAST = "encoder.safetensors", "past.safetensors"
#: What `COLUMNS` says of a column in which no post of the training had a value.
EMPTY = {b"empty": b"yes"}
_NAMES = re.compile(rf"{FACTS}|{COLUMNS}|{ADAPTERS}|{ENCODER}|{PAST}|{SIZES}|model-\d{{1,3}}\.txt")
#: Bytes that all files of a predictor may have together, and `predictor.json` alone.
MOST_BYTES, MOST_FACTS = 8 * 2**30, 64 * 2**20


class Contents(BaseModel):
    """What `predictor.json` says.

    Attributes:
        config: the configuration that it was trained with, without workspace, Ray and secrets.
        families: fingerprint and model of each family whose columns it needs.
        embeddings: columns that the adapters take; None: it has no adapters.
        columns: of the matrix.
        sizing: columns that the sizes of residuals are learned from.
        groups: of the matrix's columns.
        files: bytes and hash of all other files.
        card: for people: data, users, period, split, metrics, versions.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    config: dict[str, Any]
    predictor: str
    families: dict[str, dict[str, Any]]
    groups: tuple[str, ...]
    delay_days: float | None
    embeddings: tuple[str, str] | None
    columns: int
    sizing: int
    uncertainty: Uncertainty
    card: dict[str, Any]
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Packed:
    """A predictor out of its file.

    Attributes:
        schema: of the wide rows that it was trained on; fields that were always null have the metadata `EMPTY`.
        sizes: the model of the sizes of residuals.
    """

    contents: Contents
    schema: pa.Schema
    fitted: Fitted
    sizes: Model


def unpack(path: str) -> Packed:
    """A predictor out of its file; nothing in it is executed, and what it claims is checked before it is used.

    Raises:
        DataError: the file is none, torn, or other than what its `predictor.json` says.
    """
    place = Place.open(path)
    try:
        files = _extracted(place.read())
        contents = Contents.model_validate_json(files.pop(FACTS))
        told = {name: (len(data), content_of(data)) for name, data in files.items()}
        if other := sorted(name for name in {*told, *contents.files} if told.get(name) != contents.files.get(name)):
            raise DataError(f"{', '.join(other)}: missing, torn or changed")
        return _loaded(contents, files)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, WorkspaceError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {FACTS}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except Exception as error:  # whatever a library says of bytes that somebody made up
        raise DataError(f"{path}: no predictor that can be loaded: {one_line(error)}") from None


def _extracted(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        entries = file.infolist()
        names = [entry.filename for entry in entries]
        if strange := [name for name in names if not _NAMES.fullmatch(name) or names.count(name) > 1]:
            raise DataError(f"found {strange[0][:100]!r} in it")
        sizes = {entry.filename: entry.file_size for entry in entries}
        if sum(sizes.values()) > MOST_BYTES or sizes.get(FACTS, 0) > MOST_FACTS:
            raise DataError(f"{sum(sizes.values()):,} bytes are too many")
        found = {}
        for entry in entries:
            with file.open(entry) as inside:
                found[entry.filename] = inside.read(entry.file_size + 1)  # no more than it claims
        return found


def _loaded(contents: Contents, files: Mapping[str, bytes]) -> Packed:
    predictor = find(contents.predictor)
    texts = [files[f"model-{number}.txt"].decode() for number in range(sum(name[:6] == "model-" for name in files))]
    encoder = Encoder.from_bytes(files[ENCODER])
    adapters = None
    if contents.embeddings is not None:
        nobody = np.zeros(0, np.int64)
        split = contents.config["training"]["split"]
        others = of_others(split["kind"], split["folds"])
        adapters = Adapters(files[ADAPTERS], contents.embeddings, nobody, nobody.astype(np.int16), others)
    fitted = Fitted(
        families=tuple(contents.families), groups=contents.groups, delay_days=contents.delay_days, adapters=adapters,
        encoder=encoder, past=Past.from_bytes(files[PAST]),
        models=[predictor.load(predictor.checked(text, contents.columns)) for text in texts],
    )  # fmt: skip
    if not fitted.models:
        raise DataError("it has no model")
    schema = pq.read_schema(pa.BufferReader(files[COLUMNS]))
    return Packed(contents, schema, fitted, load_sizes(files[SIZES].decode(), contents.sizing))
