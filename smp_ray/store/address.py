"""Addresses (URIs) carry no credentials: what is configured is stored in manifests, printed and logged."""

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

_SECRET = ("key", "secret", "token", "password", "signature", "credential")
ADVICE = "credentials belong in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, …), not in an address"


def has_credentials(uri: str) -> bool:
    """Whether a URI has a user or password before its host, or a query option that holds a secret."""
    if "://" not in uri:
        return False
    try:
        parts = urlsplit(uri)
    except ValueError:  # what cannot be taken apart is judged by its look
        return "@" in uri
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(word in name for name in names for word in _SECRET)


def without_query(uri: str) -> str:
    """A URI for a message, without what stands before its host and in its query."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"


def endpoint(options: Mapping[str, str]) -> str | None:
    """The server that the query of an address names, `https://…` unless told otherwise; None: the cloud's own."""
    named = options.get("endpoint_override") or None
    return named if named is None or "://" in named else f"{options.get('scheme', 'https')}://{named}"


def masked(uri: str) -> str:
    """A URI of the data as it is stored: without the credentials in it, and so that fetching refuses it."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # fetching says that it is none
        before, at, host = uri.rpartition("@")
        return f"{before.partition('://')[0]}://***@{host}" if at else uri
    _, given, host = parts.netloc.rpartition("@")
    hidden = parts._replace(netloc=f"***@{host}") if given else parts
    if parts.scheme in ("s3", "gs") and parts.query:
        hidden = hidden._replace(query="***")
    return uri if hidden == parts else hidden.geturl()
