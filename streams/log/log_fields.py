"""What a line of the service's own log says of the event that it is about: the prediction and the trace."""

from tidings.streams.log.headers import TRACE_HEADER
from tidings.streams.log.protocol import Record
from tidings.streams.support.tracing import trace_id


def fields(prediction_id: str | None, traceparent: bytes | str | None) -> dict[str, str]:
    """`prediction` and `trace`, as far as they are known."""
    found = {"prediction": prediction_id, "trace": trace_id(traceparent)}
    return {name: value for name, value in found.items() if value}


def fields_of(record: Record) -> dict[str, str]:
    """Those of the event in a record."""
    traceparent = next((value for name, value in record.headers if name == TRACE_HEADER), None)
    return fields(record.key.decode("utf-8", "replace") if record.key else None, traceparent)
