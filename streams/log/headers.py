"""Names of the headers that records in the log carry; which topic carries which is in each section."""

# ---- events ----

PROVIDER_HEADER = "tidings-provider"
"""Of a webhook as it came: whose it is. A record without it is an event in our own form."""
DELIVERY_HEADER = "tidings-delivery"
"""The provider's id of the delivery."""
RECEIVED_HEADER = "tidings-received"
"""When the gateway received it, in ms since the epoch."""
ARCHIVE_HEADER = "tidings-archive"
"""The archive mode in force when it was appended."""
USAGE_HEADER = "tidings-usage"
"""Beside the provider: by which rules the body says what was used, and asks. Bodies that were appended before
there were such rules have no header and say nothing of it, so a replay of them gives the same bytes."""
TRACE_HEADER = "traceparent"
"""W3C Trace Context; it goes on in the change."""
UNREADABLE_HEADER = "tidings-unreadable"
"""Carried by the stand-in of a record that the log's client cannot decode; it says why."""

# ---- dead letters, beside the headers that the record came with ----

ERROR, MESSAGE = "tidings-error", "tidings-error-message"
TOPIC, PARTITION, OFFSET = "tidings-topic", "tidings-partition", "tidings-offset"
TIMESTAMP, ATTEMPT = "tidings-timestamp", "tidings-attempt"
PREDICTION = "tidings-prediction"
"""The prediction that the record is about, if its key does not say and its body does."""
MARK = "tidings-mark"
"""Only on a mark, which says what was done with a letter: `redriven` or `dismissed`."""
APPENDED = "tidings-appended"
"""Only on such a mark: `partition:offset` of the event that was appended again."""
TRUNCATED = "tidings-truncated"
"""Only on a letter that the topic would not take whole: how many bytes its value had."""
