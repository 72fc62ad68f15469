"""The first bytes of a request: what the URL says, and nothing that a header smuggles in."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.worker.route import Place, route


@pytest.mark.parametrize(
    ("url", "place", "target", "host"),
    [
        ("http://a.example", (False, "a.example", 80), "/", "a.example"),
        ("https://a.example/", (True, "a.example", 443), "/", "a.example"),
        ("http://A.Example:80/B", (False, "a.example", 80), "/B", "a.example"),
        ("https://a.example:443/", (True, "a.example", 443), "/", "a.example"),
        ("http://a.example:443/", (False, "a.example", 443), "/", "a.example:443"),
        ("http://a.example:8080/x", (False, "a.example", 8080), "/x", "a.example:8080"),
        ("http://127.0.0.1:1/x", (False, "127.0.0.1", 1), "/x", "127.0.0.1:1"),
        ("http://[::1]:8080/", (False, "::1", 8080), "/", "[::1]:8080"),
        ("https://[2001:db8::1]/", (True, "2001:db8::1", 443), "/", "[2001:db8::1]"),
        ("http://bücher.example/", (False, "xn--bcher-kva.example", 80), "/",
         "xn--bcher-kva.example"),
        ("http://a.example./", (False, "a.example.", 80), "/", "a.example"),
        ("http://a/b%20c/%2F?x=%2F&y=1", (False, "a", 80), "/b%20c/%2F?x=%2F&y=1", "a"),
        ("http://a/b//../c?", (False, "a", 80), "/b/c?", "a"),
        ("http://a?x=1", (False, "a", 80), "/?x=1", "a"),
        ("http://a/x#part", (False, "a", 80), "/x", "a"),
        ("http://me:pw@a/x", (False, "a", 80), "/x", "a"),
    ],
)  # fmt: skip
def test_where_to(url: str, place: tuple[bool, str, int], target: str, host: str) -> None:
    """A URL says where the connection leads, what is asked for there, and by which name."""
    found = route("POST", url)

    assert found.place == Place(*place)
    assert found.beginning == f"POST {target} HTTP/1.1\r\nHost: {host}\r\n".encode()


@given(
    st.sampled_from(
        ["a.example", "A:80", "a:8080", "127.0.0.1:1", "[::1]", "me:pw@a", "bücher.example"]
    ),
    st.text(st.sampled_from("/ab.~%2F?#{}é'\\|:@ "), max_size=12).map(lambda rest: "/" + rest),
)
def test_as_httpx_has_it(host: str, path: str) -> None:
    """Whatever the path, what is asked for is what httpx would ask for, and there."""
    try:
        url = httpx.URL(f"http://{host}{path}")
    except httpx.InvalidURL:
        return
    found = route("POST", f"http://{host}{path}")

    assert found.place == Place(False, url.raw_host.decode(), url.port or 80)
    assert found.beginning.startswith(b"POST %b HTTP/1.1\r\nHost: " % url.raw_path)


def test_by_a_proxy() -> None:
    """A proxy is told the whole of an http URL; in a tunnel there is no proxy any more."""
    plain = route("POST", "http://[::1]:8080/x?y", proxied=True)
    tunnelled = route("POST", "https://a/x?y", proxied=True)

    assert plain.beginning.startswith(b"POST http://[::1]:8080/x?y HTTP/1.1\r\n")
    assert tunnelled.beginning.startswith(b"POST /x?y HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "url", ["ftp://a/", "/x", "http:///x", "http://a:99999/", "http://a:0/", "http://[::1"]
)
def test_nowhere(url: str) -> None:
    """What is no URL of http leads nowhere."""
    with pytest.raises((httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        route("POST", url)


@pytest.mark.parametrize("method", ["", "GET /", "GÉT", "GET\r\n"])
def test_no_method(method: str) -> None:
    """A method is one word: nothing else stands in the first line."""
    with pytest.raises(httpx.LocalProtocolError):
        route(method, "http://a/")


def test_the_head() -> None:
    """Headers go out as they are, in their order; what frames the request is ours."""
    given = [(b"X-A", b"1"), (b"Host", b"evil"), (b"content-length", b"9"), (b"x-a", b"\xff")]

    assert route("POST", "http://a/").head([*given, (b"Transfer-Encoding", b"x")], 2) == (
        b"POST / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nx-a: \xff\r\nContent-Length: 2\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "length", "said"), [("POST", 0, 1), ("GET", 0, 0), ("GET", 1, 1)]
)
def test_the_length(method: str, length: int, said: int) -> None:
    """Every body has its length, and a method that wants a body says that it has none."""
    assert route(method, "http://a/").head([], length).count(b"Content-Length") == said


@given(st.binary(max_size=9), st.sampled_from([b"\r", b"\n", b"\0", b"\r\n"]), st.booleans())
def test_nothing_is_smuggled(text: bytes, end: bytes, in_name: bool) -> None:
    """A name or a value that would end its line is not sent."""
    bad = text + end + b"x"
    header = (bad, b"1") if in_name else (b"x-a", bad)
    with pytest.raises(httpx.LocalProtocolError):
        route("POST", "http://a/").head([header], 2)
