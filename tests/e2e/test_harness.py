"""The harness itself: what the other tests take for granted is proven here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from .case import ClusterTest, expects_crash, pg_root
from .cluster import Cluster, ConnectionLost, SqlError, free_port
from .parallel import RUN
from .pgclient import Connection, parse_array
from .runner import Module, Tally
from .system import HarnessError, children_of, command_line, make_private_dir, memory_dir, process_alive, remove_dir, wait_until

TESTS_DIR = Path(__file__).resolve().parents[1]


class Life(ClusterTest):
    """Starting, stopping, crashing, promoting."""

    def test_settings_are_those_asked_for(self) -> None:
        cluster = self.private_cluster({"work_mem": "3MB", "cluster_name": "it's a name"})
        self.assertEqual(cluster.scalar("SHOW work_mem"), "3MB")
        self.assertEqual(cluster.scalar("SHOW cluster_name"), "it's a name")
        self.assertEqual(cluster.scalar("SHOW listen_addresses"), "")
        cluster.configure({"work_mem": "5MB"}, reload=True)
        self.assertEqual(cluster.scalar("SHOW work_mem"), "5MB")

    def test_every_stop_mode_and_restart(self) -> None:
        cluster = self.private_cluster()
        cluster.sql("CREATE TABLE kept AS SELECT 1 AS one")
        for mode in ("smart", "fast", "immediate"):
            before = cluster.pid
            cluster.restart(mode)
            self.assertNotEqual(cluster.pid, before)
            self.assertFalse(process_alive(before))
            self.assertEqual(cluster.sql("SELECT one FROM kept"), [(1,)])

    def test_start_that_fails_says_why(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": "no_such_library"}, start=False)
        with self.assertRaises(HarnessError) as caught:
            cluster.start()
        self.assertIn("no_such_library", str(caught.exception))

    @expects_crash
    def test_kill_of_a_backend_is_recovered_from(self) -> None:
        cluster = self.private_cluster()
        cluster.sql("CREATE TABLE kept AS SELECT 1 AS one")
        victim = cluster.connect()
        postmaster = cluster.pid
        mark = cluster.log_mark()
        cluster.kill9(victim.pid)
        with self.assertRaises((ConnectionLost, SqlError)):
            victim.query("SELECT 1")
        cluster.wait_for_log("database system is ready to accept connections", since=mark)
        self.assertEqual(cluster.pid, postmaster)
        self.assertEqual(cluster.sql("SELECT one FROM kept"), [(1,)])

    @expects_crash
    def test_kill_of_the_postmaster_is_recovered_from(self) -> None:
        cluster = self.private_cluster()
        cluster.sql("CREATE TABLE kept AS SELECT 1 AS one")
        family = children_of(cluster.pid)
        self.assertGreater(len(family), 3)
        cluster.kill9()
        self.assertFalse(cluster.running)
        self.assertEqual([pid for pid in family if process_alive(pid)], [])
        mark = cluster.log_mark()
        cluster.start()
        cluster.wait_for_log("automatic recovery in progress", since=mark)
        self.assertEqual(cluster.sql("SELECT one FROM kept"), [(1,)])

    def test_standby_follows_and_is_promoted(self) -> None:
        cluster = self.private_cluster()
        standby = cluster.standby()
        cluster.sql("CREATE TABLE shipped AS SELECT generate_series(1, 10) AS n")
        cluster.wait_for_replay(standby)
        self.assertEqual(standby.scalar("SELECT count(*) FROM shipped"), 10)
        self.assert_sql_error("25006", standby, "INSERT INTO shipped VALUES (11)")
        cluster.stop()
        standby.promote()
        standby.sql("INSERT INTO shipped VALUES (11)")
        self.assertEqual(standby.scalar("SELECT count(*) FROM shipped"), 11)

    def test_tcp_only_when_asked(self) -> None:
        cluster = self.private_cluster(tcp=True)
        with cluster.connect(over_tcp=True) as session:
            self.assertEqual(session.query("SELECT inet_server_port()").scalar(), cluster.port)

    def test_a_database_that_is_not_utf8(self) -> None:
        cluster = self.private_cluster(initdb_args=["--encoding=LATIN1"])
        with cluster.connect(client_encoding="LATIN1") as session:
            self.assertEqual(session.query("SELECT 'é' AS \"ü\"").dicts(), [{"ü": "é"}])
        with cluster.connect(client_encoding="LATIN1", raw=True) as session:
            self.assertEqual(session.query(b"SELECT '\xe9'").rows, [(b"\xe9",)])

    def test_a_detached_server_is_found_again(self) -> None:
        cluster = self.private_cluster(start=False)
        cluster.start(detached=True)
        state = cluster.base_dir / "state.json"
        cluster.save_state(state)
        again = Cluster.attach(state)
        self.assertTrue(again.running)
        self.assertEqual(again.pid, cluster.pid)
        self.assertEqual(again.psql("-At", "-c", "SELECT 42"), "42\n")
        self.assertIn(str(cluster.socket_dir), again.psql_command())


class CleanUp(ClusterTest):
    """However a program that uses the harness ends, it leaves neither a process nor a directory."""

    # A shell that starts the tests in the background has SIGINT ignored, which children inherit.
    PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from e2e.cluster import Cluster, handle_signals
handle_signals()
cluster = Cluster(sys.argv[2], {"shared_preload_libraries": ""}).start()
standby = cluster.standby()
print(cluster.pid, cluster.base_dir, standby.pid, standby.base_dir, flush=True)
if sys.argv[3] == "raise":
    raise ValueError("on purpose")
if sys.argv[3] == "wait":
    sys.stdin.read()
"""

    def run_program(self, ending: str, number: int = 0) -> None:
        """Starts the program above, ends it by falling off its end, an exception or a signal, and looks what is left."""
        command = [sys.executable, "-c", self.PROGRAM, str(TESTS_DIR), str(pg_root()), ending]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   text=True)
        assert process.stdout is not None and process.stdin is not None
        words = process.stdout.readline().split()
        self.assertEqual(len(words), 4, "the program did not start its servers")
        pids, dirs = [int(words[0]), int(words[2])], [words[1], words[3]]
        if number:
            self.assertTrue(all(process_alive(pid) for pid in pids))
            self.assertTrue(all(os.path.isdir(path) for path in dirs))
            process.send_signal(number)
        process.wait(60)
        process.stdin.close()
        process.stdout.close()
        wait_until(lambda: not any(process_alive(pid) for pid in pids), 30, "the servers to be gone")
        wait_until(lambda: not any(os.path.exists(path) for path in dirs), 30, "the directories to be gone")

    def test_at_its_end(self) -> None:
        self.run_program("return")

    def test_after_an_exception(self) -> None:
        self.run_program("raise")

    def test_after_sigint(self) -> None:
        self.run_program("wait", signal.SIGINT)

    def test_after_sigterm(self) -> None:
        self.run_program("wait", signal.SIGTERM)

    def test_after_kill_9(self) -> None:
        self.run_program("wait", signal.SIGKILL)


