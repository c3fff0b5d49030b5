"""What a store's records are found and summed by, beside their rows: tables that follow the writes.

A write notes the ids that it touched, one row for the whole transaction; taking the records apart is
left for later. `take` does that, some at a time: a reader that needs the tables calls it until nothing
is left, and the service calls it every few seconds. So the write pays for one row, and nobody reads
what is out of date.

Provider, error and usage are columns of `facts`. The words of prompts are in `words`, by groups of
three characters, so any part of a word is found in any language.
"""

import sqlite3

TABLES = """
CREATE TABLE unindexed (n INTEGER PRIMARY KEY, ids TEXT NOT NULL, number INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE facts (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, provider TEXT, code TEXT, error TEXT,
    apart INTEGER, used INTEGER, input_tokens INTEGER, output_tokens INTEGER, micros INTEGER, images INTEGER,
    units INTEGER, fraction INTEGER, currency TEXT
);
CREATE INDEX facts_provider ON facts (provider, created_at, id) WHERE provider IS NOT NULL;
CREATE INDEX facts_failed ON facts (created_at, id) WHERE error IS NOT NULL;
CREATE INDEX facts_used ON facts (created_at) WHERE used IS NOT NULL;
CREATE INDEX facts_apart ON facts (created_at, id) WHERE apart IS NOT NULL;
CREATE TRIGGER facts_deleted AFTER DELETE ON predictions BEGIN
    DELETE FROM facts WHERE id = old.id;
END;
INSERT INTO meta SELECT 'unindexed', coalesce(max(rowid), 0) FROM predictions;
"""
"""`meta` says up to which row there are records that were written before there was an index."""

WORDS = """
CREATE VIRTUAL TABLE words USING fts5(id, prompt, tokenize = 'trigram');
CREATE TRIGGER words_deleted AFTER DELETE ON facts BEGIN
    DELETE FROM words WHERE rowid = old.row;
END;
"""
"""Apart from the others: FTS5 is an optional part of SQLite, and its trigrams came with 3.34."""

NOTE = "INSERT INTO unindexed (ids, number, bytes) VALUES (?, ?, ?)"
FORGET = "DELETE FROM facts WHERE id IN (SELECT value FROM json_each(?))"
MOST_NOTES = 1024
"""Every so many notes some are taken apart, whoever else does that: they must not pile up in a program that only writes."""
AT_ONCE = 500
"""Records of one step, about: 20 ms."""
BYTES_AT_ONCE = 1_000_000
"""Bytes of records of one step, about: a prompt of 32 KiB takes 7 ms."""
FEWEST_CHARACTERS = 3
"""Shorter words are in no group of three."""
MOST_FOUND = 20_000
"""Words that more records have are looked for among the newest: sorting the finds would take longer."""
ERROR_CHARACTERS = 1000
"""Of an error those that are searched."""

_FRESH = """
CREATE TEMP TABLE IF NOT EXISTS fresh (
    id TEXT PRIMARY KEY, created_at INTEGER, provider TEXT, code TEXT, error TEXT, apart INTEGER, used INTEGER,
    input_tokens INTEGER, output_tokens INTEGER, micros INTEGER, images INTEGER, units INTEGER, fraction INTEGER,
    currency TEXT, prompt TEXT
)
"""
_COLUMNS = (
    "created_at", "provider", "code", "error", "apart", "used", "input_tokens", "output_tokens", "micros", "images",
    "units", "fraction", "currency",
)  # fmt: skip


def _text(path: str) -> str:
    """The text at this place of a record; NULL if there is none, or something else."""
    return f"CASE json_type(d, '{path}') WHEN 'text' THEN json_extract(d, '{path}') END"


def _take_apart(source: str) -> str:
    """The statement that takes records apart; `source` gives id, created_at and doc."""
    cost = "json_extract(d, '$.usage.cost')"
    behind = f"substr({cost}, instr({cost} || '.', '.') + 1)"
    return f"""
        INSERT OR IGNORE INTO fresh
        WITH docs AS MATERIALIZED (
            SELECT id, created_at, CASE WHEN json_valid(text) THEN text ELSE '{{}}' END AS d
            FROM (SELECT id, created_at, CAST(doc AS TEXT) AS text FROM ({source}))
        )
        SELECT id, created_at, {_text("$.provider")}, {_text("$.errorCode")},
            CASE WHEN json_type(d, '$.error') = 'text' THEN substr(json_extract(d, '$.error'), 1, {ERROR_CHARACTERS})
                WHEN json_type(d, '$.error') IS NOT NULL OR json_type(d, '$.errorCode') IS NOT NULL THEN '' END,
            CASE json_type(d, '$.prompt') WHEN 'object' THEN 1 END,
            CASE json_type(d, '$.usage') WHEN 'object' THEN 1 END,
            json_extract(d, '$.usage.inputTokens'), json_extract(d, '$.usage.outputTokens'),
            CAST(round(json_extract(d, '$.usage.seconds') * 1e6) AS INTEGER), json_extract(d, '$.usage.images'),
            CAST(substr({cost}, 1, instr({cost} || '.', '.') - 1) AS INTEGER),
            CASE WHEN {cost} IS NOT NULL THEN CAST(substr({behind} || '000000000000', 1, 12) AS INTEGER) END,
            json_extract(d, '$.usage.currency'),
            nullif(coalesce({_text("$.prompt")}, '') || CASE WHEN {_text("$.payload.prompt")} IS NULL
                OR {_text("$.payload.prompt")} IS {_text("$.prompt")} THEN ''
                ELSE char(10) || json_extract(d, '$.payload.prompt') END, '')
        FROM docs
    """


