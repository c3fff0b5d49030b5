"""Sums of usage out of a database's rows."""

from decimal import Decimal

import pytest

from tidings.storage.usage import MOST_GROUPS, MOST_ROWS, TooManyGroups, amount, of_rows


def test_rows_of_one_group_are_one_sum() -> None:
    """A group has a row for each currency; upper and lower halves of numbers are put together again."""
    rows = [
        ("ann", "USD", 1, 2**27, 5, 0, 0, 0, 1, 1_500_000, 7, 10**11),
        ("ann", None, 2, 0, 0, 0, 3, 0, 0, None, None, None),
    ]
    (found,) = of_rows(rows, 1).values()
    assert (found.predictions, found.input_tokens, found.output_tokens) == (3, 2**53 + 5, 3)
    assert (found.images, found.micros, found.costs) == (1, 1_500_000, {"USD": Decimal("7.1")})


@pytest.mark.parametrize(("groups", "currencies"), [(MOST_GROUPS + 1, 1), (MOST_ROWS // 2, 2)])
def test_sums_that_may_be_cut_off_are_refused(groups: int, currencies: int) -> None:
    """Neither too many sums are given, nor some of them without a part of their rows."""
    rows = [
        (group, f"{currency}", *[1] * 10)
        for group in range(groups)
        for currency in range(currencies)
    ]
    with pytest.raises(TooManyGroups):
        of_rows(rows, 1)


def test_amounts_are_written_out() -> None:
    """No exponent, and no zeros behind the point."""
    assert [amount(Decimal(one)) for one in ("0.1000", "100", "1E-12", "0")] == [
        "0.1", "100", "0.000000000001", "0",
    ]  # fmt: skip
