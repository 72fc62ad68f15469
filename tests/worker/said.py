"""What receivers may say, to the byte, and what each of it comes to."""

from __future__ import annotations

from outbox.worker.outcome import Reply
from outbox.worker.send import BODY_KEPT
from outbox.worker.wire import MAX_HEAD, MAX_HEADERS, MAX_LINE

from .peers import OK

HEAD = b"HTTP/1.1 500 No\r\n"  # all headers of a failure are kept
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

TRUNCATED = Reply(500, (), b"", "truncated", None)
PROTOCOL = Reply(None, (), b"", "protocol", None)
RESET = Reply(None, (), b"", "reset", None)


def answered(body: bytes, *, status: int = 500) -> Reply:
    return Reply(status, (), body, None, None)


def headed(lines: bytes) -> bytes:
    return HEAD + b"content-length: 2\r\n" + lines + b"\r\nok"


def lined(line: bytes) -> bytes:
    return line + b"\r\ncontent-length: 2\r\n\r\nok"


ANSWERS: dict[str, tuple[bytes, Reply]] = {
    # Bodies, by RFC 9112, section 6.3.
    "length": (HEAD + b"content-length: 2\r\n\r\nok", answered(b"ok")),
    "length 0": (HEAD + b"content-length: 0\r\n\r\n", answered(b"")),
    "length with zeros": (HEAD + b"content-length: 0002\r\n\r\nok", answered(b"ok")),
    "chunks": (CHUNKED + b"2\r\nok\r\nA\r\n0123456789\r\n0\r\n\r\n", answered(b"ok0123456789")),
    "chunk extensions": (CHUNKED + b"2;a=b\r\nok\r\n0;c\r\n\r\n", answered(b"ok")),
    "a blank behind a chunk size": (CHUNKED + b"2 \r\nok\r\n0\r\n\r\n", answered(b"ok")),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nx-late: 1\r\n\r\n", answered(b"ok")),
    "until the end": (HEAD + b"\r\nhello", answered(b"hello")),
    "empty until the end": (HEAD + b"\r\n", answered(b"")),
    "gzip, not chunked": (HEAD + b"transfer-encoding: gzip\r\n\r\nhello", answered(b"hello")),
    "HTTP/1.0": (b"HTTP/1.0 500 No\r\n\r\nhello", answered(b"hello")),
    "204 with a length": (
        b"HTTP/1.1 204 N\r\ncontent-length: 9\r\n\r\n", answered(b"", status=204),
    ),
    "304 with a length": (
        b"HTTP/1.1 304 N\r\ncontent-length: 9\r\n\r\n", answered(b"", status=304),
    ),
    "101": (b"HTTP/1.1 101 S\r\n\r\nno HTTP", answered(b"", status=101)),
    "long": (HEAD + b"\r\n" + b"x" * 50_000, answered(b"x" * BODY_KEPT)),
    # Bodies that break off.
    "too short": (HEAD + b"content-length: 9\r\n\r\nok", TRUNCATED),
    "no last chunk": (CHUNKED + b"2\r\nok\r\n", TRUNCATED),
    "no body at all": (HEAD + b"content-length: 9\r\n\r\n", TRUNCATED),
    "no chunk size": (CHUNKED + b"zz\r\nok\r\n", TRUNCATED),
    "a negative chunk": (CHUNKED + b"-2\r\nok\r\n0\r\n\r\n", TRUNCATED),
    "a chunk with 0x": (CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", TRUNCATED),
    "a chunk that is too long": (CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", TRUNCATED),
    "a line feed alone behind a chunk size": (CHUNKED + b"2\nok\r\n0\r\n\r\n", TRUNCATED),
    "an endless chunk size": (CHUNKED + b"f" * 20 + b"\r\nok", TRUNCATED),
    # Interim answers.
    "100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, answered(b"ok", status=200)),
    "103 twice": (
        b"HTTP/1.1 103 E\r\nlink: </a>\r\n\r\n" * 2 + headed(b""), answered(b"ok"),
    ),
    "199": (b"HTTP/1.1 199 Odd\r\nwarning: a\r\n\r\n" + headed(b""), answered(b"ok")),
    "100, then nothing": (b"HTTP/1.1 100 Continue\r\n\r\n", RESET),
    "an interim answer with a body": (
        b"HTTP/1.1 150 Odd\r\ncontent-length: 5\r\n\r\nHTTP/" + OK, PROTOCOL,
    ),
    # Status lines.
    "no reason": (lined(b"HTTP/1.1 500"), answered(b"ok")),
    "an empty reason": (lined(b"HTTP/1.1 500 "), answered(b"ok")),
    "a long reason": (lined(b"HTTP/1.1 500 " + b"x" * 8_000), answered(b"ok")),
    "a reason that is too long": (lined(b"HTTP/1.1 500 " + b"x" * MAX_LINE + b"x"), PROTOCOL),
    "two digits": (lined(b"HTTP/1.1 50 No"), PROTOCOL),
    "four digits": (lined(b"HTTP/1.1 5000 No"), PROTOCOL),
    "HTTP/3": (lined(b"HTTP/3.0 500 No"), PROTOCOL),
    "HTTP/1": (lined(b"HTTP/1 500 No"), PROTOCOL),
    "http": (lined(b"http/1.1 500 No"), PROTOCOL),
    "empty lines before": (b"\r\n\r\n" + headed(b""), answered(b"ok")),
    "a blank before": (b" " + headed(b""), PROTOCOL),
    "no HTTP": (b"220 mail ready\r\n", PROTOCOL),
    "a request": (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", PROTOCOL),
    "nothing": (b"", RESET),
    "half a status": (b"HTTP/1.1 50", RESET),
    "half a head": (HEAD + b"content-le", RESET),
    # Headers.
    "a long header": (headed(b"a: " + b"x" * 8_000 + b"\r\n"), answered(b"ok")),
    "a header that is too long": (headed(b"a: " + b"x" * MAX_LINE + b"\r\n"), PROTOCOL),
    "a name that is too long": (headed(b"a" * (MAX_LINE + 1) + b": x\r\n"), PROTOCOL),
    "many headers": (headed(b"a: b\r\n" * (MAX_HEADERS - 1)), answered(b"ok")),
    "too many headers": (headed(b"a: b\r\n" * MAX_HEADERS), PROTOCOL),
    "a large head": (headed((b"a: " + b"x" * 8_000 + b"\r\n") * 8), answered(b"ok")),
    "a head that is too large": (headed((b"a: " + b"x" * 8_000 + b"\r\n") * 9), PROTOCOL),
    "too many interim answers": (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_HEAD // 28 + 1) + headed(b""), PROTOCOL,
    ),
    "a folded header": (headed(b"a: b\r\n c\r\n"), answered(b"ok")),
    "line feeds alone": (b"HTTP/1.1 500 No\ncontent-length: 2\n\nok", answered(b"ok")),
    "two lengths": (HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\nok", PROTOCOL),
    "two different lengths": (
        HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok", PROTOCOL,
    ),
    "a list of lengths": (HEAD + b"content-length: 2, 2\r\n\r\nok", PROTOCOL),
    "a negative length": (HEAD + b"content-length: -2\r\n\r\nok", PROTOCOL),
    "a length with a sign": (HEAD + b"content-length: +2\r\n\r\nok", PROTOCOL),
    "a length in hex": (HEAD + b"content-length: 0x2\r\n\r\nok", PROTOCOL),
    "no length in it": (HEAD + b"content-length: \r\n\r\nok", PROTOCOL),
    "an endless length": (HEAD + b"content-length: " + b"9" * 40 + b"\r\n\r\nok", PROTOCOL),
    "length and chunks": (
        HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        PROTOCOL,
    ),
    "chunks and length": (
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        PROTOCOL,
    ),
    "a NUL in a header": (headed(b"a: b\0c\r\n"), PROTOCOL),
    "a NUL in a name": (headed(b"a\0: b\r\n"), PROTOCOL),
    "a blank before the colon": (headed(b"a : b\r\n"), PROTOCOL),
    "a CR in a header": (headed(b"a: b\rc\r\n"), PROTOCOL),
    "no colon": (headed(b"a\r\n"), PROTOCOL),
    "no name": (headed(b": b\r\n"), PROTOCOL),
}  # fmt: skip
