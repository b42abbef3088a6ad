"""Pictures in plain files."""

import errno
import os
import stat
from urllib.parse import unquote, urlsplit

from smp_ray.fetch.outcome import Refused, Unavailable, too_large


def read_file(uri: str, max_bytes: int) -> bytes:
    """The bytes of a path or a `file://` URI.

    Raises:
        Refused, Unavailable: there is no such file, or its disk or server does not give it now.
    """
    try:
        path = os.path.expanduser(uri)
        if "://" in uri:
            parts = urlsplit(uri)
            if parts.netloc not in ("", "localhost"):
                raise Refused("a file:// address with a host")
            path = unquote(parts.path)
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("not a file")
        if found.st_size > max_bytes:
            raise too_large(max_bytes)
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise Refused("no such file") from None
    except PermissionError:
        raise Refused("a file that may not be read") from None
    except ValueError:  # a NUL in it, or half a character
        raise Refused("bad path") from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise Refused("bad path") from None
        raise Unavailable(f"the file cannot be read ({error.strerror})") from None
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return data
