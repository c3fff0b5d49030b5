"""Whether a client reads what it is sent, told by the pongs to pings behind pieces."""

from tidings.gateway.websocket.read_probe import EVERY, PATIENCE, ReadProbe


def test_a_client_that_answers_is_asked_now_and_then() -> None:
    """A ping goes out behind the first piece, and behind another one once a while has passed."""
    probe = ReadProbe()
    assert probe.asks(100.0)
    probe.answered()
    assert not probe.asks(100.0 + EVERY / 2)
    assert probe.asks(100.0 + EVERY)
    probe.answered()
    assert probe.reads(100.0 + EVERY * 9)


def test_a_client_that_is_late_reads_nothing_until_it_answers() -> None:
    """An overdue pong says that it has stopped; no second ping follows, and the pong says that it goes on."""
    probe = ReadProbe()
    probe.asks(100.0)
    probe.answered()
    assert probe.asks(102.0)
    assert probe.reads(102.0 + PATIENCE / 2)
    assert not probe.asks(102.0 + EVERY)
    assert not probe.reads(102.0 + PATIENCE)
    assert not probe.reads(500.0)
    probe.answered()
    assert probe.reads(500.0)


def test_a_client_that_never_answers_is_believed() -> None:
    """One that answers no pings at all gets its pieces as they come."""
    probe = ReadProbe()
    assert probe.asks(100.0)
    assert probe.reads(200.0)
    assert probe.asks(200.0)
