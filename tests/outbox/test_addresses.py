"""Where webhooks may go: every spelling of an address, every rule of a URL."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from outbox import InvalidInput
from outbox.addresses import ANYWHERE, PUBLIC, Allowed, check_url, parse_allow

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/ssrf.json").read_text())
ACCEPTED = {
    "https://bücher.example/h": "https://xn--bcher-kva.example/h",
    "https://example.com/%0d%0aX": "https://example.com/%0d%0aX",
}


@pytest.mark.parametrize("address", VECTORS["addresses_deny"])
def test_addresses_that_are_not_public(address: str) -> None:
    """What is inside a network, or leads into one, is refused."""
    assert not PUBLIC.address(address)


@pytest.mark.parametrize("address", VECTORS["addresses_allow"])
def test_public_addresses(address: str) -> None:
    """What the whole internet can reach is allowed, next to the borders of the table too."""
    assert PUBLIC.address(address)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "::1%1", "2606:4700::1%1", "", "127.1", "a"])
def test_addresses_in_no_canonical_form(address: str) -> None:
    """An address with a zone, or in another spelling, is none; no allow list makes it one."""
    assert not ANYWHERE.address(address)


@pytest.mark.parametrize("url", [url for url in VECTORS["urls"] if url not in ACCEPTED])
def test_urls_that_are_refused(url: str) -> None:
    """Every trick is refused when it is stored, with the rule that it breaks."""
    with pytest.raises(InvalidInput) as caught:
        check_url(url)

    assert caught.value.field == "url"


@pytest.mark.parametrize("url", ACCEPTED)
def test_urls_that_are_stored(url: str) -> None:
    """A host beyond ASCII is stored as DNS knows it; what is escaped stays escaped."""
    assert check_url(url) == ACCEPTED[url]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.0.1", "0", "0.0.0", "2130706433", "017700000001", "0x7f000001",
        "0x7f.0.0.1", "0X7F.1", "127.0.0.1.", "127.0.0.1..",
        "127\u30020\u30020\u30021", "\uff11\uff12\uff17.1",
        "\u2460\u2461\u2466.1",
        "127.0.0.0x1", "127.0.0.08", "256.256.256.256", "1.2.3", "[::1]", "[::]", "[::ffff:7f00:1]",
        "[::127.0.0.1]", "[0:0:0:0:0:ffff:10.0.0.1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[]",
        "[127.0.0.1]", "[v1.a]", "[::1", "::1", "localhost", "LOCALHOST", "localhost.",
        "\uff4cocalhost",
        "a.localhost", "db", "db.local", "metadata.google.internal", "router.home.arpa",
    ],
)  # fmt: skip
def test_every_spelling(host: str) -> None:
    """However an address inside is spelt, and whatever name only a network inside has."""
    with pytest.raises(InvalidInput):
        check_url(f"http://{host}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:0/", "http://example.com:99999/", "http://example.com:/",
        "http://example.com:+80/", "http://example.com:8 0/", "http://example.com:\uff180/",
        "http://a@example.com/", "http://@example.com/", "http://:@example.com/",
        "http://example.com\\@127.0.0.1/", "http:\\\\example.com/", "http:/example.com/",
        "http:example.com", "ftp://example.com/", "javascript:alert(1)", "http+unix://x/",
        " http://example.com/", "http://example.com/ ", "http://exa\tmple.com/",
        "http://example.com/\x00", "http://1.1.1.1\x00.evil/", "http://example.com/ü",
        "http://example.com/#", "http://exa%6dple.com/", "http://a..b/", "http://-a.com/",
        "http://a-.com/", "http://" + "a" * 64 + ".com/", "http://" + "a." * 130 + "com/",
        "http://xn--/", "http://a.xn--a.com/", "http://a\u200bb.com/", "http://a\u00adb.com/",
        "http://a!b.com/", "http://[::1]x/", "http://x[::1]/", "http://example.com/" + "a" * 2048,
    ],
    ids=ascii,
)  # fmt: skip
def test_wrong_urls(url: str) -> None:
    """What two programs could read in two ways is no URL of ours, wherever it leads."""
    with pytest.raises(InvalidInput):
        check_url(url, allow=ANYWHERE)


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.COM:0443/Path?Q=%2F&r=[1]", "https://example.com:443/Path?Q=%2F&r=[1]"),
        ("http://example.com?a=1", "http://example.com/?a=1"),
        ("http://example.com.:8080/", "http://example.com.:8080/"),
        ("http://1.1.1.1/", "http://1.1.1.1/"),
        ("http://[2606:4700:4700::1111]:8443/", "http://[2606:4700:4700::1111]:8443/"),
        ("http://a_b.example/", "http://a_b.example/"),
        ("https://faß.de/", "https://xn--fa-hia.de/"),
    ],
)
def test_good_urls(url: str, stored: str) -> None:
    """A URL is kept as it is, but for the case and the alphabet of its host."""
    assert check_url(url) == stored


def test_a_refusal_tells_the_remedy() -> None:
    """Who is refused learns what is wrong and what the operator would have to allow."""
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.7 is not .* OUTBOX_ALLOW=10\.0\.0\.7"):
        check_url("http://10.0.0.7/hook?token=1")
    with pytest.raises(InvalidInput, match="OUTBOX_ALLOW=localhost"):
        check_url("http://localhost/hook")


# What an operator allows.


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("127.0.0.0/8", "http://127.0.0.1:8080/"),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]/"),
        ("127.0.0.0/8", "http://localhost/"),
        ("10.0.0.0/8", "http://receiver:8080/"),
        ("fd00::/8,::1", "http://[::1]/"),
        ("localhost", "http://LOCALHOST./"),
        ("*.internal.example,*.internal", "http://a.b.internal/"),
        (" 127.0.0.1 ,, ", "http://127.0.0.1/"),
    ],
)
def test_allowed_urls(allow: str, url: str) -> None:
    """A network allows its addresses, and names that may have them; a name allows itself."""
    assert check_url(url, allow=parse_allow(allow))


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("127.0.0.0/8", "http://10.0.0.1/"),
        ("127.0.0.0/8", "http://[::1]/"),
        ("localhost", "http://127.0.0.1/"),
        ("*.internal", "http://internal/"),
        ("a.internal", "http://b.internal/"),
        ("*.a.internal", "http://xa.internal/"),
    ],
)
def test_allowed_is_no_more_than_that(allow: str, url: str) -> None:
    """What is allowed says nothing of its neighbours."""
    with pytest.raises(InvalidInput):
        check_url(url, allow=parse_allow(allow))


def test_addresses_of_allowed_names() -> None:
    """An allowed name may have any address; an allowed network may be called by any name."""
    allow = parse_allow("10.0.0.0/8,*.internal.example")

    assert allow.address("192.168.0.1", "db.internal.example")
    assert allow.address("::1", "DB.Internal.Example.")
    assert allow.address("10.1.2.3", "example.com")
    assert not allow.address("192.168.0.1", "example.com")
    assert not allow.address("192.168.0.1", "internal.example")


def test_nothing_allowed() -> None:
    """An empty list allows what is public."""
    assert parse_allow("") == parse_allow(" , ") == PUBLIC == Allowed()


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8", "*", "*.", "a.*", "127.1", "10.0.0.0/33", "a b", "%"]
)
def test_wrong_lists(text: str) -> None:
    """An item that is nothing is named."""
    with pytest.raises(InvalidInput) as caught:
        parse_allow(f"127.0.0.1,{text}")

    assert (caught.value.field, text in str(caught.value)) == ("allow", True)


# Whatever the text.

PARTS = [
    "http", "https", "://", "//", "/", "?", "@", ":", "[", "]", "%", "\\", "#", ".", "..", "0x",
    "127.0.0.1", "::1", "localhost", "xn--", "xn--a", "-", "_", "example.com", "ü",
    "\u3002", "\uff11", "ß",
    "\u200b", "80", "99999", "~", "a" * 63, "\x00", " ", "\r\n", "'", '"', "{", "^", "|", "`", "é",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=8).map("".join)


@given(st.tuples(st.sampled_from(["http://", "https://", ""]), TEXT).map("".join))
@example("http://xn--a.com/")
@example("http://a.xn--a_b-.com/")
@example("http://xn--bcher-kva.a_b.example/")
def test_what_passes_can_be_sent_to(text: str) -> None:
    """Any text is stored or refused; what is stored reads alike everywhere, and never fails."""
    with suppress(InvalidInput):
        url = check_url(text, allow=ANYWHERE)
        ours, theirs, parts = httpx.URL(url), yarl.URL(url, encoded=True), urlsplit(url)
        for kind in (ours, theirs):
            for name in dir(kind):
                if not name.startswith("_") and name != "raw":
                    getattr(kind, name)

        assert check_url(url, allow=ANYWHERE) == url
        assert ours.raw_host.decode() == (theirs.raw_host or "").rstrip() == parts.hostname
        assert (ours.port or parts.port) == (theirs.explicit_port or ours.port) == parts.port
