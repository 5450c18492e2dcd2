-- What the guard of autopilot has seen at its last look, to tell by what others have changed since. Written by the collector, as
-- the owner of the tables; emptied by the first look with perf_opt.autopilot_guard off.
CREATE TABLE perf.guard_look (
    is_latest         boolean PRIMARY KEY DEFAULT true CHECK (is_latest),
    looked_at         timestamptz NOT NULL,
    -- When the configuration was read that is remembered.
    loaded_at         timestamptz NOT NULL,
    -- Whatever has a higher transaction id was made later.
    next_xid          bigint NOT NULL
);

CREATE TABLE perf.guard_setting (
    is_server         boolean NOT NULL,
    setdatabase       oid NOT NULL,
    setrole           oid NOT NULL,
    name              text NOT NULL,
    value             text NOT NULL,
    written           text NOT NULL,
    auto_written      text,
    origin            text NOT NULL CHECK (origin IN ('default', 'file', 'auto', 'command_line', 'entry')),
    PRIMARY KEY (is_server, setdatabase, setrole, name)
);

CREATE TABLE perf.guard_index (
    indexrelid        oid PRIMARY KEY,
    indrelid          oid NOT NULL,
    alike             text NOT NULL,
    absent_at         timestamptz NOT NULL,
    is_known          boolean NOT NULL
);

REVOKE ALL ON perf.guard_look, perf.guard_setting, perf.guard_index FROM PUBLIC;

COMMENT ON TABLE perf.guard_look IS 'The last look of autopilot''s guard: when it was, when the configuration was read that perf.guard_setting has, and the transaction id that was next';
COMMENT ON TABLE perf.guard_setting IS 'Settings that influence statements as the guard has seen them last: of the server (is_server), or of a database or role (setdatabase, setrole as in pg_db_role_setting). value: in a form in which equal ones are the same; written: as it is configured; auto_written: as ALTER SYSTEM has it; origin: default, file, auto (ALTER SYSTEM), command_line, entry';
COMMENT ON TABLE perf.guard_index IS 'Indexes of user tables as the guard has seen them last. alike: the same for indexes that are alike; absent_at: when it was last not there yet; is_known: nothing more is to be looked at';
