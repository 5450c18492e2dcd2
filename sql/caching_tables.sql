-- What is known of reads that a cache could answer. Written by the collector; hashes of values never leave memory.

-- Unlogged: it is counted anew within minutes.
CREATE UNLOGGED TABLE perf.cache_candidate (
    queryid bigint PRIMARY KEY,
    window_s float8 NOT NULL,
    reads float8 NOT NULL,
    unknown_reads float8 NOT NULL,
    total_ms float8 NOT NULL,
    mean_bytes float8 NOT NULL,
    keys float8[] NOT NULL,
    key_reads float8[] NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE perf.cache_shadow_switch (
    strategy text PRIMARY KEY CHECK (strategy <> ''),
    queryids bigint[] NOT NULL,
    sizes bigint[] NOT NULL,
    ttls_s float8[] NOT NULL,
    since timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE perf.cache_shadow_result (
    strategy text NOT NULL,
    size_bytes bigint NOT NULL,
    ttl_s float8 NOT NULL,
    gets float8 NOT NULL,
    hits float8 NOT NULL,
    entries float8 NOT NULL,
    bytes float8 NOT NULL,
    evicted float8 NOT NULL,
    expired float8 NOT NULL,
    invalidated float8 NOT NULL,
    sampled_pct float8 NOT NULL,
    note text,
    measured_at timestamptz NOT NULL,
    PRIMARY KEY (strategy, size_bytes, ttl_s)
) WITH (fillfactor = 50);

-- They name statements of everybody.
REVOKE ALL ON perf.cache_candidate FROM PUBLIC;
GRANT SELECT ON perf.cache_shadow_switch, perf.cache_shadow_result TO pg_read_all_stats;

CREATE FUNCTION perf.cache_shadow_results(name text DEFAULT NULL)
RETURNS TABLE (strategy text, switched_on boolean, size_bytes bigint, ttl interval, gets bigint, hits bigint,
               hit_pct double precision, entries bigint, entries_bytes bigint, evicted bigint, expired bigint,
               invalidated bigint, sampled_pct double precision, note text, measured_at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT r.strategy, s.strategy IS NOT NULL, r.size_bytes,
           CASE WHEN r.ttl_s < 'Infinity' THEN make_interval(secs => r.ttl_s) END,
           round(r.gets)::bigint, round(r.hits)::bigint, CASE WHEN r.gets > 0 THEN 100 * r.hits / r.gets END,
           round(r.entries)::bigint, round(r.bytes)::bigint, round(r.evicted)::bigint, round(r.expired)::bigint,
           round(r.invalidated)::bigint, r.sampled_pct, r.note, r.measured_at
      FROM perf.cache_shadow_result AS r LEFT JOIN perf.cache_shadow_switch AS s ON s.strategy = r.strategy
     WHERE name IS NULL OR r.strategy = name
     ORDER BY r.strategy, r.size_bytes, r.ttl_s
$$;

COMMENT ON TABLE perf.cache_candidate IS 'Internal: reads of statements that took perf_opt.cache_survey_min_ms or more, by queryid; how often the same was asked';
COMMENT ON TABLE perf.cache_shadow_switch IS 'Internal: strategies that are shadowed. Written by perf.cache_shadow';
COMMENT ON TABLE perf.cache_shadow_result IS 'Internal: what shadows have counted. Read by perf.cache_shadow_results';
COMMENT ON FUNCTION perf.cache_shadow_results(text) IS
'What caches of several sizes and times to live would have done for strategies that are or were shadowed (perf.cache_shadow); name: of one strategy, NULL: of all.
Rows: strategy text, switched_on boolean, size_bytes bigint (values that the cache holds, by the planner''s width of a row), ttl interval (NULL: entries live until a write or the size takes them), gets bigint, hits bigint, hit_pct double precision (NULL: no gets yet), entries bigint and entries_bytes bigint (now), evicted, expired, invalidated bigint (entries lost to the size, to their age, to writes), sampled_pct double precision (share of the keys that are looked at; counts are scaled), note text (what the numbers leave out), measured_at timestamptz.
For members of pg_read_all_stats; error 42501 for others. As fresh as the last run of the collector (perf_opt.collect_interval). Survives restarts, which empty the shadow''s caches, not its counts';
