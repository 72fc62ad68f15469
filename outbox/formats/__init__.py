"""What bodies look like: how an event becomes the bytes that are sent and signed.

A format is a pure function in a file of its own, and one line here. A body is made of
what was stored and of nothing else, so that it is the same at every attempt.
"""

from .casdoor import casdoor
from .cloudevents import cloudevents
from .cloudevents_binary import attributes
from .format import Format, Headers, SentEvent
from .logto import logto
from .raw import raw
from .standard import standard

__all__ = ["FORMATS", "Format", "Headers", "SentEvent"]

_JSON = ((b"content-type", b"application/json"),)
_CLOUDEVENT = ((b"content-type", b"application/cloudevents+json; charset=UTF-8"),)

FORMATS = {
    "standard": Format(_JSON, standard),
    "cloudevents": Format(_CLOUDEVENT, cloudevents),
    "cloudevents-binary": Format(_JSON, raw, attributes),
    "raw": Format(_JSON, raw),
    "casdoor": Format(_JSON, casdoor, user_agent="Go-http-client/1.1"),
    "logto": Format(_JSON, logto, user_agent="Logto (https://logto.io/)", scheme="logto"),
}
