-- Samples of capacity, written by the collector worker: one tree per resolution, each cut by time into partitions that the
-- worker makes and drops. The finer the resolution, the sooner its partitions go.
CREATE TABLE perf.capacity_sample (
    sampled_at timestamptz NOT NULL,
    value_mean float8 NOT NULL,
    value_min float8,
    value_p95 float8,
    value_max float8,
    resolution_s int NOT NULL,
    metric text NOT NULL,
    object text NOT NULL DEFAULT ''
) PARTITION BY LIST (resolution_s);

CREATE TABLE perf.capacity_sample_1min PARTITION OF perf.capacity_sample FOR VALUES IN (60) PARTITION BY RANGE (sampled_at);
CREATE TABLE perf.capacity_sample_5min PARTITION OF perf.capacity_sample FOR VALUES IN (300) PARTITION BY RANGE (sampled_at);
CREATE TABLE perf.capacity_sample_1h PARTITION OF perf.capacity_sample FOR VALUES IN (3600) PARTITION BY RANGE (sampled_at);
CREATE TABLE perf.capacity_sample_1d PARTITION OF perf.capacity_sample FOR VALUES IN (86400) PARTITION BY RANGE (sampled_at);
-- Fine samples are written in order of time and read in small numbers of pages: an index by metric would be as large as
-- they are. Only the days, which every forecast reads, have one.
CREATE INDEX ON perf.capacity_sample_1min USING brin (sampled_at) WITH (pages_per_range = 16);
CREATE INDEX ON perf.capacity_sample_5min USING brin (sampled_at) WITH (pages_per_range = 16);
CREATE INDEX ON perf.capacity_sample_1h USING brin (sampled_at) WITH (pages_per_range = 16);
CREATE INDEX ON perf.capacity_sample_1d (metric, sampled_at);

