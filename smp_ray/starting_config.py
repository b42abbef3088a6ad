"""A starting config for one's own table: columns guessed by name and content, with the reasons as comments beside them.

A column is only taken where its values read as ingest would read them.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import yaml

from smp_ray.errors import ConfigError, DataError
from smp_ray.families.registry import families
from smp_ray.section import shown
from smp_ray.sources.base import Intake
from smp_ray.sources.table import READINGS
from smp_ray.sources.table_files import table_files, table_rows
from smp_ray.sources.values import as_flag

_ROWS = 300
#: Share of the given values that must read as what a column's name says; rows of the others would be rejected.
_READABLE = 0.9
#: Names that columns have in tables, the most telling first; all in small letters, words joined by "_".
_NAMES: dict[str, tuple[str, ...]] = {
    "post_id": ("post_?id", "(photo|picture|image|img|media|video|tweet|status|item|pin|note)_?id", "pid|id|uuid|key"),
    "user_id": ("user_?id", "(author|owner|account|channel)_?id|uid", "user(_?name)?|author|owner|account|screen_name"),
    "image": ("image|images|img|photo|picture", "(image|img|photo|picture|media)_?(path|file|url|uri|name|bytes)",
              "file(_?name|_?path)?|path|url|thumbnail"),
    "title": ("title|post_title", "captions?|text|full_text|post_text", "description|content|body|message|headline"),
    "tags": ("(all_?|hash_?)?tags", "keywords"),
    "posted_at": ("posted_at|post_?(date|time)|date_?posted", "(created|published|uploaded|taken)_?(at|date|time|utc)?",
                  "timestamp|date_?time|date|time"),
    "latitude": ("lat(itude)?",),
    "longitude": ("lon(g|gitude)?|lng",),
    **{name: (name,) for name in ("geo_accuracy", "category", "subcategory", "concept")},
    "text_language": ("(text_)?lang(uage)?",),
    "media_type": ("(media|post)_?type",),
    "split": ("split|subset|part",),
    "popularity": ("popularity(_?score)?", "score|label|target"),
}  # fmt: skip
_COUNT = re.compile(r"(num(ber)?_(of_)?)?(like|view|fav(ou?rite)?|share|retweet|comment|play)s?(_?count)?")
_OF_USER = re.compile(r"^(author|owner|user)_|^(?=follow)")
_DATE = re.compile(r"(19|20)\d\d-\d\d-\d\d")
_IMAGE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif)(\?.*)?$|^https?://", re.IGNORECASE)
#: What is lost without a column.
_LACKING = {
    "image": "all that is computed from images is null (no_image)",
    "title": "all that is computed from texts is null (no_text)",
    "user_id": "folds are by post, and nothing is known of the user",
    "posted_at": "there are no features of the date, and no folds by time",
    "popularity": "nothing is learned or predicted, `run` ends with features and report",
}


def write_starting_config(table: str, out: str | None = None) -> tuple[str, list[str]]:
    """Write the config of a table of posts to `out`, by default the table's name with `.yaml` in the current folder.

    Returns:
        The file, and what it says of the columns, one line each.

    Raises:
        ConfigError: the file is there already, or cannot be written.
        DataError: the table cannot be read, or no column can be the id of a post.
    """
    stem = os.path.basename(table.partition("?")[0].rstrip("/")).split(".")[0] or "posts"
    out = out or f"{stem}.yaml"
    if os.path.exists(out):
        raise ConfigError(f"{out}: is there already and is left as it is; --out names another file")
    values = _sample(table)
    found, notes = guess_columns(values)
    if "post_id" not in found:
        raise DataError(f"{table}: {notes['post_id']}; add a column that names each post")
    root = _image_root(table, values, found)
    lines = [f"    {key}: {_scalar(name)}  # {notes[key]}" for key, name in found.items()]
    lacking = [f"{key}: {note}" for key, note in notes.items() if key not in found]
    unused = ", ".join(_scalar(name) for name in values if name not in found.values())
    text = _text(table, stem, [*lines, *(f"    # {line}" for line in lacking)], unused, root)
    try:
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None
    return out, [*(f"{key}: {_scalar(name)} ({notes[key]})" for key, name in found.items()), *lacking]


def guess_columns(values: Mapping[str, Sequence[Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """Which column of a table, given by its first values, is which column of the posts table.

    Returns:
        Column of the posts table -> column of the table; and of each why, or why there is none.
    """
    found: dict[str, str] = {}
    notes: dict[str, str] = {}
    for key, patterns in _NAMES.items():
        named = [name for pattern in patterns for name in values if re.fullmatch(pattern, _plain(name))]
        problems = {name: _problem(key, values[name]) for name in named}
        good = [name for name in named if problems[name] is None and name not in found.values()]
        if good:
            found[key], notes[key] = good[0], f"by its name; for example {_example(values[good[0]])}"
            if len(good) > 1:
                notes[key] += f"; or is it {', '.join(map(_scalar, good[1:]))}?"
        elif named:
            notes[key] = f"is it {_scalar(named[0])}? {problems[named[0]] or 'taken for another column'}"
        elif key in _LACKING:
            notes[key] = f"not found, so {_LACKING[key]}"
    _guess_by_content(values, found, notes)
    for name in values:
        key = _OF_USER.sub("user_", _plain(name))
        new = key.startswith("user_") and key not in READINGS and key not in found and name not in found.values()
        if new and _problem(key, values[name]) is None:
            found[key], notes[key] = name, f"a number of the user; for example {_example(values[name])}"
    if "popularity" not in found:
        counts = [name for name in values if _COUNT.fullmatch(_plain(name)) and name not in found.values()]
        if counts:
            notes["popularity"] = f"not found; a count such as {_scalar(counts[0])} could be it, best as its logarithm"
    return {key: found[key] for key in ("post_id", *found) if key in found}, notes


def _guess_by_content(values: Mapping[str, Sequence[Any]], found: dict[str, str], notes: dict[str, str]) -> None:
    """Image, title, id (maybe the image's path) and date (the only one, not the user's) where no name tells them."""
    for key in ("image", "title", "post_id", "posted_at"):
        free = [name for name in values if name not in found.values()]
        if key == "posted_at":
            free = [name for name in free if not _OF_USER.match(_plain(name))]
            free = [name for name in free if all(_empty(value) or _DATE.match(str(value)) for value in values[name])]
        elif key == "title":
            free = [
                name for name in free if sum(len(str(value).split()) for value in values[name]) >= 3 * len(values[name])
            ]
        elif key == "post_id" and "image" in found:
            free.append(found["image"])
        good = [name for name in free if _problem(key, values[name]) is None]
        if key not in found and good and (key != "posted_at" or len(good) == 1):
            found[key], notes[key] = good[0], f"by its content; for example {_example(values[good[0]])}"
    if "post_id" not in found and "post_id" not in notes:
        there = ", ".join(map(_scalar, values))
        notes["post_id"] = f"no column can be the id of a post, with a short value of its own in every row, of {there}"


def _problem(key: str, values: Sequence[Any]) -> str | None:
    """Why these values cannot be those of a column of the posts table; None if they can."""
    given = [value for value in values if not _empty(value)]
    bad: list[str] = []
    read: list[Any] = []
    for value in given:
        try:
            read.append(READINGS.get(key, as_flag)(value))
        except ValueError as error:
            bad.append(str(error))
    if not given or len(bad) > (1 - _READABLE) * len(given):
        return bad[0] if bad else "it is empty"
    if key == "post_id":
        texts = [str(value) for value in read]
        if len(given) < len(values) or len(set(texts)) < len(values):
            return f"{len(set(texts)):,} different values in {len(values):,} rows"
        if any(len(text) > 200 or " " in text for text in texts):
            return f"found {shown(texts[0])}, allowed: a short value without spaces"
    if key == "image":
        images = [value for value in read if isinstance(value, bytes) or _IMAGE.search(str(value))]
        if len(images) < len(read) / 2:
            return f"found {_example(read)}, allowed: paths or URLs of image files, or their bytes"
    if key == "title" and not any(isinstance(value, str) and re.search(r"[^\W\d_]", value) for value in given):
        return f"found {_example(given)}, allowed: texts"
    if key == "posted_at" and any(value is not None and value.year < 1990 for value in read):
        return f"found {_example(given)}, allowed: epoch seconds or ISO 8601"
    return None


def _sample(table: str) -> dict[str, list[Any]]:
    """The first values of each column."""
    location, names, found = table_files(table, "auto")
    if found == "csv":
        with location.text(names[0]) as text:
            header = text.readline()
        others = "[;|]" if ".tsv" in names[0].lower() else "[;\t|]"
        if "," not in header and (wrong := re.search(others, header)):
            raise DataError(f"{table}: its columns are separated by {wrong[0]!r}, allowed: commas, or tabs in .tsv")
    rows = table_rows(location, names[0], found, [], Intake(lambda row: None))
    with closing(rows):  # type: ignore[type-var]
        records = [record for _, record in islice(rows, _ROWS)]
    values = {
        name: [record.get(name) for record in records]
        for name in dict.fromkeys(key for record in records for key in record)
    }
    if not values:
        raise DataError(f"{table}: has no rows")
    return values


def _image_root(table: str, values: Mapping[str, Sequence[Any]], found: Mapping[str, str]) -> str | None:
    """`source.image_root` where local images are elsewhere than beside the table; None where the default does."""
    paths = [value for value in values.get(found.get("image", ""), ()) if isinstance(value, str) and value.strip()]
    paths = [path for path in paths if "://" not in path][:20]
    if not paths or "://" in table:
        return None
    if all(os.path.isabs(path) for path in paths):
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    beside = table if os.path.isdir(table) else os.path.dirname(table) or "."
    below = sorted(entry.name for entry in os.scandir(beside) if entry.is_dir())
    places = [beside, *(os.path.join(beside, name) for name in below), os.path.join(beside, "..")]
    there = {place: sum(os.path.isfile(os.path.join(place, path)) for path in paths) for place in places}
    best = max(places, key=lambda place: there[place])
    return None if best == beside else best


def _text(table: str, stem: str, columns: list[str], unused: str, root: str | None) -> str:
    models = []
    for family in families().values():
        for example in family.Settings.model_json_schema().get("examples", [])[:1]:
            real = yaml.safe_dump(example, default_flow_style=True, sort_keys=False, width=1000).strip()
            models.append(f"  {family.key()}: {{model: embedded}}  # real: {real}")
    return "\n".join([
        f"# A starting config, guessed from the first {_ROWS} rows of the table: read it before you trust it.",
        f"workspace: {_scalar(f'runs/{stem}')}  # all results; a folder or s3://bucket/prefix",
        "source:",
        "  kind: table",
        f"  path: {_scalar(table)}  # relative paths are taken from the folder that smp-ray is run in",
        "  columns:  # column of smp_ray: column of the table",
        *columns,
        *([f"    # not used: {unused}"] if unused else []),
        f"  image_root: {_scalar(root)}  # where the images are" if root
        else "  # image_root: folder of relative image paths; by default that of the table",
        "features:  # embedded models only know the sample world: good for a first try, not for results",
        *models,
        "",
    ])  # fmt: skip


def _plain(name: str) -> str:
    """A column's name in small letters, its words joined by "_": "Photo ID" and "photoId" are photo_id."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


def _scalar(text: str) -> str:
    """A text as YAML reads it back, in one line."""
    simple = re.fullmatch(r"[A-Za-z_./][\w./-]*", text) and yaml.safe_load(text) == text
    return text if simple else json.dumps(text, ensure_ascii=False)


def _empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str | bytes) and not value.strip())


def _example(values: Sequence[Any]) -> str:
    return shown(next((value for value in values if not _empty(value)), None))
