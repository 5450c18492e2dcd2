-- Standbys that this server asks how they are doing: a job for each, whose latest answer is a row here. Written by those
-- jobs only, as the owner of the tables. What a standby is reached by is in its job's options, which pg_dump takes along;
-- what it said is not dumped.
CREATE TABLE perf.fleet_node (
    job_id bigint PRIMARY KEY REFERENCES perf.job ON DELETE CASCADE,
    status text NOT NULL,
    since_at timestamptz NOT NULL,
    checked_at timestamptz NOT NULL,
    last_seen_at timestamptz,
    lag_bytes float8,
    lag_s float8,
    qps float8,
    qps_basis text,
    message text,
    counter float8,
    counter_at timestamptz,
    counter_life text,
    mark_positions float8[] NOT NULL DEFAULT '{}',
    mark_times float8[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);

CREATE TABLE perf.fleet_index_use (
    job_id bigint NOT NULL REFERENCES perf.job ON DELETE CASCADE,
    indexrelid oid NOT NULL,
    counter bigint NOT NULL,
    scans bigint NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, indexrelid)
) WITH (fillfactor = 70);

-- A node whose job has not run for so long is not known to be well, whatever it said last.
CREATE VIEW perf.fleet_nodes WITH (security_barrier) AS
SELECT j.options OPERATOR(pg_catalog.->>) 'node' AS name,
       CASE WHEN COALESCE(n.checked_at, j.created_at)
                 OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) interval '5 minutes') THEN 'stale'
            WHEN n.job_id IS NULL THEN 'new'
            ELSE n.status END AS status,
       n.last_seen_at,
       n.lag_bytes::pg_catalog.int8 AS lag_bytes,
       n.lag_s,
       CASE WHEN j.owner::pg_catalog.oid OPERATOR(pg_catalog.=) pg_catalog.to_regrole(pg_catalog.quote_ident(current_user))::pg_catalog.oid
              OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
            THEN n.message END AS message,
       j.job_id,
       n.checked_at,
       COALESCE(n.since_at, j.created_at) AS since_at,
       n.qps,
       n.qps_basis
FROM perf.job j LEFT JOIN perf.fleet_node n ON n.job_id OPERATOR(pg_catalog.=) j.job_id
WHERE j.kind OPERATOR(pg_catalog.=) 'fleet';

GRANT SELECT ON perf.fleet_nodes, perf.fleet_index_use TO PUBLIC;

COMMENT ON TABLE perf.fleet_node IS
    'What each standby said when it was asked last; read perf.fleet_nodes. Written by the jobs of perf.fleet_node_add';
COMMENT ON TABLE perf.fleet_index_use IS
    'Index use on standbys: an index that only they use is not to be dropped. Of indexes of this database that were used, at most 10000 a node';
COMMENT ON COLUMN perf.fleet_index_use.job_id IS 'The node, as in perf.fleet_nodes';
COMMENT ON COLUMN perf.fleet_index_use.indexrelid IS 'The index: a standby has the primary''s numbers';
COMMENT ON COLUMN perf.fleet_index_use.counter IS 'The standby''s own count of scans when it was read last';
COMMENT ON COLUMN perf.fleet_index_use.scans IS 'Scans in all, those included that the standby has forgotten by a reset since';
COMMENT ON COLUMN perf.fleet_index_use.first_seen_at IS 'When a scan was seen first';
COMMENT ON COLUMN perf.fleet_index_use.last_used_at IS 'When more scans were seen last';
COMMENT ON VIEW perf.fleet_nodes IS
    'Standbys that are asked every minute: name, status text (new: not asked yet | ok | unreachable: no connection | hanging: no answer in time | promoted: it takes writes itself | itself: this very server | other_cluster: or of the same origin and ahead of this server | failed: the message says why | stale: its job has not run for 5 minutes), last_seen_at timestamptz (of its last answer as a standby), lag_bytes bigint (WAL not replayed), lag_s double precision (age of what it does not show yet), message text (for the role that added it and members of pg_read_all_stats), job_id bigint, checked_at, since_at timestamptz (status unchanged since), qps double precision, qps_basis text (statements: counted by perf_opt on the standby | transactions: of its databases)';
COMMENT ON FUNCTION perf.fleet_node_add(text, text) IS
'Has this server ask one of its standbys every minute, as your job "fleet NAME": lag, statements a second, index use. Reads only, by dblink, each answer within 4 s. Returns job_id bigint; a node that you have added before is changed.
conninfo: keywords and values, such as ''host=replica1 user=monitor''; one host; dbname is the current database unless given; connect_timeout is set. No password in it: use a password file (passfile) of the server''s user, or a foreign server with a user mapping, and give the name of that server instead.
Superuser; with the name of a foreign server also its owner, and a superuser only where its owner is one, too. The server needs the option connect_timeout, from 2 to 10, one host, and a user mapping of yours.
On PostgreSQL 15, whose dblink cannot be interrupted while it connects, an address that does not answer holds the run, its cancel and a shutdown up for that time, once for each address that the host''s name has; looking the name up has no limit.
A standby that cannot be asked, was promoted or belongs to another cluster is no error: perf.fleet_nodes and perf.health() say so.
Errors: 55000 without the extension dblink, when perf_opt is not preloaded, for a server without such a connect_timeout, with several hosts or without user mapping, for more than 16 nodes; 22023 for a conninfo that cannot be read, has several hosts, holds a password or another keyword than libpq''s for connections like this, or a name that is taken; 42501 without the rights; 42704 for an unknown server; 22004 for NULL; 25006 on a standby';
COMMENT ON FUNCTION perf.fleet_node_remove(text) IS
'Stops asking a standby, and forgets what it said. Errors: 42704 when you have added none of that name (a superuser: nobody); 22004 for NULL; 25006 on a standby';
COMMENT ON FUNCTION perf._pool_advice() IS
'Internal: sizes of connection pools of this database by role, from perf.pool_hour: role text, size bigint, basis text (measured | policy), busy_p99 bigint (busy connections that were enough in 99 % of the busiest hour), seconds bigint (of it that were looked at), connected_max bigint, is_capped boolean, session_features text[] (used by its statements, and broken by sharing a connection between transactions), cap bigint (of all pools), cap_reason text';
COMMENT ON FUNCTION perf._pgbouncer_ini(text, integer, integer, text, boolean) IS
'Internal: a pgbouncer.ini with those pools for a server at host and port, a pooler that listens at listen_port of the loopback interface, its file of users, and whether it is PgBouncer 1.21 or later. Errors: 22023 for a port out of range, 22004 for NULL';
