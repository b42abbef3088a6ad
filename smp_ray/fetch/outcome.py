"""What comes of asking for a picture. Reasons are stored and exported: they hold no query string and no credentials."""

from dataclasses import dataclass

from smp_ray.schema import BAD_IMAGE, NO_IMAGE, OK


@dataclass(frozen=True)
class Fetched:
    """Encoded bytes of an image, or the status (no_image, bad_image, unreachable) and the reason why there are none."""

    data: bytes | None
    status: str = OK
    reason: str = ""


#: A post that names no picture; nobody was asked.
NO_ADDRESS = Fetched(None, NO_IMAGE, "the post has no image")


class Refused(Exception):  # noqa: N818 - an answer, not a failure of the run
    """It is not to be had, and asking again would not change that."""

    def __init__(self, reason: str, status: str = NO_IMAGE) -> None:
        super().__init__(reason)
        self.fetched = Fetched(None, status, reason)


class Unavailable(Exception):  # noqa: N818
    """It is not to be had now; `retry_after` is what the server asked to wait, in seconds."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


def too_large(max_bytes: int) -> Refused:
    """What is raised for more bytes than the config allows."""
    return Refused(f"larger than features.images.max_bytes = {max_bytes}", BAD_IMAGE)
