-- Readings of counters, from which rates of the last minutes are differences, and the COMMENT of perf.metrics(). The
-- collector writes them; they live as long as shared memory does: a crash empties unlogged tables, a restart changes the
-- boot id.
CREATE UNLOGGED TABLE perf.metric_reading (
    read_at  timestamptz        NOT NULL,
    datid    oid                NOT NULL,
    boot_id  bigint             NOT NULL,
    entry    bigint             NOT NULL,
    counters double precision[] NOT NULL,
    latency  bytea,
    PRIMARY KEY (read_at, entry)
) WITH (autovacuum_vacuum_scale_factor = 0.5);

-- Names no application: entry is a keyed hash.
GRANT SELECT ON perf.metric_reading TO PUBLIC;

ALTER FUNCTION perf.metrics() SET search_path = pg_catalog, pg_temp;

COMMENT ON TABLE perf.metric_reading IS 'Counters as they were at each of the last minutes: rates of perf.metrics() are differences from them. Written by the collector, kept for seven minutes.';
COMMENT ON COLUMN perf.metric_reading.read_at IS 'When they were read';
COMMENT ON COLUMN perf.metric_reading.datid IS 'Database';
COMMENT ON COLUMN perf.metric_reading.boot_id IS 'Life of shared memory';
COMMENT ON COLUMN perf.metric_reading.entry IS '0: of the server and the database; else a keyed hash of an application''s name and role';
COMMENT ON COLUMN perf.metric_reading.counters IS 'Entry 0: transactions, blocks found and read, scans of indexes and of tables, WAL position, time of the reset of statistics. Else: statements, failed ones, their time in ms';
COMMENT ON COLUMN perf.metric_reading.latency IS 'Latencies of an application''s statements, encoded';
COMMENT ON FUNCTION perf.metrics() IS
'What can be measured now, one row for each metric and object. Columns: name text, value double precision (NULL: not measurable now, note says why), unit text (ms, s, %, 1/s, 1/min, bytes, bytes/s, connections), scope text (cluster, database: the current one, relation, replica: a standby or slot, cache: a policy of perf.cache_policy, application: in the current database), object text (NULL for the whole server), measured_at timestamptz, span interval (the time the value is of, which ends at measured_at; NULL: that moment), note text. A metric that does not apply, as a lag without a standby, has no row.
Of the statements that clients sent to the current database, over the last five minutes where the collector writes history (else since the server started): latency_mean, latency_p95, latency_p99 (ms, within 3.2 %), slow_queries_per_min (above perf_opt.slow_ms), error_rate (%), qps.
Of the last five minutes where the collector has read the counters, else since statistics were reset: transactions_per_s, buffer_cache_hit (% of at least 1000 blocks), index_utilisation (% of at least 10 scans of users'' tables that went through an index); of the last minutes only: wal_bytes_per_s. relation_index_utilisation: the ten tables of 1 MB or more that use indexes least, since statistics were reset.
result_cache_hit (%): of the embedded cache in the last five to ten minutes, as a whole and by policy (object: its name), from 50 gets on; of the Redis that perf_opt.redis_url names, in the last minute, with the object redis; not of the buffer cache.
At this moment: connections_total, connections_active, connections_idle, connections_idle_in_transaction (of the server and of the database), connections_used (% of max_connections), disk_used (%), disk_used_bytes, disk_available_bytes (each filesystem: data, wal, tablespace:NAME), database_size_bytes, databases_size_bytes, replication_lag (s), replication_lag_bytes (each standby; on a standby also (this server)), slot_retained_bytes; replication_lag and replica_qps of standbys added with perf.fleet_node_add(), as each said itself when it was asked last (node NAME), and replica_unwell: for how long (s) it has not been seen as a standby that follows this server, 0 while it is ok; note has its status. Standbys that connect, and slots, are named to members of pg_read_all_stats; others see numbers.
From the collector''s latest sample: cpu_used (%), memory_available_bytes, wal_size_bytes, relation_size_bytes (the ten largest).
Of applications, by application_name, over the last minutes: application_latency_mean, application_latency_p95, application_latency_p99 (ms), application_throughput (1/s), application_error_rate (%), application_cache_hit (%). At most 50 by name, the rest as (other); those of other roles are one, (insufficient privilege), but for members of pg_read_all_stats.
Works without preloading and on a standby, with what can be measured there. No errors.';