-- What is due at each resolution. Its row is the lock of whoever samples, so that two samplers never do one span twice.
CREATE TABLE perf.capacity_clock (
    resolution_s int PRIMARY KEY,
    sampled_at timestamptz NOT NULL DEFAULT '-infinity',
    rolled_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO perf.capacity_clock (resolution_s) VALUES (60), (300), (3600), (86400);

-- Hours of looks at the connections of this database, one a second: how many seconds had so many busy backends. What pools
-- are sized by. A role has seconds only while it is connected; the row of role '' has them all.
CREATE TABLE perf.pool_hour (
    hour_at timestamptz NOT NULL,
    role text NOT NULL,
    seconds_busy int[] NOT NULL,
    connected_max int NOT NULL,
    busy_s bigint NOT NULL,
    waiting_s bigint NOT NULL,
    PRIMARY KEY (hour_at, role)
) WITH (fillfactor = 70);

-- What sampling itself costs: one row, shown by perf.health().
CREATE TABLE perf.capacity_cost (
    only_row boolean PRIMARY KEY CHECK (only_row),
    measured_at timestamptz NOT NULL,
    run_ms float8 NOT NULL,
    core_pct float8,
    stored_bytes bigint NOT NULL,
    problem text
) WITH (fillfactor = 50);

-- Standbys and slots are named to those to whom pg_stat_replication says how standbys are doing.
CREATE VIEW perf.capacity_sample_visible WITH (security_barrier) AS
SELECT s.sampled_at, s.value_mean, s.value_min, s.value_p95, s.value_max, s.resolution_s, s.metric,
       CASE WHEN s.metric NOT IN ('replication_lag_bytes', 'replication_lag_s', 'slot_retained_bytes')
                 OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN s.object END AS object
  FROM perf.capacity_sample AS s;

GRANT SELECT ON perf.capacity_cost TO PUBLIC;
GRANT SELECT ON perf.pool_hour TO PUBLIC;
GRANT SELECT ON perf.capacity_clock TO PUBLIC;
GRANT SELECT ON perf.capacity_sample_visible TO PUBLIC;

COMMENT ON TABLE perf.capacity_sample IS
    'Samples of capacity: sizes, connections, load, disk, memory. Kept 1 min x 2 days, 5 min x 14 days, 1 h x 90 days, 1 day x 3 years, 64 MB in all. Read it with perf.capacity_samples(metric)';
COMMENT ON COLUMN perf.capacity_sample.metric IS 'Name of the metric; its unit is the end of the name';
COMMENT ON COLUMN perf.capacity_sample.object IS 'What it was measured on: database, tablespace, relation, replica, slot; empty for the whole server';
COMMENT ON COLUMN perf.capacity_sample.sampled_at IS 'When it was measured; start of the span where resolution_s sums up finer samples';
COMMENT ON COLUMN perf.capacity_sample.resolution_s IS 'Seconds the row stands for: 60, 300, 3600 or 86400';
COMMENT ON COLUMN perf.capacity_sample.value_mean IS 'Mean over the span, or the one value that was measured';
COMMENT ON COLUMN perf.capacity_sample.value_min IS 'Smallest value of the span; NULL where one value was measured';
COMMENT ON COLUMN perf.capacity_sample.value_p95 IS '95th percentile of the span; NULL where one value was measured';
COMMENT ON COLUMN perf.capacity_sample.value_max IS 'Largest value of the span; NULL where one value was measured';
COMMENT ON TABLE perf.capacity_sample_1min IS 'perf.capacity_sample of 1 minute: kept 2 days';
COMMENT ON TABLE perf.capacity_sample_5min IS 'perf.capacity_sample of 5 minutes: kept 14 days';
COMMENT ON TABLE perf.capacity_sample_1h IS 'perf.capacity_sample of 1 hour: kept 90 days';
COMMENT ON TABLE perf.capacity_sample_1d IS 'perf.capacity_sample of 1 day: kept 3 years';
COMMENT ON VIEW perf.capacity_sample_visible IS
    'perf.capacity_sample for everybody; names of standbys and replication slots only for members of pg_read_all_stats';
COMMENT ON TABLE perf.capacity_clock IS 'When each resolution of perf.capacity_sample was sampled last and up to where it sums up finer samples';
COMMENT ON COLUMN perf.capacity_clock.resolution_s IS 'Resolution in seconds';
COMMENT ON COLUMN perf.capacity_clock.sampled_at IS 'When what is measured at this resolution was measured last';
COMMENT ON COLUMN perf.capacity_clock.rolled_until IS 'End of the last span that was summed up from finer samples';
COMMENT ON TABLE perf.capacity_cost IS 'What sampling of this database costs; perf.health() shows it';
COMMENT ON COLUMN perf.capacity_cost.only_row IS 'There is one row';
COMMENT ON COLUMN perf.capacity_cost.measured_at IS 'When it was measured';
COMMENT ON COLUMN perf.capacity_cost.run_ms IS 'How long the last sample took';
COMMENT ON COLUMN perf.capacity_cost.core_pct IS 'CPU time of looks, samples and rotations since the row was written before, in percent of one core';
COMMENT ON COLUMN perf.capacity_cost.stored_bytes IS 'Size of all samples of this database; at most 64 MB are kept';
COMMENT ON COLUMN perf.capacity_cost.problem IS 'What could not be measured in the last sample';
COMMENT ON TABLE perf.pool_hour IS
    'Busy connections of this database, looked at every second, by hour and role. Written by the collector worker every minute, kept 30 days; at most 32 roles an hour, the others as (other), and so are all of the oldest hours where the table is above 4 MB';
COMMENT ON COLUMN perf.pool_hour.hour_at IS 'Beginning of the hour';
COMMENT ON COLUMN perf.pool_hour.role IS 'Name of the role; empty for the whole database, whose seconds are all that were looked at';
COMMENT ON COLUMN perf.pool_hour.seconds_busy IS
    'Seconds with so many busy connections (active, or idle in a transaction) while the role was connected: the first element is for none, the second for one, up to 1000';
COMMENT ON COLUMN perf.pool_hour.connected_max IS 'Most connections, busy or not';
COMMENT ON COLUMN perf.pool_hour.busy_s IS 'Busy connections, summed up over the seconds';
COMMENT ON COLUMN perf.pool_hour.waiting_s IS
    'Of these, those that waited: for I/O, a lock, another process, a time or the client (idle in a transaction included); not for a lightweight lock';
