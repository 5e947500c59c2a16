"""Who may rate, and every rating: one SQLite file, in the study's folder.

Each call is a transaction of its own on a connection of its own, in write-ahead logging and synced to disk: when the
page says that a rating is saved, neither a kill nor a power cut takes it back, and two raters only wait for each other
for the milliseconds that a write takes. The file is readable by its owner alone: it holds the links.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from llama_exp.errors import UserError
from llama_exp.records import Rating

SCHEMA = """
CREATE TABLE IF NOT EXISTS raters (
    rater INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, name TEXT NOT NULL DEFAULT '', consented TEXT
);
CREATE TABLE IF NOT EXISTS ratings (
    rater INTEGER NOT NULL REFERENCES raters, place INTEGER NOT NULL,
    verdict TEXT NOT NULL DEFAULT '', scores TEXT NOT NULL DEFAULT '{}', comment TEXT NOT NULL DEFAULT '',
    seconds REAL NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, changes INTEGER NOT NULL DEFAULT 0, given TEXT,
    PRIMARY KEY (rater, place)
) WITHOUT ROWID;
"""
WAIT = 15.0  # seconds to wait for another rater's write


@dataclass(frozen=True, slots=True)
class Rater:
    number: int
    token: str
    name: str
    consented: str  # when, or ""


@dataclass(frozen=True, slots=True)
class Given:
    """A rating at a place of a rater's queue. `done` is False while only a comment or some scales are there."""

    rating: Rating
    place: int
    done: bool
    changes: int  # how often a rating that was complete was given anew
    given: str


class Store:
    """`ratings.sqlite` of a study's folder."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "ratings.sqlite"

    def invite(self, raters: int) -> None:
        """Make the file and a link for each rater who has none; links that are there stay as they are."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._open() as db:
            db.executescript(SCHEMA)
            for number in range(1, raters + 1):
                token = secrets.token_urlsafe(16)
                db.execute("INSERT OR IGNORE INTO raters (rater, token) VALUES (?, ?)", (number, token))

    def raters(self) -> list[Rater]:
        with self._open() as db:
            rows = db.execute("SELECT rater, token, name, consented FROM raters ORDER BY rater").fetchall()
        return [Rater(number, token, name, when or "") for number, token, name, when in rows]

    def rater(self, token: str) -> Rater | None:
        """The owner of a link."""
        with self._open() as db:
            found = db.execute("SELECT rater, token, name, consented FROM raters WHERE token = ?", (token,)).fetchone()
        return Rater(*found[:3], found[3] or "") if found else None

    def consent(self, rater: int, name: str) -> None:
        with self._open() as db:
            db.execute("UPDATE raters SET name = ?, consented = ? WHERE rater = ?", (name, now(), rater))

    def save(self, rater: int, place: int, rating: Rating, done: bool) -> None:
        """Write a rating. One that is complete stays so when only its comment comes again (`done=False`)."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")  # the write lock first: no other writer comes between reading and writing
            old = db.execute(
                "SELECT verdict, scores, seconds, done, changes FROM ratings WHERE rater = ? AND place = ?",
                (rater, place),
            ).fetchone()
            verdict, scores, seconds, was_done, changes = old or ("", "{}", 0.0, 0, 0)
            new = (rating.verdict or verdict, json.dumps({**json.loads(scores), **rating.scores}, sort_keys=True))
            changes += bool(was_done and new != (verdict, scores))
            row = (*new, rating.comment, round(seconds + rating.seconds, 1), int(done or was_done), changes, now())
            db.execute("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (rater, place, *row))

    def ratings(self, rater: int) -> dict[int, Given]:
        """{place in the queue: what was given there}."""
        with self._open() as db:
            rows = db.execute(
                "SELECT place, verdict, scores, comment, seconds, done, changes, given FROM ratings "
                "WHERE rater = ? ORDER BY place",
                (rater,),
            ).fetchall()
        return {
            place: Given(
                Rating(str(rater), str(place), verdict, json.loads(scores), comment, seconds),
                place,
                bool(done),
                changes,
                given,
            )
            for place, verdict, scores, comment, seconds, done, changes, given in rows
        }

    def hold(self) -> sqlite3.Connection:
        """A connection to keep while serving: SQLite would fold the log away whenever the last one is closed."""
        db = sqlite3.connect(self.path, timeout=WAIT, check_same_thread=False)
        db.execute("SELECT count(*) FROM raters").fetchone()
        return db

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits at the end of the block and is closed after it."""
        if not self.path.is_file():
            raise UserError(f"No ratings file at {self.path}. The command that made the study makes it again.")
        db = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # in WAL mode NORMAL may lose the last commits in a power cut
            yield db
            if db.in_transaction:
                db.commit()
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: {error}.") from error
        finally:
            db.close()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