class Protocol(ClusterTest):
    """The client."""

    settings = {"shared_preload_libraries": ""}

    def connect(self, **options: object) -> Connection:
        """A session that ends with the test."""
        session = self.cluster.connect(**options)  # type: ignore[arg-type]
        self.addCleanup(session.close)
        return session

    def test_values_become_python_values(self) -> None:
        row = self.connect().query("""SELECT 1::int2, -2, 3::int8, 1.5::float8, 'NaN'::float4::text, true, NULL, 'é',
            '{"a": [1]}'::jsonb, ARRAY[1, NULL], ARRAY['a,b', 'c"\\d', 'NULL'], '[0:0]={5}'::int[], '{}'::text[]""").rows[0]
        self.assertEqual(row, (1, -2, 3, 1.5, "NaN", True, None, "é", {"a": [1]}, [1, None],
                               ["a,b", 'c"\\d', "NULL"], [5], []))
        self.assertEqual(parse_array("{{1,2},{3,NULL}}", int), [[1, 2], [3, None]])

    def test_parameters_go_and_come_back(self) -> None:
        session = self.connect()
        values = ("o'clock \\ \"x\"", None, True, [1, None, 3], ["a,b", 'q"\\', None])
        sql = "SELECT $1::text, $2::int, $3::bool, $4::int[], $5::text[]"
        self.assertEqual(session.execute(sql, values).rows, [values])

    def test_many_statements_in_one_string(self) -> None:
        results = self.connect().query_all("SELECT 1; CREATE TEMP TABLE t (a int); INSERT INTO t VALUES (1), (2); SELECT 3")
        self.assertEqual([result.tag for result in results], ["SELECT 1", "CREATE TABLE", "INSERT 0 2", "SELECT 1"])
        self.assertEqual(results[-1].scalar(), 3)

    def test_an_error_has_all_its_fields_and_leaves_the_session_usable(self) -> None:
        session = self.connect()
        session.query("CREATE TEMP TABLE t (a int CONSTRAINT positive CHECK (a > 0))")
        with self.assertRaises(SqlError) as caught:
            session.execute("INSERT INTO t VALUES ($1)", (-1,))
        self.assertEqual(caught.exception.sqlstate, "23514")
        self.assertEqual(caught.exception.fields["constraint"], "positive")
        self.assertEqual(session.query("SELECT 1").scalar(), 1)
        session.query("BEGIN")
        with self.assertRaises(SqlError):
            session.query("SELECT 1/0")
        self.assertEqual(session.transaction_status, "E")

    def test_notices_are_kept(self) -> None:
        session = self.connect()
        session.query("DO $$ BEGIN RAISE WARNING 'look' USING HINT = 'here'; END $$")
        self.assertEqual([(n["severity"], n["message"], n["hint"]) for n in session.notices], [("WARNING", "look", "here")])

    def test_partial_execution(self) -> None:
        session = self.connect()
        result = session.execute("SELECT generate_series(1, 10)", max_rows=4)
        self.assertEqual((len(result.rows), result.suspended), (4, True))
        session.prepare("numbers", "SELECT generate_series(1, $1::int)")
        session.query("BEGIN")
        session.bind("p", "numbers", (5,))
        parts = [session.fetch("p", 2) for _ in range(3)]
        self.assertEqual([[row[0] for row in part.rows] for part in parts], [[1, 2], [3, 4], [5]])
        self.assertEqual([part.suspended for part in parts], [True, True, False])
        session.close_portal("p")
        session.query("COMMIT")
        self.assertEqual(len(session.execute_prepared("numbers", (3,)).rows), 3)
        session.deallocate("numbers")
        with self.assertRaises(SqlError) as caught:
            session.execute_prepared("numbers", (3,))
        self.assertEqual(caught.exception.sqlstate, "26000")

    def test_cancel(self) -> None:
        session = self.connect()
        session.send_async("SELECT pg_sleep(60)")
        wait_until(lambda: self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'",
                                            (session.pid,)), 10, "the session to sleep")
        threading.Thread(target=session.cancel).start()
        with self.assertRaises(SqlError) as caught:
            session.wait(20)
        self.assertEqual(caught.exception.sqlstate, "57014")
        self.assertEqual(session.query("SELECT 1").scalar(), 1)

    def test_two_sessions_at_once(self) -> None:
        first, second = self.connect(), self.connect()
        first.query("SELECT pg_advisory_lock(1)")
        second.send_async("SELECT pg_advisory_lock(1)")
        with self.assertRaises(TimeoutError):
            second.wait(0.2)
        first.query("SELECT pg_advisory_unlock(1)")
        self.assertEqual(second.wait(10).tag, "SELECT 1")

    def test_copy_in_and_out(self) -> None:
        session = self.connect()
        session.query("CREATE TEMP TABLE t (a int, b text)")
        self.assertEqual(session.copy_in("COPY t FROM STDIN", [b"1\tone\n", b"2\t\\N\n"]).tag, "COPY 2")
        self.assertEqual(session.copy_out("COPY t TO STDOUT"), b"1\tone\n2\t\\N\n")
        for attempt in (lambda: session.copy_in("COPY t FROM STDIN", b"3\tx\n", fail="never mind"),
                        lambda: session.copy_in("COPY t FROM STDIN", b"bad\n"),
                        lambda: session.copy_in("COPY no_such FROM STDIN", b"1\n")):
            with self.assertRaises(SqlError):
                attempt()
        self.assertEqual(session.query("SELECT count(*) FROM t").scalar(), 2)

    def test_a_socket_that_dies(self) -> None:
        session = self.cluster.connect()
        pid = session.pid
        session.query("BEGIN")
        session.terminate_socket()
        wait_until(lambda: not self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1", (pid,)), 10,
                   "the backend to notice")

    def test_a_terminated_session_says_so(self) -> None:
        session = self.connect()
        self.cluster.sql("SELECT pg_terminate_backend($1)", (session.pid,))
        with self.assertRaises(SqlError) as caught:
            session.query("SELECT 1")
        self.assertEqual(caught.exception.sqlstate, "57P01")


