"""Taking the tables of a SQLite file from an older format to this version's, within one transaction."""

import sqlite3
from collections.abc import Mapping

Steps = Mapping[int, str]
"""Per format the statements that make the next one of it."""


def reachable(found: int, wanted: int, steps: Steps) -> bool:
    """Whether steps lead from the format that was found (`PRAGMA user_version`) to the one that is wanted."""
    return found <= wanted and all(one in steps for one in range(found, wanted))


def upgrade(connection: sqlite3.Connection, wanted: int, steps: Steps) -> int:
    """Take the file to the wanted format within the current transaction, if steps lead there; the format it has then.

    Whoever rolls the transaction back has the old format with all that was in it.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found < wanted and reachable(found, wanted, steps):
        for one in range(found, wanted):
            for statement in statements(steps[one]):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {wanted}")
        return wanted
    return int(found)


def statements(script: str) -> list[str]:
    """The statements of a script; each ends at the end of a line."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
