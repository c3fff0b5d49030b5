"""Whether a client reads what it is sent, told by the pongs to pings behind pieces."""

from tidings.gateway.websocket.read_probe import EVERY, PATIENCE, ReadProbe


def test_a_client_is_asked_now_and_then() -> None:
    """A ping goes out behind the first piece, and then behind every 25th."""
    probe = ReadProbe()
    assert probe.left == 1
    assert probe.asks(100.0)
    probe.answered()
    assert probe.left == EVERY
    assert probe.asks(100.1)


def test_a_client_that_is_late_is_not_asked_again() -> None:
    """A pong that is awaited may be overdue; no second ping follows, and the pong says that it goes on."""
    probe = ReadProbe()
    probe.asks(100.0)
    probe.answered()
    assert probe.asks(102.0)
    assert probe.overdue_at == 102.0 + PATIENCE
    assert not probe.asks(110.0)
    assert probe.overdue_at == 102.0 + PATIENCE
    probe.answered()
    assert probe.overdue_at is None


def test_a_client_that_never_answers_is_believed() -> None:
    """One that answers no pings at all gets its pieces as they come."""
    probe = ReadProbe()
    assert probe.asks(100.0)
    assert probe.overdue_at is None
    assert probe.asks(200.0)
    assert probe.overdue_at is None
