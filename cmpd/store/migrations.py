"""The schema, in numbered steps: step n takes a database from user_version n - 1 to n. Steps are only ever appended.

What the tables are laid out for:
 * Serial numbers begin with the time and transactions are numbered by AUTOINCREMENT, so that new rows of `certificate`
   and `response`, and their entries in nearly all indices, go to the right edge. The exception is the transactionID,
   which the client chooses.
 * A transaction that has certificates keeps its row for as long as they are on record, without what makes it large:
   `purged` rows hold the transactionID, so that a request recorded long ago gets no second certificate.
 * Certificates stay when a transaction without answer is cleared away, and its transactionID comes again after that. So
   the link is the transaction's row number, which is never used twice; it is no foreign key.
 * What is worked off (processing, waiting, confirming, ended and not purged) has partial indices of only the rows in
   that state. Few transactions wait for an operator: what their requests need is a table of its own.
 * What a CRL says of a certificate is in the index of the revoked ones (`certificate_revoked`) whole, so that a CRL of
   a few among millions reads none of their rows. `status_change` is appended to and never changed.
"""

import sqlite3
from pathlib import Path

from cmpd.errors import StoreError

APPLICATION_ID = 0x636D7064  # "cmpd": tells our databases from other files of SQLite

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE entity (
            id                   INTEGER PRIMARY KEY AUTOINCREMENT,
            reference            TEXT NOT NULL UNIQUE,
            kind                 TEXT NOT NULL CHECK (kind IN ('secret', 'certificate')),
            subject              BLOB,
            profiles             TEXT NOT NULL,  -- JSON array of names
            uses_left            INTEGER CHECK (uses_left >= 0),
            expires_at           INTEGER,
            is_ra                INTEGER NOT NULL,
            disabled             INTEGER NOT NULL,
            created_at           INTEGER NOT NULL,
            sealed_secret        BLOB,
            certificate          BLOB,
            sealed_reg_token     BLOB,
            sealed_authenticator BLOB
        ) STRICT
        """,
        """
        CREATE TABLE cmp_transaction (
            row                INTEGER PRIMARY KEY AUTOINCREMENT,
            id                 BLOB NOT NULL UNIQUE,
            state              TEXT NOT NULL CHECK (state IN ('processing', 'confirming', 'ended')),
            credential         TEXT NOT NULL,
            entity_id          INTEGER NOT NULL REFERENCES entity,
            body               TEXT NOT NULL,
            started_at         INTEGER NOT NULL,
            server_nonce       BLOB NOT NULL,
            confirm_by         INTEGER CHECK (state <> 'confirming' OR confirm_by IS NOT NULL),
            sender_certificate BLOB,
            ended_at           INTEGER CHECK (state <> 'ended' OR ended_at IS NOT NULL),
            uses_taken         INTEGER NOT NULL DEFAULT 0,
            purged             INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """,
        "CREATE INDEX transaction_processing ON cmp_transaction (entity_id) WHERE state = 'processing'",
        "CREATE INDEX transaction_confirming ON cmp_transaction (confirm_by) WHERE state = 'confirming'",
        "CREATE INDEX transaction_ended ON cmp_transaction (ended_at) WHERE state = 'ended' AND purged = 0",
        """
        CREATE TABLE certificate (
            serial          BLOB NOT NULL UNIQUE,
            transaction_row INTEGER NOT NULL,
            transaction_id  BLOB NOT NULL,
            cert_req_id     INTEGER NOT NULL,
            entity_id       INTEGER NOT NULL REFERENCES entity,
            profile         TEXT NOT NULL,
            state           TEXT NOT NULL
                CHECK (state IN ('intended', 'issued', 'confirmed', 'suspended', 'revoked', 'abandoned')),
            subject         BLOB NOT NULL,
            subject_text    TEXT NOT NULL,
            key_id          BLOB NOT NULL,
            not_before      INTEGER NOT NULL,
            not_after       INTEGER NOT NULL,
            created_at      INTEGER NOT NULL,
            changed_at      INTEGER,
            reason          TEXT,
            changed_by      TEXT,
            replaces        BLOB,
            der             BLOB,
            tbs             BLOB
        ) STRICT
        """,
        "CREATE INDEX certificate_transaction ON certificate (transaction_row)",
        """
        CREATE TABLE response (
            transaction_row INTEGER NOT NULL REFERENCES cmp_transaction ON DELETE CASCADE,
            request_digest  BLOB NOT NULL,
            response        BLOB,
            UNIQUE (transaction_row, request_digest)
        ) STRICT
        """,
    ),
    (
        "ALTER TABLE cmp_transaction ADD COLUMN keeps_id INTEGER NOT NULL DEFAULT 0",  # whatever else there is of it
        "ALTER TABLE entity ADD COLUMN may_revoke INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE certificate ADD COLUMN revoked_at INTEGER",
        "ALTER TABLE certificate ADD COLUMN invalidity_date INTEGER",
        """
        CREATE TABLE status_change (
            id              INTEGER PRIMARY KEY AUTOINCREMENT,
            serial          BLOB NOT NULL REFERENCES certificate (serial),
            at              INTEGER NOT NULL,
            state           TEXT NOT NULL CHECK (state IN ('confirmed', 'suspended', 'revoked')),
            reason          TEXT,
            changed_by      TEXT NOT NULL,
            invalidity_date INTEGER,
            revoked_at      INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX status_change_serial ON status_change (serial)",
        # Before this step a certificate was revoked by certConf or by the lack of it alone, and had been sent.
        """
        UPDATE certificate SET revoked_at = coalesce(changed_at, created_at)
            WHERE state = 'revoked' AND der IS NOT NULL
        """,
        """
        INSERT INTO status_change (serial, at, state, reason, changed_by, revoked_at)
            SELECT serial, revoked_at, state, reason, coalesce(changed_by, ''), revoked_at FROM certificate
            WHERE revoked_at IS NOT NULL ORDER BY revoked_at, rowid
        """,
        """
        CREATE INDEX certificate_revoked ON certificate (serial, not_after, revoked_at, reason, invalidity_date)
            WHERE revoked_at IS NOT NULL
        """,
        """
        CREATE TABLE crl (
            number       INTEGER PRIMARY KEY,
            this_update  INTEGER NOT NULL,
            next_update  INTEGER NOT NULL,
            last_change  INTEGER NOT NULL,
            last_order   INTEGER NOT NULL,
            base         INTEGER,
            scheduled    INTEGER NOT NULL,
            published_at INTEGER
        ) STRICT
        """,
        "CREATE INDEX crl_published ON crl (number) WHERE published_at IS NOT NULL",
        "CREATE INDEX crl_scheduled ON crl (number) WHERE published_at IS NOT NULL AND scheduled = 1",
        """
        CREATE TABLE crl_order (
            id         INTEGER PRIMARY KEY AUTOINCREMENT,
            at         INTEGER NOT NULL,
            changed_by TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE entity_changes (count INTEGER NOT NULL) STRICT
        """,
        "INSERT INTO entity_changes VALUES (0)",
        "CREATE TRIGGER entity_added AFTER INSERT ON entity BEGIN UPDATE entity_changes SET count = count + 1; END",
        "CREATE TRIGGER entity_gone AFTER DELETE ON entity BEGIN UPDATE entity_changes SET count = count + 1; END",
        # whatever a decision rests on: all but uses_left, which each enrolment changes
        """
        CREATE TRIGGER entity_changed AFTER UPDATE OF reference, kind, subject, profiles, expires_at, is_ra, disabled,
            sealed_secret, certificate, sealed_reg_token, sealed_authenticator, may_revoke ON entity
            BEGIN UPDATE entity_changes SET count = count + 1; END
        """,
        """
        CREATE TABLE service_certificate (
            serial       BLOB NOT NULL UNIQUE,
            purpose      TEXT NOT NULL,
            subject_text TEXT NOT NULL,
            not_before   INTEGER NOT NULL,
            not_after    INTEGER NOT NULL,
            created_at   INTEGER NOT NULL,
            der          BLOB
        ) STRICT
        """,
        "CREATE INDEX service_certificate_purpose ON service_certificate (purpose, created_at)",
        """
        CREATE TABLE revocation_passphrase (
            key_id     BLOB NOT NULL UNIQUE,
            entity_id  INTEGER NOT NULL REFERENCES entity,
            subject    BLOB,
            sealed     BLOB NOT NULL,
            created_at INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE INDEX revocation_passphrase_holder ON revocation_passphrase (entity_id, subject)",
    ),
    (
        # SQLite has no way to change a CHECK but a new table. Foreign keys are off meanwhile (migrate), or the end of
        # the old one would delete the responses.
        """
        CREATE TABLE new_transaction (
            row                INTEGER PRIMARY KEY AUTOINCREMENT,
            id                 BLOB NOT NULL UNIQUE,
            state              TEXT NOT NULL CHECK (state IN ('processing', 'waiting', 'confirming', 'ended')),
            credential         TEXT NOT NULL,
            entity_id          INTEGER NOT NULL REFERENCES entity,
            body               TEXT NOT NULL,
            started_at         INTEGER NOT NULL,
            server_nonce       BLOB NOT NULL,
            confirm_by         INTEGER CHECK (state <> 'confirming' OR confirm_by IS NOT NULL),
            sender_certificate BLOB,
            ended_at           INTEGER CHECK (state <> 'ended' OR ended_at IS NOT NULL),
            uses_taken         INTEGER NOT NULL DEFAULT 0,
            purged             INTEGER NOT NULL DEFAULT 0,
            keeps_id           INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """,
        """
        INSERT INTO new_transaction
            SELECT row, id, state, credential, entity_id, body, started_at, server_nonce, confirm_by,
                sender_certificate, ended_at, uses_taken, purged, keeps_id FROM cmp_transaction ORDER BY row
        """,
        # The rows of the last ones may be gone, and certificates still name them.
        "DELETE FROM sqlite_sequence WHERE name = 'new_transaction'",
        """
        INSERT INTO sqlite_sequence (name, seq)
            SELECT 'new_transaction', seq FROM sqlite_sequence WHERE name = 'cmp_transaction'
        """,
        "DROP TABLE cmp_transaction",
        "ALTER TABLE new_transaction RENAME TO cmp_transaction",
        "CREATE INDEX transaction_processing ON cmp_transaction (entity_id) WHERE state = 'processing'",
        "CREATE INDEX transaction_waiting ON cmp_transaction (state, entity_id) WHERE state = 'waiting'",
        "CREATE INDEX transaction_confirming ON cmp_transaction (confirm_by) WHERE state = 'confirming'",
        "CREATE INDEX transaction_ended ON cmp_transaction (ended_at) WHERE state = 'ended' AND purged = 0",
        """
        CREATE TABLE waiting_request (
            reference       INTEGER PRIMARY KEY CHECK (reference BETWEEN 1 AND 4294967295),
            transaction_row INTEGER NOT NULL UNIQUE REFERENCES cmp_transaction ON DELETE CASCADE,
            digest          BLOB NOT NULL,
            body            TEXT NOT NULL,
            entity_id       INTEGER NOT NULL REFERENCES entity,
            profile         TEXT NOT NULL,
            subjects        TEXT NOT NULL,
            received_at     INTEGER NOT NULL,
            expires_at      INTEGER NOT NULL,
            decision        TEXT NOT NULL DEFAULT 'undecided' CHECK (decision IN ('undecided', 'approved', 'rejected')),
            decided_at      INTEGER CHECK ((decision = 'undecided') = (decided_at IS NULL)),
            decided_by      TEXT NOT NULL DEFAULT '',
            text            TEXT NOT NULL DEFAULT '',
            request         BLOB NOT NULL  -- last: what does without it does not read its pages
        ) STRICT
        """,
        "CREATE INDEX waiting_request_undecided ON waiting_request (reference) WHERE decision = 'undecided'",
    ),
    (
        # As before: a CHECK changes, and what refers to the table stays.
        """
        CREATE TABLE new_transaction (
            row                INTEGER PRIMARY KEY AUTOINCREMENT,
            id                 BLOB NOT NULL UNIQUE,
            state              TEXT NOT NULL CHECK (state IN
                ('processing', 'waiting', 'challenged', 'confirming', 'proving', 'ended')),
            credential         TEXT NOT NULL,
            entity_id          INTEGER NOT NULL REFERENCES entity,
            body               TEXT NOT NULL,
            started_at         INTEGER NOT NULL,
            server_nonce       BLOB NOT NULL,
            confirm_by         INTEGER CHECK
                (state NOT IN ('confirming', 'proving', 'challenged') OR confirm_by IS NOT NULL),
            sender_certificate BLOB,
            ended_at           INTEGER CHECK (state <> 'ended' OR ended_at IS NOT NULL),
            uses_taken         INTEGER NOT NULL DEFAULT 0,
            purged             INTEGER NOT NULL DEFAULT 0,
            keeps_id           INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """,
        """
        INSERT INTO new_transaction
            SELECT row, id, state, credential, entity_id, body, started_at, server_nonce, confirm_by,
                sender_certificate, ended_at, uses_taken, purged, keeps_id FROM cmp_transaction ORDER BY row
        """,
        # The rows of the last ones may be gone, and certificates still name them.
        "DELETE FROM sqlite_sequence WHERE name = 'new_transaction'",
        """
        INSERT INTO sqlite_sequence (name, seq)
            SELECT 'new_transaction', seq FROM sqlite_sequence WHERE name = 'cmp_transaction'
        """,
        "DROP TABLE cmp_transaction",
        "ALTER TABLE new_transaction RENAME TO cmp_transaction",
        "CREATE INDEX transaction_processing ON cmp_transaction (entity_id) WHERE state = 'processing'",
        "CREATE INDEX transaction_waiting ON cmp_transaction (state, entity_id) WHERE state = 'waiting'",
        """
        CREATE INDEX transaction_confirming ON cmp_transaction (confirm_by)
            WHERE state IN ('confirming', 'proving', 'challenged')
        """,
        "CREATE INDEX transaction_ended ON cmp_transaction (ended_at) WHERE state = 'ended' AND purged = 0",
        """
        CREATE TABLE challenge (
            transaction_row INTEGER PRIMARY KEY REFERENCES cmp_transaction ON DELETE CASCADE,
            expected        TEXT NOT NULL,  -- JSON array of [certReqId, SHA-256 in hex]
            expires_at      INTEGER NOT NULL,
            request         BLOB NOT NULL
        ) STRICT
        """,
    ),
    (
        # Only certificates of profiles that want something for themselves have rows here: the order of digests is
        # random, and an index of all subjects or keys would be written at a random place for each certificate.
        """
        CREATE TABLE certificate_claim (
            digest  BLOB NOT NULL,
            serial  BLOB NOT NULL REFERENCES certificate (serial),
            what    TEXT NOT NULL CHECK (what IN ('subject', 'key')),
            alone   INTEGER NOT NULL,
            lineage BLOB NOT NULL,  -- serial of the certificate that the first kur replaced, or its own
            PRIMARY KEY (digest, serial)
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        "ALTER TABLE cmp_transaction ADD COLUMN kem_secrets BLOB",  # sealed
        "ALTER TABLE cmp_transaction ADD COLUMN mac_parameters BLOB",
        """
        CREATE TRIGGER challenge_is_over AFTER UPDATE OF state ON cmp_transaction
            WHEN old.state IN ('challenged', 'processing') AND new.state NOT IN ('challenged', 'processing')
        BEGIN
            DELETE FROM challenge WHERE transaction_row = new.row;
        END
        """,
    ),
)


def schema_version(database: sqlite3.Connection, path: Path) -> int:
    """The step that the database is at; StoreError if it is not ours or newer than this program."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID and (version or application or _has_tables(database)):
        raise StoreError(f"{path}: this is not a database of cmpd")
    if version > len(STEPS):
        raise StoreError(f"{path}: schema {version} is newer than this cmpd, which knows up to {len(STEPS)}")
    return version


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, all steps or none; StoreError as schema_version."""
    database.execute("PRAGMA foreign_keys = OFF")  # it does nothing once a transaction has begun
    database.execute("BEGIN IMMEDIATE")
    try:
        for number in range(schema_version(database, path), len(STEPS)):
            for statement in STEPS[number]:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number + 1}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if database.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StoreError(f"{path}: a record refers to one that is not there")
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
        database.execute("PRAGMA foreign_keys = ON")


def _has_tables(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_schema").fetchone() is not None
