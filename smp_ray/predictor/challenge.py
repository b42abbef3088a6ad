"""The SMP Challenge's submission file, held against the posts that it should cover."""

import json
import math
import re
from collections import Counter

from smp_ray.errors import DataError, one_line
from smp_ray.sources.json_files import text_lines
from smp_ray.sources.location import Location, reading

#: How names of pictures end; an id may have a dot.
_SUFFIX = re.compile(r"\.(jpe?g|png|gif|webp|bmp|mp4)$", re.IGNORECASE)
#: Ids that a message names at most.
_NAMED = 3


def check_submission(submission: str, listed: str) -> int:
    """How many posts are listed, all of which the submission has once, with a finite score, and no others.

    Args:
        submission: a JSON file as `predict` writes it.
        listed: a text file with a post a line: its id, or a path that ends in it, as `test_img_filepath.txt` has.

    Raises:
        DataError: what is missing, too much, twice or no number, or a file that cannot be read.
    """
    lines = (line.strip().replace("\\", "/").rpartition("/")[2] for line in text_lines(Location.open(listed), ""))
    wanted = {_SUFFIX.sub("", line) for line in lines if line}
    try:
        with reading(submission), Location.open(submission).text("") as text:
            found = [(str(one["post_id"]), one["popularity_score"]) for one in json.load(text)["result"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{submission}: no submission file of the challenge: {one_line(error)}") from error
    counts = Counter(post for post, _ in found)
    wrong = {
        "listed posts have no score": wanted - counts.keys(),
        "scores are of posts that are not listed": counts.keys() - wanted,
        "posts have several scores": (post for post, count in counts.items() if count > 1),
        "scores are no finite numbers": (post for post, score in found if not _finite(score)),
    }
    said = [f"{_some(posts)} {what}" for what, ids in wrong.items() if (posts := sorted(ids))]
    if said:
        raise DataError(f"{submission}: of {len(wanted):,} posts in {listed}, {'; '.join(said)}")
    return len(wanted)


def _some(posts: list[str]) -> str:
    more = ", …" if len(posts) > _NAMED else ""
    return f"{len(posts):,} ({', '.join(posts[:_NAMED])}{more})"


def _finite(score: object) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