_WRITTEN = _take_apart(
    "SELECT p.id, p.created_at, p.doc FROM (SELECT DISTINCT j.value AS id FROM unindexed AS u, json_each(u.ids) AS j"
    " WHERE u.n <= ?) AS w CROSS JOIN predictions AS p ON p.id = w.id"
)
_OLDER = _take_apart("SELECT id, created_at, doc FROM predictions WHERE rowid > ? AND rowid <= ?")
_GONE = "DELETE FROM facts WHERE id IN (SELECT id FROM fresh WHERE created_at IS NULL)"
_CHANGED = (
    f"UPDATE facts SET ({', '.join(_COLUMNS)}) ="
    f" (SELECT {', '.join(f'n.{name}' for name in _COLUMNS)} FROM fresh AS n WHERE n.id = facts.id)"
    " WHERE row IN (SELECT f.row FROM fresh AS n CROSS JOIN facts AS f ON f.id = n.id"
    f" WHERE {' OR '.join(f'f.{name} IS NOT n.{name}' for name in _COLUMNS)})"
)
"""Joins go from what is fresh: left to itself, the planner walks all there is."""
_NEW = (
    f"INSERT INTO facts (id, {', '.join(_COLUMNS)}) SELECT n.id, {', '.join(f'n.{name}' for name in _COLUMNS)}"
    " FROM fresh AS n LEFT JOIN facts AS f ON f.id = n.id WHERE f.id IS NULL AND n.created_at IS NOT NULL"
)
_OTHER_WORDS = (
    "DELETE FROM words WHERE rowid IN (SELECT f.row FROM fresh AS n CROSS JOIN facts AS f ON f.id = n.id"
    " CROSS JOIN words AS w ON w.rowid = f.row WHERE w.prompt IS NOT n.prompt)"
)
_NEW_WORDS = (
    "INSERT INTO words (rowid, id, prompt) SELECT f.row, n.id, n.prompt FROM fresh AS n"
    " CROSS JOIN facts AS f ON f.id = n.id LEFT JOIN words AS w ON w.rowid = f.row WHERE w.rowid IS NULL"
)
LEFT = (
    "SELECT (SELECT coalesce(sum(number), 0) FROM unindexed)"
    " + coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'unindexed'), 0)"
)
PLACE = "SELECT (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'unindexed'), min(n), max(n) FROM unindexed"
"""How many rows are older than the index, and the first and the last write that it lacks."""
HAS_WORDS = "SELECT count(*) FROM sqlite_schema WHERE name = 'words'"


def take(connection: sqlite3.Connection, most: int = AT_ONCE) -> int:
    """Bring the tables up to date by about so many records, within the current transaction; how many are left.

    What was written last comes before what is older than the index.
    """
    connection.execute(_FRESH)
    last = number = size = 0
    queue = "SELECT n, number, bytes FROM unindexed ORDER BY n LIMIT 1000"
    for n, ids, length in connection.execute(queue):
        if number and (number + ids > most or size + length > BYTES_AT_ONCE):
            break
        last, number, size = n, number + ids, size + length
    if number:
        connection.execute(_WRITTEN, (last,))
        connection.execute("DELETE FROM unindexed WHERE n <= ?", (last,))
    else:
        (upto,) = connection.execute(
            "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'unindexed'"
        ).fetchone()
        if not upto:
            return 0
        begin = upto - most
        lengths = "SELECT rowid, length(doc) FROM predictions WHERE rowid > ? AND rowid <= ? ORDER BY rowid DESC"
        for row, length in connection.execute(lengths, (begin, upto)):
            if size and size + length > BYTES_AT_ONCE:
                begin = row
                break
            size += length
        connection.execute(_OLDER, (begin, upto))
        connection.execute(
            "UPDATE meta SET value = ? WHERE key = 'unindexed'", (str(max(0, begin)),)
        )
    _file(connection)
    return int(connection.execute(LEFT).fetchone()[0])


def _file(connection: sqlite3.Connection) -> None:
    """Put what was taken apart into its tables; what stands there already is left alone."""
    for statement in (_GONE, _CHANGED, _NEW):
        connection.execute(statement)
    if connection.execute(HAS_WORDS).fetchone()[0]:
        connection.execute(_OTHER_WORDS)
        connection.execute(_NEW_WORDS)
    connection.execute("DELETE FROM fresh")


def phrase(words: str) -> str | None:
    """The search for these words, one after the other; None: they are too short to be looked up."""
    return '"' + words.replace('"', '""') + '"' if len(words) >= FEWEST_CHARACTERS else None
