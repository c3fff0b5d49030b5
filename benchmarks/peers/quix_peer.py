"""What Tidings is measured against in Python: Quix Streams, with the work of `KafkaStreamsPeer.java`.

Runs in an environment of its own that has `quixstreams`. Environment: KAFKA, FROM, TO, GROUP, STATE.
"""

import os
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]  # of another environment

ALLOWED: dict[str | None, frozenset[str]] = {
    None: frozenset({"starting"}),
    "starting": frozenset({"processing", "failed", "canceled"}),
    "processing": frozenset({"succeeded", "failed", "canceled"}),
}


def transition(event: dict[str, Any], state: Any) -> dict[str, Any] | None:
    """The record after the event; None: the event changes nothing."""
    before = state.get("record")
    status = before["status"] if before else None
    if event["status"] not in ALLOWED.get(status, frozenset()):
        return None
    record = before or {
        "id": event["predictionId"],
        "prompt": event["prompt"],
        "createdAt": event["at"],
    }
    record |= {"status": event["status"], "at": event["at"], "event": event["id"]}
    state.set("record", record)
    return dict(record)


def main() -> None:
    """Run until killed."""
    given = os.environ
    application = Application(
        broker_address=given["KAFKA"],
        consumer_group=given["GROUP"],
        state_dir=given["STATE"],
        auto_offset_reset="earliest",
        loglevel="WARNING",
    )
    events = application.topic(given["FROM"], key_deserializer="str", value_deserializer="json")
    changes = application.topic(given["TO"], key_serializer="str", value_serializer="json")
    frame = application.dataframe(events)
    frame = frame.apply(transition, stateful=True).filter(lambda record: record is not None)
    frame.to_topic(changes)
    application.run()


if __name__ == "__main__":
    main()
