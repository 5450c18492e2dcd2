"""Capture: databases that are not UTF-8."""

from __future__ import annotations

from .capture_case import CaptureTest


class Encodings(CaptureTest):
    """Texts are shown as they were written where they were written, and as well as possible elsewhere."""

    def encoded_database(self, encoding: str) -> str:
        """A database of an encoding, with the extension."""
        name = f"in_{encoding.lower()}"
        if not self.cluster.sql("SELECT 1 FROM pg_database WHERE datname = $1", (name,)):
            self.cluster.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
            self.cluster.sql("CREATE EXTENSION perf_opt", dbname=name)
        return name

    CASES = [("LATIN1", "latin-1", "Übergrößenträger"), ("EUC_JP", "euc_jp", "日本語の列名"), ("UTF8", "utf-8", "Ü日本€𝄞")]

    def run_in(self, encoding: str, python: str, sql: str) -> None:
        """Runs SQL in the database of an encoding, by a client that speaks it."""
        with self.cluster.connect(self.encoded_database(encoding), client_encoding=encoding) as session:
            session.query(sql.encode(python))

    def texts(self, database: str, everywhere: bool = False) -> list[bytes]:
        """All texts that statements() shows in a database, as bytes of its own encoding."""
        encoding = self.cluster.scalar("SHOW server_encoding", dbname=database)
        with self.cluster.connect(database, raw=True, client_encoding=encoding) as session:
            return [row[0] for row in session.query(f"SELECT query FROM perf.statements({everywhere})").rows]

    def test_text_is_right_where_it_was_written(self) -> None:
        for encoding, python, name in self.CASES:
            self.run_in(encoding, python, f"SELECT 1 AS \"{name}\", 'geheim' AS \"{name}2\"")
            expected = f"SELECT $1 AS \"{name}\", $2 AS \"{name}2\"".encode(python)
            self.assertIn(expected, self.texts(self.encoded_database(encoding)))

    def test_text_is_cut_at_a_character(self) -> None:
        for encoding, python, name in self.CASES:
            for pad in range(1, 5):
                columns = ", ".join(f"1 AS \"{name}{n}\"" for n in range(400 + pad))
                self.run_in(encoding, python, f"SELECT 1 AS \"{'x' * pad}\", {columns}")
                start = f"SELECT $1 AS \"{'x' * pad}\", ".encode()
                found = [text for text in self.texts(self.encoded_database(encoding)) if text.startswith(start)]
                self.assertEqual(len(found), 1)
                self.assertTrue(4092 <= len(found[0]) <= 4096, len(found[0]))
                self.assertNotIn("?", found[0].decode(python))

    def test_reading_from_elsewhere(self) -> None:
        for encoding, python, name in self.CASES:
            self.run_in(encoding, python, f"SELECT 1 AS \"{name}\", 2 AS two")
        with self.cluster.connect(self.encoded_database("SQL_ASCII"), client_encoding="SQL_ASCII") as session:
            session.query(b"SELECT 1 AS \"\xff\xfe\xdc\", 2 AS two")
        seen = {encoding: self.texts(self.encoded_database(encoding), True)
                for encoding in ("LATIN1", "EUC_JP", "UTF8", "SQL_ASCII")}
        def has(where: str, name: str, python: str) -> bool:
            return f"SELECT $1 AS \"{name}\", $2 AS two".encode(python) in seen[where]
        latin, japanese, unicode = (name for _, _, name in self.CASES)
        self.assertTrue(has("UTF8", latin, "utf-8"))
        self.assertTrue(has("UTF8", japanese, "utf-8"))
        self.assertTrue(has("LATIN1", latin, "latin-1"))
        self.assertTrue(has("EUC_JP", japanese, "euc_jp"))
        for where, texts in seen.items():
            alike = [text for text in texts if text.endswith(b", $2 AS two")]
            self.assertEqual(len(alike), 4, (where, alike))
        self.assertIn(b"SELECT $1 AS \"\xff\xfe\xdc\", $2 AS two", seen["SQL_ASCII"])
        for text in seen["UTF8"]:
            text.decode("utf-8")

    def test_failures_keep_their_text(self) -> None:
        for encoding, python, name in self.CASES:
            with self.cluster.connect(self.encoded_database(encoding), client_encoding=encoding) as session:
                self.fails("22012", session.query, f"SELECT 1 / (SELECT 0 AS \"{name}\" OFFSET 0)".encode(python))
            self.assertIn(f"SELECT $1 / (SELECT $2 AS \"{name}\" OFFSET $3)".encode(python),
                          self.texts(self.encoded_database(encoding)))

    def test_active_statements(self) -> None:
        for encoding, python, name in self.CASES:
            database = self.encoded_database(encoding)
            with self.cluster.connect(database, client_encoding=encoding) as session:
                session.send_async(f"SELECT pg_sleep(30) AS \"{name}\"".encode(python))
                self.sleeping(session)
                with self.cluster.connect(database, raw=True, client_encoding=encoding) as reader:
                    rows = reader.query("SELECT query FROM perf.active_statements()").rows
                self.assertIn((f"SELECT pg_sleep($1) AS \"{name}\"".encode(python),), rows)
                session.cancel()
                self.assertRaises(Exception, session.wait)
