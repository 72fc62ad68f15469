"""`casdoor`: the body that Casdoor sends, for consumers that already read it.

A record of 16 members in a fixed order, then `extendedUser`, as Go marshals it
(Casdoor 3.158, object/record.go and object/webhook_util.go). The event's data is an
object with members of these names; those that are missing are filled:

    name            the event's id                organization    its tenant
    createdTime     when it happened              owner           the organization
    action          its type                      requestUri      /api/ and the action
    method POST     language en     statusCode 200     the other texts empty

`id` is 0 and `isTriggered` false in every webhook of Casdoor. `object` and `response`
are texts: what is no text there, or in another text, becomes the JSON it is. Members of
other names follow at the end. Data that is no object becomes `object`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .format import moment
from .rewritten import Number, quoted_by_go, read, write

if TYPE_CHECKING:
    from .format import SentEvent


def casdoor(event: SentEvent, _subscription_id: str) -> bytes:
    """Return the record that `event` is."""
    try:
        data = read(event.data)
        given = data if isinstance(data, dict) else {"object": data}
        return write(_record(event, given), quoted_by_go).encode()
    except RecursionError:
        return write(_record(event, {"object": event.data}), quoted_by_go).encode()


def _record(event: SentEvent, given: dict[str, Any]) -> dict[str, Any]:
    record = _defaults(event, given)
    for name in record.keys() & given.keys():
        record[name] = _filled(record[name], given[name])
    return record | {name: value for name, value in given.items() if name not in record}


def _filled(default: Any, value: Any) -> Any:
    """Return `value` as a member of the type that `default` has; a null is as if missing."""
    match default:
        case None:
            return value
        case Number() | bool():
            return value if type(value) is type(default) else default
        case _:
            return default if value is None else _text(value)


def _text(value: Any) -> str:
    return value if type(value) is str else str(write(value, quoted_by_go))


def _defaults(event: SentEvent, given: dict[str, Any]) -> dict[str, Any]:
    organization = _filled(event.tenant or "", given.get("organization"))
    action = _filled(event.type, given.get("action"))
    return {
        "id": Number(0),
        "owner": organization,
        "name": event.event_id,
        "createdTime": moment(event.occurred_at, "seconds"),
        "organization": organization,
        "clientIp": "",
        "user": "",
        "method": "POST",
        "requestUri": f"/api/{action}",
        "action": action,
        "language": "en",
        "object": "",
        "response": "",
        "statusCode": Number(200),
        "detail": "",
        "isTriggered": False,
        "extendedUser": None,
    }
