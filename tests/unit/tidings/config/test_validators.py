"""What single settings may look like, and that no password is shown however it is written."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidings.config.validators import assets_url, log_url, masked_url, store_url

# Only a password has capitals here, so that any part of it is seen wherever it comes out.
passwords = st.text("QZ/?#@:&=%[]+ .,;\\é℀", min_size=1, max_size=12)


def refusal(check: Callable[[str], str], url: str) -> str:
    """Why the URL is refused; empty where it is not."""
    try:
        check(url)
    except ValueError as error:
        return str(error)
    return ""


@given(
    passwords,
    st.sampled_from(["tidings", ""]),
    st.sampled_from(["db:5432/x", "[::1]/x?sslmode=require", "db"]),
)
@example("s3cr/Qt", "tidings", "db:5432/x")
@example("12/Q?token=Z", "tidings", "db:5432/x")
@example("Q℀Z", "tidings", "db:5432/x")
def test_a_password_before_the_host_is_never_shown(password: str, user: str, place: str) -> None:
    """Escaped or not, whatever it holds, nothing of it is in what is shown, nor in why the URL is refused."""
    for scheme, check in (
        ("postgresql", store_url),
        ("redis", store_url),
        ("kafka", log_url),
        ("odd", store_url),
    ):
        url = f"{scheme}://{user}:{password}@{place}"
        shown = masked_url(url)
        assert shown.startswith(f"{scheme}://{user}:********")
        assert not set("QZ") & set(shown)
        assert not set("QZ") & set(refusal(check, url))


@given(passwords.filter(lambda password: "&" not in password))
@example("Q@Z")
@example("Q?x=Z")
def test_a_secret_parameter_is_never_shown(password: str) -> None:
    """The value of a parameter that sounds like a secret is struck out up to the next one."""
    shown = masked_url(
        f"kafka://h:9092?sasl_plain_username=me&sasl_plain_password={password}&security_protocol=ssl"
    )
    assert not set("QZ") & set(shown)
    assert shown.endswith("&security_protocol=ssl")


@pytest.mark.parametrize("password", ["54/et", "12?pw", "a#b", "p@ss/word"])
@pytest.mark.parametrize("scheme", ["postgresql", "valkey"])
def test_a_password_that_is_not_escaped_is_refused(scheme: str, password: str) -> None:
    """Read as a URL it would end at its first / ? or #, and the rest be shown as a path: the line says how to write it."""
    with pytest.raises(ValueError, match=r"as %2F %3F %23 %40") as refused:
        store_url(f"{scheme}://tidings:{password}@db:5432/0")
    assert password not in str(refused.value)
    escaped = (
        f"{scheme}://tidings:{password.translate({47: '%2F', 63: '%3F', 35: '%23'})}@db:5432/0"
    )
    assert store_url(escaped) == escaped


def test_the_rest_stands() -> None:
    """What comes before and after a password that was not escaped is shown as it is."""
    assert (
        masked_url("postgresql://tidings:s3cr/et@db:5432/x?a=b")
        == "postgresql://tidings:********@db:5432/x?a=b"
    )
    assert masked_url("postgresql://tidings@db/x") == "postgresql://tidings@db/x"


def test_what_is_no_url_is_masked_too() -> None:
    """A URL with a slash too few, and one of an object storage that names no bucket, show no secret either."""
    assert masked_url("postgresql:/tidings:hidden@db/x") == "postgresql:********@db/x"
    with pytest.raises(ValueError, match="names no bucket") as refused:
        assets_url("s3://?secret_access_key=hidden")
    assert "hidden" not in str(refused.value)
