"""Who may be asked: addresses that are really connected to, redirects, names, hosts and schemes."""

from __future__ import annotations

import socket

import pytest

from smp_ray.config import ImagesConfig
from smp_ray.fetch import Fetched, Fetcher
from smp_ray.fetch.addresses import is_public
from tests.fetch.hostile import serving

PUBLIC = ImagesConfig(timeout_s=2)


def fetch(settings: ImagesConfig, uri: str) -> Fetched:
    return Fetcher(settings).fetch_all([uri])[0]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_what_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0", "127.1"]
)
def test_the_machine_itself_is_not_asked(host: str) -> None:
    with serving() as server:
        port = server.url.rpartition(":")[2]
        found = fetch(PUBLIC, f"http://{host}:{port}/ok.jpg")
        assert (found.status, found.data) == ("no_image", None), found.reason
        assert not server.asked


def test_the_reason_names_the_key() -> None:
    assert "allow_private" in fetch(PUBLIC, "http://169.254.169.254/latest/meta-data").reason


def test_a_name_that_stands_for_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name server's answer is made up here, as a rebinding one would; the check and the connection are real."""
    real = socket.getaddrinfo

    def rebound(host: str | None, *args: object, **more: object) -> object:
        return real("127.0.0.1" if host == "pictures.example" else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    with serving() as server:
        url = server.url.replace("127.0.0.1", "pictures.example") + "/ok.jpg"
        assert fetch(PUBLIC.model_copy(update={"allow_private": True}), url).status == "ok"
        assert fetch(PUBLIC, url).status == "no_image"
        assert server.asked["/ok.jpg"] == 1


def test_a_redirect_is_checked_as_the_first_address_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public here, and only it, so that a server can be asked which redirects to others."""
    from smp_ray.fetch import addresses

    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or real(address))
    with serving() as server:
        assert fetch(PUBLIC, f"{server.url}/ok.jpg").status == "ok"
        found = fetch(PUBLIC, f"{server.url}/redirect-to-metadata")
        assert found.status == "no_image"
        assert "169.254.169.254: private" in found.reason


def test_hosts_and_their_subdomains() -> None:
    settings = PUBLIC.model_copy(update={"allow_private": True, "hosts": ("localhost", "flickr.com")})
    with serving() as server:
        assert "hosts" in fetch(settings, f"{server.url}/ok.jpg").reason
        local = server.url.replace("127.0.0.1", "localhost")
        assert fetch(settings, f"{local}/ok.jpg").status == "ok"
        found = fetch(settings, f"{local}/redirect-to-metadata")
        assert (found.status, "169.254.169.254 is not one of" in found.reason) == ("no_image", True)
        assert "hosts" in fetch(settings, "http://notflickr.com/x.jpg").reason


def test_schemes() -> None:
    found = fetch(PUBLIC.model_copy(update={"schemes": ("https",)}), "http://8.8.8.8/x.jpg")
    assert (found.status, "schemes" in found.reason) == ("no_image", True)