class Runner(ClusterTest):
    """The runner notices what a careless test does not."""

    def test_wait_until_says_what_it_waited_for(self) -> None:
        with self.assertRaisesRegex(AssertionError, re.escape("waited 0.1 s in vain for a miracle; last value: 0")):
            wait_until(lambda: 0, 0.1, "a miracle")

    def test_memory_is_used_only_where_there_is_enough(self) -> None:
        self.assertIsNone(memory_dir(1 << 60))
        found = memory_dir(0)
        if found is not None:
            self.assertEqual(subprocess.run(["df", "--output=fstype", str(found)], check=True, capture_output=True, text=True)
                             .stdout.split()[-1], "tmpfs")

    def test_a_crash_that_the_test_ignores_is_a_failure(self) -> None:
        class Careless(ClusterTest):
            def runTest(self) -> None:
                cluster = self.private_cluster({"shared_preload_libraries": ""})
                mark = cluster.log_mark()
                with cluster.connect() as session:
                    cluster.kill9(session.pid)
                    cluster.wait_for_log("ready to accept connections", since=mark)
        outcome = Careless().run()
        assert outcome is not None
        self.assertEqual(len(outcome.failures), 1)
        self.assertIn("was terminated by signal", outcome.failures[0][1])


class Parallel(ClusterTest):
    """Modules in processes of their own."""

    # Stands for run.py: notes when it begins and ends, and ends as its name says. Two of them wait for each other.
    CHILD = """
import os, sys, time
name = sys.argv[sys.argv.index("--module") + 1]
with open(sys.argv[1], "a") as notes:
    print("begin", name, file=notes, flush=True)
    print("first of", name, flush=True)
    deadline = time.monotonic() + 30
    while "long" in name and "begin long\\nbegin long" not in open(sys.argv[1]).read().replace("longer", "long"):
        if time.monotonic() > deadline:
            sys.exit("it is alone")
        time.sleep(0.02)
    print("end", name, file=notes, flush=True)
print(name, "ends", flush=True)
if name == "dies":
    os.kill(os.getpid(), 9)
if name != "quiet":
    print(f"{name}: 3 passed, {int(name == 'fails')} failed, 2 skipped in 0 s")
sys.exit(name in ("fails", "lies"))
"""

    def run_modules(self, jobs: int, *modules: Module) -> tuple[Tally, str, list[list[str]]]:
        """Runs made-up modules; their sum, all that was printed, and what began and ended in order."""
        directory = make_private_dir()
        self.addCleanup(remove_dir, directory)
        program = ("import sys; sys.path.insert(0, sys.argv[1]); from e2e.parallel import run_in_children; "
                   "from e2e.runner import Module; "
                   "print('sum', run_in_children(eval(sys.argv[2]), int(sys.argv[3]), [sys.executable, *sys.argv[4:]]))")
        done = subprocess.run([sys.executable, "-c", program, str(TESTS_DIR), repr(list(modules)), str(jobs), "-c", self.CHILD,
                               str(directory / "notes")], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stderr, "")
        printed, _, tally = done.stdout.rpartition("sum ")
        return eval(tally, {"Tally": Tally}), printed, [line.split() for line in (directory / "notes").read_text().splitlines()]

    def test_longest_first_so_many_at_once_and_each_ones_output_whole(self) -> None:
        tally, printed, notes = self.run_modules(2, Module("short", [], seconds=1.0), Module("long", [], seconds=9.0),
                                                 Module("machine", [], seconds=99.0, alone=True), Module("longer", [], seconds=10.0))
        self.assertEqual(tally, Tally(12, 0, 8))
        self.assertEqual({(what, name) for what, name in notes[:2]}, {("begin", "long"), ("begin", "longer")})
        self.assertGreater(notes.index(["begin", "short"]), 2)
        self.assertEqual(notes[-2:], [["begin", "machine"], ["end", "machine"]])
        for name in ("short", "long", "machine", "longer"):
            self.assertIn(f"first of {name}\n{name} ends\n{name}: 3 passed, 0 failed, 2 skipped in 0 s\n", printed)

    def test_whatever_goes_wrong_in_a_child_counts(self) -> None:
        for name, expected in (("fails", Tally(3, 1, 2)), ("dies", Tally(0, 1, 0)), ("quiet", Tally(0, 1, 0)),
                               ("lies", Tally(3, 1, 2))):
            with self.subTest(name):
                tally, printed, _ = self.run_modules(1, Module(name, []))
                self.assertEqual(tally, expected)
                self.assertIn(f"{name} ends\n", printed)
                self.assertEqual("ERROR: its process ended" in printed, name != "fails")

    def run_and_end(self, number: int, code: int) -> None:
        """Starts two modules with servers, ends the parent, and looks what is left."""
        command = [sys.executable, str(RUN), "--pg-root", str(pg_root()), "--jobs", "2", "test_standby"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def servers() -> dict[int, list[int]]:
            """The servers of each child, by what they were started with."""
            return {child: [pid for pid in children_of(child) if "/bin/postgres -D /" in command_line(pid)]
                    for child in children_of(process.pid)}
        wait_until(lambda: sum(bool(pids) for pids in servers().values()) == 2, 60, "servers of two modules")
        running = servers()
        pids = [pid for each in running.values() for pid in each]
        dirs = [Path(command_line(pid).split(" -D ")[1].split()[0]).parent for pid in pids]
        self.assertTrue(all(path.is_dir() for path in dirs))
        process.send_signal(number)
        self.assertEqual(process.wait(60), code)
        wait_until(lambda: not any(process_alive(pid) for pid in [*running, *pids]), 60, "the children and servers to be gone")
        wait_until(lambda: not any(path.exists() for path in dirs), 30, "the directories to be gone")
        assert process.stdout is not None
        process.stdout.close()

    def test_none_is_left_after_sigint(self) -> None:
        self.run_and_end(signal.SIGINT, 128 + signal.SIGINT)

    def test_none_is_left_after_sigterm(self) -> None:
        self.run_and_end(signal.SIGTERM, 128 + signal.SIGTERM)

    def test_none_is_left_after_kill_9(self) -> None:
        self.run_and_end(signal.SIGKILL, -signal.SIGKILL)

    def test_a_port_is_given_out_once(self) -> None:
        ports = [free_port() for _ in range(200)]
        self.assertEqual(len(set(ports)), 200)
