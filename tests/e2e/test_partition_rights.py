"""A table's owner gets no more rights by what somebody else does for the table: a superuser's jobs and questions run the code
of its indexes, constraints and operators as the owner, if at all."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from .cluster import SqlError
from .jobs_case import ENDED
from .system import make_private_dir, remove_dir, run_as_server
from .test_partitions import PartitionTest

# What the functions of the owner see of whoever runs them. IMMUTABLE, so that it is run when an expression is simplified.
OWNER = """
CREATE ROLE {role} LOGIN;
GRANT CREATE ON DATABASE "{database}" TO {role};
CREATE SCHEMA AUTHORIZATION {role};
SET ROLE {role};
SET search_path = {role};
CREATE TABLE seen (who text, what text);
CREATE FUNCTION note(what text) RETURNS int LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO {role}.seen VALUES (current_user, what); RETURN 1; END $$;
CREATE FUNCTION code(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN {role}.note(what); END $$;
CREATE TABLE e (id bigint, at timestamptz NOT NULL, note text) PARTITION BY RANGE (at);
CREATE TABLE e_1 PARTITION OF e FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE e_2 PARTITION OF e FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
CREATE TABLE e_3 PARTITION OF e FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-06-01 00:00+00');
INSERT INTO e SELECT g, timestamptz '2026-01-01 00:00+00' + g * interval '1 hour', 'n ' || g FROM generate_series(0, 1000) g;
"""
NUMBERS = itertools.count(1)


class RightsTest(PartitionTest):
    """What these tests share: a role that owns a parent `e`, and code that notes who runs it."""

    def setUp(self) -> None:
        super().setUp()
        self.role = f"alice_{self.database}_{next(NUMBERS)}"
        self.script(OWNER.format(role=self.role, database=self.database))
        self.e = f"{self.role}.e"

    def script(self, text: str) -> None:
        """Statements of a superuser's."""
        with self.cluster.connect(self.database) as session:
            session.query(text)

    def owner(self, text: str) -> None:
        """Statements of the owner's, after which nothing has been seen yet."""
        with self.cluster.connect(self.database) as session:
            session.query(f"SET ROLE {self.role}; SET search_path = {self.role}; {text.replace('ALICE', self.role)}")
            session.query(f"TRUNCATE {self.role}.seen")

    def call(self, statement: str) -> None:
        """A procedure that has transactions of its own, called by a superuser."""
        with self.cluster.connect(self.database) as session:
            session.query(statement.replace("ALICE", self.role))

    def who(self) -> set[str]:
        """Who has run the owner's code."""
        return {row[0] for row in self.sql(f"SELECT DISTINCT who FROM {self.role}.seen")}

    def assert_only_the_owner(self, ran: bool = True) -> None:
        """Nobody but the owner has run the owner's code. `ran`: and the owner has."""
        seen = self.sql(f"SELECT who, what, count(*) FROM {self.role}.seen GROUP BY 1, 2 ORDER BY 1, 2")
        self.assertEqual([row for row in seen if row[0] != self.role], [])
        self.assertTrue(seen or not ran, "the code has not run at all")

    def done(self, steps: list[dict[str, Any]]) -> list[tuple]:
        """Step and status of each step."""
        return [(step["step"], step["status"]) for step in steps]


class Settings(RightsTest):
    """Settings that the owner's code leaves."""

    def test_search_path_ends_with_the_owners_code(self) -> None:
        # In the swap back, catalogs are read after the rows have moved.
        self.owner("CREATE TABLE p (id bigint, at timestamptz NOT NULL); INSERT INTO p SELECT g, now() FROM generate_series(1, 10) g")
        self.call("CALL perf.partition_convert('ALICE.p', 'at', 'day')")
        self.owner("""
            INSERT INTO p SELECT g, now() + interval '3 days' FROM generate_series(1, 5) g;
            CREATE FUNCTION leave(bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('application_name') LIKE 'perf_opt job%' THEN
                    PERFORM pg_catalog.set_config('search_path', 'ALICE, pg_catalog', false), ALICE.note('constraint');
                END IF;
                RETURN true;
            END $$;
            ALTER TABLE p ADD CHECK (ALICE.leave(id));
            CREATE FUNCTION same(oid, oid) RETURNS bool LANGUAGE plpgsql
                AS $$ BEGIN PERFORM ALICE.note('operator'); RETURN pg_catalog.oideq($1, $2); END $$;
            CREATE OPERATOR ALICE.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = ALICE.same)""")
        self.call("CALL perf.partition_convert_undo('ALICE.p')")
        self.assert_only_the_owner()
        self.assertEqual(self.value(f"SELECT count(*) FROM {self.role}.p"), 15)
