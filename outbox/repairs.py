"""What a person does about deliveries: have them made again.

The event, and so its `webhook-id`, stays what it is. A delivery that has ended stays
ended; what is asked for again is a new delivery of the same event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Uuid, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Connection


def deliver_again(
    connection: Connection, pairs: Sequence[tuple[UUID, UUID]], replay_id: UUID | None = None
) -> int:
    """Make a delivery, due now, for each pair of an event and a subscription.

    Returns how many were made: none for a removed subscription.

        repairs.deliver_again(connection, [(event_id, subscription_id)])
    """
    event_ids = literal([event_id for event_id, _ in pairs], ARRAY(Uuid))
    subscription_ids = literal([subscription_id for _, subscription_id in pairs], ARRAY(Uuid))
    made = func.outbox.deliver_again(event_ids, subscription_ids, literal(replay_id, Uuid))
    return int(connection.execute(select(made)).scalar_one())
