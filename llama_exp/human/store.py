"""The raters, their links and every rating: one SQLite file in the study's folder.

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
from llama_exp.formatting import plural
from llama_exp.human.study import KEEP_RATINGS, Study, fingerprint
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
CREATE TABLE IF NOT EXISTS requests (
    rater INTEGER NOT NULL REFERENCES raters, place INTEGER NOT NULL, last TEXT NOT NULL, PRIMARY KEY (rater, place)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS study (fingerprint TEXT NOT NULL);
"""
SELECT_RATER = "SELECT rater, token, name, COALESCE(consented, '') FROM raters"
TIMEOUT = 15.0  # seconds to wait for another rater's write


@dataclass(frozen=True, slots=True)
class Rater:
    number: int
    token: str
    name: str
    consented: str  # when, or ""


@dataclass(frozen=True, slots=True)
class StoredRating:
    """`complete` is False while only a comment or some scales are there."""

    rating: Rating
    complete: bool
    changes: int  # how often a complete rating was replaced by another
    saved: str  # when


class RatingStore:
    """`ratings.sqlite` in a study's folder."""

    def __init__(self, folder: Path):
        self.path = Path(folder) / "ratings.sqlite"

    def invite(self, raters: int) -> None:
        """Create the file, and a link for each rater who has none; existing links stay as they are."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._open() as db:
            db.executescript(SCHEMA)
            for number in range(1, raters + 1):
                token = secrets.token_urlsafe(16)
                db.execute("INSERT OR IGNORE INTO raters (rater, token) VALUES (?, ?)", (number, token))

    def check_study(self, study: Study) -> None:
        """Raise UserError where the ratings were given in another study.

        A file of an earlier version takes this study's fingerprint: where nobody has rated yet, or where study.json is
        as old, so that it was not made anew, and has a page for every rating.
        """
        with self._open() as db:
            db.executescript(SCHEMA)
            db.execute("BEGIN IMMEDIATE")
            [ratings] = db.execute("SELECT count(*) FROM ratings").fetchone()
            stored, now = db.execute("SELECT fingerprint FROM study").fetchone(), fingerprint(study)
            if stored is None and (not ratings or (not study.fingerprint and self._fits(db, study))):
                db.execute("INSERT INTO study VALUES (?)", (now,))
                stored = (now,)
        if stored != (now,):
            raise UserError(
                f"{self.path} holds {plural(ratings, 'rating')} of another study than the study.json that you have or "
                f"ask for: texts, scales or the order of pages differ. Nothing was changed. {KEEP_RATINGS} "
                f"A new study needs a folder of its own: study=FOLDER."
            )

    @staticmethod
    def _fits(db: sqlite3.Connection, study: Study) -> bool:
        """Whether the study has a page of the right kind for every rating."""
        scales = {*study.settings.scales} if study.on_scales else set()
        return all(
            1 <= rater <= len(study.queues)
            and 1 <= page <= len(study.queues[rater - 1])
            and json.loads(scores).keys() <= scales
            and not (verdict and study.on_scales)
            for rater, page, verdict, scores in db.execute("SELECT rater, place, verdict, scores FROM ratings")
        )

    def raters(self) -> list[Rater]:
        with self._open() as db:
            rows = db.execute(f"{SELECT_RATER} ORDER BY rater").fetchall()
        return [Rater(*row) for row in rows]

    def rater(self, token: str) -> Rater | None:
        """The owner of a link."""
        with self._open() as db:
            row = db.execute(f"{SELECT_RATER} WHERE token = ?", (token,)).fetchone()
        return Rater(*row) if row else None

    def consent(self, rater: int, name: str) -> None:
        with self._open() as db:
            db.execute("UPDATE raters SET name = ?, consented = ? WHERE rater = ?", (name, _now(), rater))

    def save(self, rater: int, page: int, rating: Rating, complete: bool, request: str = "") -> None:
        """Write a rating. One that is complete stays so when only its comment comes again (`complete=False`).

        request    names the request: one that comes twice, because its answer was lost, is written once
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")  # the write lock first: no other writer comes between reading and writing
            if request and self._is_repeated(db, rater, page, request):
                return
            old = db.execute(
                "SELECT verdict, scores, seconds, done, changes FROM ratings WHERE rater = ? AND place = ?",
                (rater, page),
            ).fetchone()
            verdict, scores, seconds, was_complete, changes = old or ("", "{}", 0.0, 0, 0)
            new = (rating.verdict or verdict, json.dumps({**json.loads(scores), **rating.scores}, sort_keys=True))
            changes += bool(was_complete and new != (verdict, scores))
            seconds = round(seconds + rating.seconds, 1)
            row = (rater, page, *new, rating.comment, seconds, int(complete or was_complete), changes, _now())
            db.execute("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    @staticmethod
    def _is_repeated(db: sqlite3.Connection, rater: int, page: int, request: str) -> bool:
        last = db.execute("SELECT last FROM requests WHERE rater = ? AND place = ?", (rater, page)).fetchone()
        db.execute("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", (rater, page, request))
        return last == (request,)

    def ratings(self, rater: int) -> dict[int, StoredRating]:
        """{page of the rater's queue: what is stored of it}."""
        with self._open() as db:
            rows = db.execute(
                "SELECT place, verdict, scores, comment, seconds, done, changes, given FROM ratings "
                "WHERE rater = ? ORDER BY place",
                (rater,),
            ).fetchall()
        return {
            page: StoredRating(
                Rating(str(rater), str(page), verdict, json.loads(scores), comment, seconds), bool(done), changes, saved
            )
            for page, verdict, scores, comment, seconds, done, changes, saved in rows
        }

    def keep_open(self) -> sqlite3.Connection:
        """A connection to hold while serving: SQLite would merge the log whenever the last one is closed."""
        db = sqlite3.connect(self.path, timeout=TIMEOUT, check_same_thread=False)
        db.execute("SELECT count(*) FROM raters").fetchone()
        return db

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits at the end of the block and is closed after it."""
        if not self.path.is_file():
            raise UserError(f"No ratings file at {self.path}. The command that created the study makes an empty one.")
        db = sqlite3.connect(self.path, timeout=TIMEOUT, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")  # in WAL mode NORMAL may lose the last commits in a power cut
            yield db
            if db.in_transaction:
                db.commit()
        except sqlite3.DatabaseError as error:
            shut = "unable to open" in str(error)  # on a read-only disk, also for reading: WAL has files of its own
            advice = " Copy the whole study to a folder that can be written to: study=FOLDER." if shut else ""
            raise UserError(f"{self.path}: {error}.{advice}") from error
        finally:
            db.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
