-- The policy catalogue as ordinary tables: what the owner of an application wants, next to which every function puts what
-- the server measures. Users edit, extend and empty these tables.
--
-- How edits survive pg_dump and restore. A restore runs CREATE EXTENSION, which loads the shipped rows, and then inserts
-- the rows of the dump. Every row therefore carries its origin, kept by triggers and not by the user:
--   shipped  exactly as the extension ships it; never dumped, CREATE EXTENSION brings it back (in the version installed)
--   edited   a shipped row the user has changed; dumped
--   added    a row of the user's own; dumped
-- A deleted shipped row leaves a mark in perf.policy_deletion, which is dumped too. On restore a dumped row takes the place
-- of the shipped row of the same key, and a dumped mark deletes the shipped row: in any order, with COPY or INSERT, also in
-- parallel. A row a user inserts has no origin yet, so that it never replaces anything unasked: a key that exists already is
-- the ordinary unique violation. For this a policy table has no unique constraint but its primary key.

-- Everybody may look; what a function of this schema refuses it refuses by itself.
GRANT USAGE ON SCHEMA perf TO PUBLIC;

CREATE TABLE perf.policy_deletion (
    table_name text NOT NULL,
    row_key text NOT NULL,
    PRIMARY KEY (table_name, row_key)
);

CREATE TABLE perf.index_policy (
    policy_no int PRIMARY KEY CHECK (policy_no > 0),
    table_name text NOT NULL CHECK (table_name <> ''),
    columns text[] NOT NULL CHECK (cardinality(columns) > 0 AND array_position(columns, NULL) IS NULL),
    priority text NOT NULL CHECK (priority IN ('high', 'medium', 'low')),
    used_by text,
    expected_gain text,
    expected_size_bytes bigint CHECK (expected_size_bytes >= 0),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.cache_policy (
    cache_name text PRIMARY KEY CHECK (cache_name <> ''),
    policy_no int CHECK (policy_no > 0),
    key_template text NOT NULL CHECK (key_template <> ''),
    ttl interval NOT NULL CHECK (ttl > interval '0'),
    size_low_bytes bigint CHECK (size_low_bytes >= 0),
    size_high_bytes bigint CHECK (size_high_bytes >= size_low_bytes),
    size_per text NOT NULL DEFAULT 'cache' CHECK (size_per IN ('cache', 'user', 'series')),
    invalidated_by text[] NOT NULL DEFAULT '{}',
    used_for text,
    source_tables text[] NOT NULL DEFAULT '{}',
    queryid bigint,
    query_pattern text CHECK (query_pattern <> ''),
    compute_sql text CHECK (compute_sql <> ''),
    max_stale interval CHECK (max_stale > interval '0'),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.matview_policy (
    view_name text PRIMARY KEY CHECK (view_name <> ''),
    schedule text NOT NULL CHECK (schedule <> ''),
    refresh_every interval NOT NULL CHECK (refresh_every > interval '0'),
    source_tables text[] NOT NULL DEFAULT '{}',
    expected_gain text,
    note text,
    definition text,
    unique_columns text[] NOT NULL DEFAULT '{}',
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.partition_policy (
    table_name text PRIMARY KEY CHECK (table_name <> ''),
    control_column text,
    every text NOT NULL CHECK (every IN ('day', 'week', 'month', 'quarter', 'year')),
    retention interval CHECK (retention > interval '0'),
    on_expire text NOT NULL DEFAULT 'detach' CHECK (on_expire IN ('detach', 'drop', 'archive')),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.roadmap_task (
    phase int NOT NULL CHECK (phase > 0),
    task_no int NOT NULL CHECK (task_no > 0),
    phase_name text NOT NULL,
    weeks text,
    priority text NOT NULL CHECK (priority IN ('critical', 'high', 'medium', 'low')),
    kind text NOT NULL,
    task text NOT NULL,
    objects text[] NOT NULL DEFAULT '{}',
    phase_gain_low_pct float8 CHECK (phase_gain_low_pct BETWEEN 0 AND 100),
    phase_gain_high_pct float8 CHECK (phase_gain_high_pct BETWEEN phase_gain_low_pct AND 100),
    phase_effort_low_hours float8 CHECK (phase_effort_low_hours >= 0),
    phase_effort_high_hours float8 CHECK (phase_effort_high_hours >= phase_effort_low_hours),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added')),
    PRIMARY KEY (phase, task_no)
);

CREATE TABLE perf.sql_example (
    example_no int PRIMARY KEY CHECK (example_no > 0),
    title text NOT NULL,
    source_tables text[] NOT NULL DEFAULT '{}',
    problem text NOT NULL,
    before_sql text NOT NULL,
    after_sql text NOT NULL,
    supporting_ddl text,
    owner_ddl text,
    changes_result boolean NOT NULL,
    expected_gain text,
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.alert_threshold (
    alert_name text PRIMARY KEY CHECK (alert_name <> ''),
    metric text NOT NULL,
    comparison text NOT NULL CHECK (comparison IN ('>', '<')),
    threshold float8 NOT NULL CHECK (threshold <> 'NaN'),
    unit text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('critical', 'warning')),
    action text NOT NULL,
    fire_after int NOT NULL DEFAULT 3 CHECK (fire_after > 0),
    clear_after int NOT NULL DEFAULT 3 CHECK (clear_after > 0),
    clear_margin_ratio float8 NOT NULL DEFAULT 0.1 CHECK (clear_margin_ratio BETWEEN 0 AND 1),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.scaling_trigger (
    trigger_name text PRIMARY KEY CHECK (trigger_name <> ''),
    kind text NOT NULL CHECK (kind IN ('capacity', 'read_replicas', 'connection_pooling', 'materialized_view',
                                       'partitioning', 'vertical', 'horizontal')),
    metric text,
    threshold float8 CHECK (threshold > 0 AND threshold < 'Infinity'),
    unit text,
    priority text NOT NULL CHECK (priority IN ('high', 'medium', 'low')),
    recommendation text NOT NULL,
    expected_gain text,
    settings jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added')),
    CHECK ((metric IS NULL) = (threshold IS NULL) AND (metric IS NULL) = (unit IS NULL))
);

CREATE TABLE perf.capacity_policy (
    metric text NOT NULL CHECK (metric <> ''),
    horizon interval NOT NULL CHECK (horizon >= interval '0'),
    expected_low float8 NOT NULL CHECK (expected_low >= 0),
    expected_high float8 NOT NULL CHECK (expected_high >= expected_low),
    unit text NOT NULL,
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added')),
    PRIMARY KEY (metric, horizon)
);

CREATE TABLE perf.price (
    item text PRIMARY KEY CHECK (item <> ''),
    kind text NOT NULL CHECK (kind IN ('current', 'expected', 'addition', 'instance')),
    resource_unit text NOT NULL,
    quantity float8 CHECK (quantity >= 0),
    unit_price_low numeric(14, 4) CHECK (unit_price_low >= 0),
    unit_price_high numeric(14, 4) CHECK (unit_price_high >= unit_price_low),
    currency text NOT NULL DEFAULT 'USD' CHECK (currency ~ '^[A-Z]{3}$'),
    vcpus int CHECK (vcpus > 0),
    memory_bytes bigint CHECK (memory_bytes > 0),
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added'))
);

CREATE TABLE perf.checklist_item (
    phase text NOT NULL CHECK (phase <> ''),
    item_no int NOT NULL CHECK (item_no > 0),
    item text NOT NULL,
    check_name text,
    note text,
    origin text NOT NULL CHECK (origin IN ('shipped', 'edited', 'added')),
    PRIMARY KEY (phase, item_no)
);

-- The key of a row as text: the values of its key columns, as a JSON array so that no value can imitate another.
CREATE FUNCTION perf.policy_row_key(policy_row jsonb, key_columns text[]) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$ SELECT jsonb_agg(policy_row -> k ORDER BY n)::text FROM unnest(key_columns) WITH ORDINALITY AS u (k, n) $$;

-- Keeps origin and the marks of deleted shipped rows. The arguments of the trigger are the key columns of the table.
-- Runs as the owner of the extension, so that a role that may write a policy table needs no right on perf.policy_deletion.
CREATE FUNCTION perf.policy_keep_origin() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres
AS $$
DECLARE
    old_key text;
    new_key text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format(
            'INSERT INTO perf.policy_deletion
             SELECT $1, perf.policy_row_key(to_jsonb(t), $2) FROM %I.%I AS t WHERE t.origin <> ''added''
             ON CONFLICT DO NOTHING', TG_TABLE_SCHEMA, TG_TABLE_NAME) USING TG_TABLE_NAME, TG_ARGV::text[];
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_key := perf.policy_row_key(to_jsonb(OLD), TG_ARGV::text[]);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_key := perf.policy_row_key(to_jsonb(NEW), TG_ARGV::text[]);
    END IF;

    IF TG_OP = 'INSERT' THEN
        IF NEW.origin IN ('loading', 'edited', 'added') THEN
            -- load_policy takes the place of any row of this key, a restored row only that of a shipped one.
            EXECUTE format('DELETE FROM %I.%I AS t WHERE perf.policy_row_key(to_jsonb(t), $1) = $2 AND t.origin = ANY ($3)',
                           TG_TABLE_SCHEMA, TG_TABLE_NAME)
                USING TG_ARGV::text[], new_key,
                      CASE NEW.origin WHEN 'loading' THEN '{shipped,edited,added}' ELSE '{shipped}' END::text[];
        END IF;
        NEW.origin := CASE NEW.origin WHEN 'loading' THEN 'shipped' WHEN 'edited' THEN 'edited' ELSE 'added' END;
        DELETE FROM perf.policy_deletion WHERE table_name = TG_TABLE_NAME AND row_key = new_key;
        RETURN NEW;
    ELSIF TG_OP = 'UPDATE' THEN
        NEW.origin := OLD.origin;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
        IF old_key IS NOT DISTINCT FROM new_key THEN
            NEW.origin := CASE OLD.origin WHEN 'shipped' THEN 'edited' ELSE OLD.origin END;
        ELSE
            NEW.origin := 'added';
            DELETE FROM perf.policy_deletion WHERE table_name = TG_TABLE_NAME AND row_key = new_key;
        END IF;
    END IF;
    IF OLD.origin <> 'added' AND old_key IS DISTINCT FROM new_key THEN
        INSERT INTO perf.policy_deletion VALUES (TG_TABLE_NAME, old_key) ON CONFLICT DO NOTHING;
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

-- A mark that a restore brings back deletes the shipped row that CREATE EXTENSION has just loaded.
CREATE FUNCTION perf.policy_restore_deletion() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET intervalstyle = postgres
AS $$
DECLARE
    key_columns text[];
BEGIN
    -- Only tables that keep their origin: the key columns are the arguments of that trigger.
    SELECT string_to_array(encode(substring(t.tgargs FOR greatest(length(t.tgargs) - 1, 0)), 'escape'), '\000')
      INTO key_columns
      FROM pg_trigger AS t
     WHERE t.tgrelid = to_regclass(format('perf.%I', NEW.table_name)) AND t.tgname = 'policy_keep_origin';
    IF key_columns IS NOT NULL THEN
        EXECUTE format('DELETE FROM perf.%I AS t WHERE t.origin = ''shipped'' AND perf.policy_row_key(to_jsonb(t), $1) = $2',
                       NEW.table_name) USING key_columns, NEW.row_key;
        -- That DELETE has left the very mark that is being inserted.
        DELETE FROM perf.policy_deletion WHERE table_name = NEW.table_name AND row_key = NEW.row_key;
    END IF;
    RETURN NEW;
END
$$;

REVOKE ALL ON FUNCTION perf.policy_keep_origin() FROM PUBLIC;
REVOKE ALL ON FUNCTION perf.policy_restore_deletion() FROM PUBLIC;

CREATE TRIGGER policy_restore_deletion BEFORE INSERT ON perf.policy_deletion
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION perf.policy_restore_deletion();

DO $$
DECLARE
    policy regclass;
    key_columns text;
BEGIN
    FOREACH policy IN ARRAY ARRAY['perf.index_policy', 'perf.cache_policy', 'perf.matview_policy', 'perf.partition_policy',
        'perf.roadmap_task', 'perf.sql_example', 'perf.alert_threshold', 'perf.scaling_trigger', 'perf.capacity_policy',
        'perf.price', 'perf.checklist_item']::regclass[]
    LOOP
        SELECT string_agg(quote_literal(a.attname), ', ' ORDER BY k.n) INTO key_columns
          FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
          JOIN pg_attribute AS a ON a.attrelid = policy AND a.attnum = k.attnum
         WHERE i.indrelid = policy AND i.indisprimary;
        EXECUTE format('CREATE TRIGGER policy_keep_origin BEFORE INSERT OR UPDATE OR DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION perf.policy_keep_origin(%s)', policy, key_columns);
        EXECUTE format('CREATE TRIGGER policy_keep_origin_truncate BEFORE TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION perf.policy_keep_origin(%s)', policy, key_columns);
        EXECUTE format('GRANT SELECT ON %s TO PUBLIC', policy);
        PERFORM pg_catalog.pg_extension_config_dump(policy, 'WHERE origin <> ''shipped''');
    END LOOP;
    GRANT SELECT ON perf.policy_deletion TO PUBLIC;
    PERFORM pg_catalog.pg_extension_config_dump('perf.policy_deletion', '');
END
$$;

CREATE FUNCTION perf.clear_policy() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    removed bigint;
    total bigint := 0;
BEGIN
    DELETE FROM perf.index_policy;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.cache_policy;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.matview_policy;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.partition_policy;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.roadmap_task;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.sql_example;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.alert_threshold;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.scaling_trigger;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.capacity_policy;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.price;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    DELETE FROM perf.checklist_item;
    GET DIAGNOSTICS removed = ROW_COUNT; total := total + removed;
    RETURN total;
END
$$;

CREATE FUNCTION perf.load_policy(name text DEFAULT 'gaming_platform') RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    loaded bigint;
    total bigint := 0;
BEGIN
    IF name IS DISTINCT FROM 'gaming_platform' THEN
        RAISE EXCEPTION 'invalid value for argument "name": %', coalesce(quote_literal(name), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Shipped catalogues: gaming_platform.';
    END IF;

    INSERT INTO perf.index_policy
        (policy_no, table_name, columns, priority, used_by, expected_gain, expected_size_bytes, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        (1, 'users', '{last_login}'::text[], 'high', 'active-user status', '40-50 %', 500000000::bigint,
            'About 500 MB for 100K users is what the owner assumes; an index of 100K timestamps is nearer 3 MB.'),
        (2, 'transactions', '{user_id,created_at}', 'high', 'transaction metrics, history', '30-40 %', NULL,
            'Very high selectivity.'),
        (3, 'fraud_flags', '{user_id,created_at}', 'high', 'fraud trends, user risk', '35-45 %', 100000000,
            'About 100 MB is what the owner assumes. High priority here, and a phase 2 task of the roadmap: both are the owner''s.'),
        (4, 'alerts', '{status,severity,triggered_at}', 'high', 'active alert filtering', '50-60 %', NULL,
            'Critical for the dashboard.'),
        (5, 'game_results', '{user_id,created_at}', 'medium', 'game history, cohorts', '25-35 %', NULL, NULL),
        (6, 'metrics_history', '{metric_type,timestamp}', 'medium', 'time series', '40-50 %', NULL, NULL),
        (7, 'risk_scores_history', '{user_id,calculated_at}', 'medium', 'risk trends', '30-40 %', NULL, NULL),
        (8, 'audit_events', '{created_at,admin_id}', 'low', 'audit trail', '25-35 %', NULL, NULL)
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.cache_policy
        (policy_no, cache_name, key_template, ttl, size_low_bytes, size_high_bytes, size_per, invalidated_by, used_for,
         source_tables, query_pattern, compute_sql, note, origin)
    SELECT v.*, NULL, 'loading' FROM (VALUES
        (1, 'system_health', 'cache:system_health', interval '5 min', 0::bigint, 1024::bigint, 'cache',
            '{metric_updated,alert_triggered}'::text[], 'dashboard display', '{metrics_history,alerts}'::text[],
            'SELECT metric_type, avg(value) AS value, max(timestamp) AS seen_at FROM metrics_history%',
            $sql$SELECT jsonb_build_object(
    'metrics', (SELECT jsonb_object_agg(metric_type, jsonb_build_object('value', value, 'seen_at', seen_at))
                  FROM (SELECT metric_type, avg(value) AS value, max(timestamp) AS seen_at FROM metrics_history
                         WHERE metric_type IN ('api_latency_ms', 'error_rate', 'cpu_pct', 'db_connections')
                           AND timestamp >= now() - interval '15 minutes' GROUP BY metric_type) AS m),
    'open_alerts', (SELECT jsonb_object_agg(severity, n)
                      FROM (SELECT severity, count(*) AS n FROM alerts
                             WHERE status IN ('triggered', 'acknowledged', 'escalated') GROUP BY severity) AS a))$sql$),
        (2, 'executive_dashboard', 'cache:dashboard:executive', '1 hour', 5120, 10240, 'cache',
            '{transaction_completed,user_created}', 'C-level reporting', '{transactions,users}',
            'SELECT date_trunc(%) AS day, type, count(*), sum(amount), count(DISTINCT user_id) AS players%FROM transactions%',
            $sql$SELECT jsonb_build_object(
    'new_users', (SELECT count(*) FROM users WHERE created_at >= now() - interval '30 days'),
    'days', (SELECT jsonb_agg(to_jsonb(d) ORDER BY d.day, d.type)
               FROM (SELECT date_trunc('day', created_at) AS day, type, count(*) AS transactions, sum(amount) AS volume,
                            count(DISTINCT user_id) AS players
                       FROM transactions WHERE created_at >= now() - interval '30 days' AND status = 'completed'
                      GROUP BY 1, 2) AS d))$sql$),
        (3, 'operations_dashboard', 'cache:dashboard:operations', '10 min', 8192, 15360, 'cache',
            '{transaction_created,payment_created}', 'real-time operations', '{transactions,payments}',
            'SELECT provider, status, count(*), sum(amount), sum(fee) FROM payments%',
            $sql$SELECT jsonb_build_object(
    'payments', (SELECT jsonb_agg(to_jsonb(p) ORDER BY p.provider, p.status)
                   FROM (SELECT provider, status, count(*) AS payments, sum(amount) AS amount, sum(fee) AS fees
                           FROM payments WHERE created_at >= now() - interval '24 hours'
                          GROUP BY provider, status) AS p),
    'transactions', (SELECT jsonb_agg(to_jsonb(t) ORDER BY t.type, t.status)
                       FROM (SELECT type, status, count(*) AS transactions, sum(amount) AS amount FROM transactions
                              WHERE created_at >= now() - interval '24 hours' GROUP BY type, status) AS t))$sql$),
        (4, 'security_dashboard', 'cache:dashboard:security', '30 min', 5120, 12288, 'cache',
            '{fraud_flag_created,compliance_event}', 'security team', '{fraud_flags,compliance_events}',
            'SELECT u.country, f.flag_type, f.severity, count(*) AS flags, avg(f.score) AS score%FROM fraud_flags%',
            $sql$SELECT jsonb_build_object(
    'flags', (SELECT jsonb_agg(to_jsonb(x) ORDER BY x.flags DESC, x.country, x.flag_type, x.severity)
                FROM (SELECT u.country, f.flag_type, f.severity, count(*) AS flags, avg(f.score) AS score
                        FROM fraud_flags AS f JOIN users AS u ON u.id = f.user_id
                       WHERE f.created_at >= now() - interval '7 days' AND f.status <> 'dismissed'
                       GROUP BY u.country, f.flag_type, f.severity ORDER BY flags DESC, 1, 2, 3 LIMIT 50) AS x),
    'compliance', (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.event_type, c.status)
                     FROM (SELECT event_type, status, count(*) AS events, min(due_at) AS next_due_at
                             FROM compliance_events WHERE status <> 'closed' GROUP BY event_type, status) AS c))$sql$),
        (5, 'user_risk_score', 'cache:risk:user:{user_id}', '10 min', 0, 1024, 'user',
            '{transaction_created,fraud_flag_created}', 'risk-based access control', '{transactions,fraud_flags}',
            'SELECT u.id, u.segment, u.kyc_level,%FROM fraud_flags AS f WHERE f.user_id = u.id%FROM users AS u WHERE u.id = %',
            $sql$SELECT jsonb_build_object(
    'user_id', {user_id}::bigint,
    'flags', (SELECT count(*) FROM fraud_flags
               WHERE user_id = {user_id}::bigint AND created_at >= now() - interval '30 days'),
    'worst_flag', (SELECT max(score) FROM fraud_flags
                    WHERE user_id = {user_id}::bigint AND created_at >= now() - interval '30 days'),
    'volume_24_hours', (SELECT coalesce(sum(amount), 0) FROM transactions
                         WHERE user_id = {user_id}::bigint AND created_at >= now() - interval '24 hours'))$sql$),
        (6, 'user_behavior_profile', 'cache:analytics:user:{user_id}', '1 hour', 2048, 5120, 'user',
            '{game_result,user_login}', 'analytics', '{game_results,users}',
            'SELECT game_code, count(*), sum(stake), sum(payout) FROM game_results%WHERE user_id = %',
            $sql$SELECT jsonb_build_object(
    'user', (SELECT jsonb_build_object('segment', segment, 'country', country, 'last_login', last_login)
               FROM users WHERE id = {user_id}::bigint),
    'games', (SELECT jsonb_agg(to_jsonb(g) ORDER BY g.sessions DESC, g.game_code)
                FROM (SELECT game_code, count(*) AS sessions, sum(stake) AS stake, sum(payout) AS payout,
                             avg(duration_s) AS mean_duration_s, max(created_at) AS last_played_at
                        FROM game_results WHERE user_id = {user_id}::bigint AND created_at >= now() - interval '30 days'
                       GROUP BY game_code) AS g))$sql$),
        (7, 'cohort_analysis', 'cache:analytics:cohorts', '24 hours', 51200, 102400, 'cache',
            '{user_created,bulk_scoring}', 'executive analytics', '{users,risk_scores_history}',
            'SELECT date_trunc(%) AS cohort,%FROM users AS u JOIN game_results AS g%',
            $sql$SELECT jsonb_agg(to_jsonb(c) ORDER BY c.cohort)
  FROM (SELECT date_trunc('month', u.created_at) AS cohort, count(*) AS users,
               count(*) FILTER (WHERE u.last_login >= now() - interval '30 days') AS active,
               avg(r.score) AS mean_risk, count(*) FILTER (WHERE r.risk_level IN ('high', 'critical')) AS risky
          FROM users AS u
          LEFT JOIN (SELECT DISTINCT ON (user_id) user_id, score, risk_level FROM risk_scores_history
                      ORDER BY user_id, calculated_at DESC) AS r ON r.user_id = u.id
         WHERE u.created_at >= now() - interval '1 year' GROUP BY 1) AS c$sql$),
        (8, 'alert_statistics', 'cache:alerts:stats', '30 min', 5120, 8192, 'cache',
            '{alert_resolved,alert_escalated}', 'alert dashboard', '{alerts}',
            'SELECT status, severity, count(*), avg(resolved_at - triggered_at) AS time_to_resolve FROM alerts%',
            $sql$SELECT jsonb_agg(to_jsonb(a) ORDER BY a.status, a.severity)
  FROM (SELECT status, severity, count(*) AS alerts,
               extract(epoch FROM avg(resolved_at - triggered_at)) AS mean_s_to_resolve
          FROM alerts WHERE triggered_at >= now() - interval '7 days' GROUP BY status, severity) AS a$sql$),
        (9, 'metrics_timeseries', 'cache:metrics:ts:{metric_type}:{minutes}', '5 min', 10240, 51200, 'series',
            '{metric_logged}', 'charts and trends', '{metrics_history}',
            'SELECT date_trunc(%) AS minute, avg(value), max(value) FROM metrics_history%WHERE metric_type = %',
            $sql$SELECT jsonb_agg(jsonb_build_array(m.minute, m.mean, m.highest) ORDER BY m.minute)
  FROM (SELECT date_trunc('minute', timestamp) AS minute, avg(value) AS mean, max(value) AS highest
          FROM metrics_history
         WHERE metric_type = {metric_type} AND timestamp >= now() - {minutes}::int * interval '1 minute'
         GROUP BY 1) AS m$sql$),
        (10, 'user_segments', 'cache:analytics:segments', '2 hours', 102400, 512000, 'cache',
            '{churn_prediction,cohort_change}', 'targeted campaigns', '{churn_predictions,game_results}',
            'SELECT u.segment, u.country, count(*) AS players, sum(t.volume) AS volume, avg(t.bets) AS bets%',
            $sql$SELECT jsonb_agg(to_jsonb(s) ORDER BY s.segment, s.band)
  FROM (SELECT u.segment, c.band, count(*) AS users, avg(c.probability) AS churn, sum(g.stake) AS stake,
               sum(g.sessions) AS sessions
          FROM churn_predictions AS c JOIN users AS u ON u.id = c.user_id
          LEFT JOIN (SELECT user_id, sum(stake) AS stake, count(*) AS sessions FROM game_results
                      WHERE created_at >= now() - interval '30 days' GROUP BY user_id) AS g ON g.user_id = u.id
         GROUP BY u.segment, c.band) AS s$sql$)
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.matview_policy
        (view_name, schedule, refresh_every, source_tables, definition, unique_columns, expected_gain, note, origin)
    SELECT v.*, '50-70 %', NULL, 'loading' FROM (VALUES
        ('mv_cohort_summary', '1 hour', interval '1 hour', '{game_results}'::text[],
            'SELECT user_id, count(*) AS session_count, sum(stake) AS stake_total, sum(payout) AS payout_total, '
            'min(created_at) AS first_session_at, max(created_at) AS last_session_at FROM %s GROUP BY user_id',
            '{user_id}'::text[]),
        ('mv_active_alerts', '5 min', '5 min', '{alerts}',
            'SELECT id, alert_type, severity, status, source, user_id, message, triggered_at, acknowledged_at FROM %s '
            'WHERE status IN (''triggered'', ''acknowledged'', ''escalated'')',
            '{id}'),
        ('mv_risk_summary', '10 min', '10 min', '{risk_scores_history}',
            'SELECT DISTINCT ON (user_id) user_id, score, risk_level, model_version, calculated_at FROM %s '
            'ORDER BY user_id, calculated_at DESC, id DESC',
            '{user_id}'),
        ('mv_daily_metrics', 'daily', '1 day', '{metrics_history}',
            'SELECT (timestamp AT TIME ZONE ''UTC'')::date AS day, metric_type, source, count(*) AS samples, '
            'min(value) AS value_min, avg(value) AS value_mean, max(value) AS value_max FROM %s '
            'GROUP BY (timestamp AT TIME ZONE ''UTC'')::date, metric_type, source',
            '{day,metric_type,source}')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.partition_policy (table_name, control_column, every, retention, on_expire, note, origin)
    SELECT v.*, interval '1 year', 'archive', 'Roadmap phase 3 archives data older than 1 year.', 'loading' FROM (VALUES
        ('metrics_history', 'timestamp', 'month'),
        ('audit_events', 'created_at', 'month'),
        ('alerts', 'triggered_at', 'quarter'),
        ('error_logs', NULL, 'month')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.roadmap_task
        (phase, phase_name, weeks, priority, phase_gain_low_pct, phase_gain_high_pct, phase_effort_low_hours,
         phase_effort_high_hours, task_no, kind, task, objects, note, origin)
    SELECT p.*, t.task_no, t.kind, t.task, t.objects, t.note, 'loading' FROM (VALUES
        (1, 'immediate', '1-2', 'critical', 30, 40, 15, 20),
        (2, 'high impact', '3-4', 'high', 50, 60, 25, 30),
        (3, 'infrastructure', '5-6', 'medium', 70, 80, 30, 40),
        (4, 'advanced', '7-8', 'low', 80, 90, 20, 25)
    ) AS p (phase, phase_name, weeks, priority, gain_low, gain_high, hours_low, hours_high)
    JOIN (VALUES
        (1, 1, 'index', 'create high-priority indexes (users.last_login; transactions; alerts)',
            '{users,transactions,alerts}'::text[], NULL),
        (1, 2, 'cache', 'Redis caching (system health 5 min, dashboards, user risk 10 min)',
            '{system_health,executive_dashboard,operations_dashboard,security_dashboard,user_risk_score}', NULL),
        (1, 3, 'monitoring', 'query monitoring (slow log, 1000 ms, analysis and alerting)', '{}', NULL),
        (2, 1, 'index', 'medium indexes (game_results, metrics_history, fraud_flags)',
            '{game_results,metrics_history,fraud_flags}',
            'fraud_flags is a high-priority index in perf.index_policy and a phase 2 task here: both are the owner''s.'),
        (2, 2, 'matview', 'materialized views (cohort hourly, active alerts 5 min, risk 10 min)',
            '{mv_cohort_summary,mv_active_alerts,mv_risk_summary}', NULL),
        (2, 3, 'pooling', 'connection pooling (20/10)', '{}', NULL),
        (2, 4, 'rewrite', 'active-alerts query onto its view', '{mv_active_alerts}', NULL),
        (3, 1, 'replicas', 'read replicas', '{}', NULL),
        (3, 2, 'partitioning', 'partitioning (the four tables)', '{metrics_history,audit_events,alerts,error_logs}', NULL),
        (3, 3, 'maintenance', 'automated maintenance (index maintenance, partition management)', '{}', NULL),
        (3, 4, 'archival', 'archival (data older than 1 year; compress old tables)',
            '{metrics_history,audit_events,alerts,error_logs}', NULL),
        (4, 1, 'sharding', 'evaluate sharding (growth, strategy, by user_id)', '{}', NULL),
        (4, 2, 'prewarm', 'predictive caching (pre-warm popular dashboards, by time of day)',
            '{executive_dashboard,operations_dashboard,security_dashboard}', NULL),
        (4, 3, 'cold_path', 'cold-path queries (monthly ones; to a separate store)', '{}', NULL),
        (4, 4, 'document', 'document (runbooks, index strategy, maintenance schedule)', '{}', NULL)
    ) AS t (phase, task_no, kind, task, objects, note) ON t.phase = p.phase;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.sql_example
        (example_no, title, source_tables, problem, before_sql, after_sql, supporting_ddl, owner_ddl, changes_result,
         expected_gain, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        (1, 'Transaction metrics', '{transactions}'::text[],
            'No index serves the user and the time range together.',
            'SELECT COUNT(*), SUM(amount) FROM transactions WHERE user_id = 123 AND created_at >= NOW() - INTERVAL ''1 hour''',
            'SELECT COUNT(*), SUM(amount) FROM transactions WHERE created_at >= NOW() - INTERVAL ''1 hour'' AND user_id = 123',
            'CREATE INDEX CONCURRENTLY ON transactions (user_id, created_at)',
            'CREATE INDEX CONCURRENTLY ON transactions (created_at, user_id)',
            false, '40-50 %',
            'The order of AND conditions changes nothing: the index does. The owner names (created_at, user_id); (user_id, '
            'created_at) is the better one, because the equality column comes first.'),
        (2, 'Active alerts', '{alerts}',
            'Sorts every open alert, however old, to show the newest.',
            'SELECT * FROM alerts WHERE status IN (''triggered'',''acknowledged'') ORDER BY triggered_at DESC',
            'SELECT * FROM alerts WHERE status IN (''triggered'',''acknowledged'') AND triggered_at >= NOW() - INTERVAL '
            '''24 hours'' ORDER BY triggered_at DESC',
            'CREATE INDEX CONCURRENTLY ON alerts (status, severity, triggered_at)', NULL,
            true, '60-70 %',
            'Changes the result: open alerts older than 24 hours are no longer shown.'),
        (3, 'User cohorts', '{game_results,mv_cohort_summary}',
            'Aggregates the whole table on every call.',
            'SELECT user_id, COUNT(*) AS sessions FROM game_results GROUP BY user_id HAVING COUNT(*) > 50 ORDER BY sessions DESC',
            'SELECT user_id, session_count FROM mv_cohort_summary WHERE session_count > 50 ORDER BY session_count DESC',
            'CREATE MATERIALIZED VIEW mv_cohort_summary AS SELECT user_id, COUNT(*) AS session_count FROM game_results '
            'GROUP BY user_id', NULL,
            true, '70-80 %',
            'The view is refreshed hourly: the result is up to an hour old, and the count column has another name.')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        ('p99_latency', 'latency_p99', '>', 500::float8, 'ms', 'warning', 'Investigate queries.', NULL),
        ('slow_query_rate', 'slow_queries_per_min', '>', 10, '1/min', 'warning', 'Do phase 1 of the roadmap.', NULL),
        ('result_cache_hit_rate', 'result_cache_hit', '<', 70, '%', 'warning', 'Review cache strategies.',
            'The application''s result caches; the buffer cache has an alert of its own.'),
        ('buffer_cache_hit_rate', 'buffer_cache_hit', '<', 98, '%', 'warning',
            'Check shared_buffers and what reads past it.', 'The buffer cache, not the result caches.'),
        ('disk_used', 'disk_used', '>', 80, '%', 'critical', 'Partition, archive or add storage.', NULL),
        ('replication_lag', 'replication_lag', '>', 5, 's', 'critical', 'Check the network and the replica.', NULL),
        ('replica_unwell', 'replica_unwell', '>', 60, 's', 'critical', 'See perf.fleet_nodes; check the network and the replica.',
            'Standbys added with perf.fleet_node_add() that cannot be reached, were promoted or follow another server.')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.scaling_trigger
        (trigger_name, kind, metric, threshold, unit, priority, recommendation, expected_gain, settings, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        ('disk_warning', 'capacity', 'disk_used', 70::float8, '%', 'medium', 'Add storage or partition.', NULL,
            '{}'::jsonb, NULL),
        ('disk_emergency', 'capacity', 'disk_used', 80, '%', 'high', 'Emergency: free or add storage now.', NULL, '{}', NULL),
        ('connections_pool', 'capacity', 'peak_connections', 80, 'connections', 'medium', 'Pool connections.', NULL, '{}',
            'Never above 90 % of max_connections, or it could not fire.'),
        ('connections_scale', 'capacity', 'peak_connections', 120, 'connections', 'high', 'Scale up or add replicas.', NULL,
            '{}', 'Never above 90 % of max_connections, or it could not fire.'),
        ('qps_replicas', 'capacity', 'qps', 5000, '1/s', 'medium', 'Add read replicas.', NULL, '{}', NULL),
        ('qps_horizontal', 'capacity', 'qps', 10000, '1/s', 'high', 'Scale horizontally.', NULL, '{}', NULL),
        ('p99_phases_1_2', 'capacity', 'latency_p99', 500, 'ms', 'medium', 'Do phases 1 and 2 of the roadmap.', NULL, '{}', NULL),
        ('p99_scale', 'capacity', 'latency_p99', 1000, 'ms', 'high', 'Consider scaling.', NULL, '{}', NULL),
        ('read_replicas', 'read_replicas', NULL, NULL, NULL, 'medium',
            '2 read replicas (primary: writes; replica 1: analytics; replica 2: backup and failover).', '20-30 %',
            '{"replicas": 2}', NULL),
        ('connection_pooling', 'connection_pooling', NULL, NULL, NULL, 'medium',
            'Pool size 20, max overflow 10: PgBouncer, or SQLAlchemy''s own pool.', '40 %',
            '{"pool_size": 20, "max_overflow": 10}', 'The gain is less connection overhead.'),
        ('materialized_views', 'materialized_view', NULL, NULL, NULL, 'medium', 'The views of perf.matview_policy.', '50-70 %',
            '{}', NULL),
        ('partitioning', 'partitioning', NULL, NULL, NULL, 'medium', 'The tables of perf.partition_policy, by time.', NULL,
            '{}', NULL),
        ('vertical_rw', 'vertical', 'reads_and_writes', 5000, '1/s', 'medium', 'r6i.2xlarge to r6i.4xlarge.', NULL,
            '{"from": "r6i.2xlarge", "to": "r6i.4xlarge"}',
            '64 to 128 GiB; the owner wrote 256 to 512: perf.price has the sizes.'),
        ('horizontal_cpu', 'horizontal', 'cpu_used', 70, '%', 'medium',
            'Replicas for analytics first, then sharding by user_id for user-centric data.', NULL,
            '{"shard_key": "user_id"}', 'Of one instance.')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.capacity_policy (metric, horizon, expected_low, expected_high, unit, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        ('database_size', interval '0', 2e9::float8, 5e9::float8, 'bytes', 'Now, as the owner expects it.'),
        ('database_size_growth_per_quarter', '3 months', 1.5e9, 2e9, 'bytes', NULL),
        ('database_size', '6 months', 5e9, 8e9, 'bytes', NULL),
        ('peak_connections', '6 months', 50, 80, 'connections', NULL),
        ('qps', '6 months', 2000, 3000, '1/s', NULL),
        ('database_size', '1 year', 10e9, 15e9, 'bytes', NULL),
        ('peak_connections', '1 year', 80, 120, 'connections', NULL),
        ('qps', '1 year', 3000, 5000, '1/s', NULL)
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.price
        (item, kind, resource_unit, quantity, unit_price_low, unit_price_high, vcpus, memory_bytes, note, origin)
    SELECT v.*, 'loading' FROM (VALUES
        ('platform_now', 'current', 'month', 1::float8, 2500::numeric, 3500::numeric, NULL::int, NULL::bigint,
            'What the platform costs now, as the owner states it.'),
        ('platform_afterwards', 'expected', 'month', 1, 3500, 4500, NULL, NULL,
            'The owner''s range; the parts below sum to +1,700, about +50 %, where the two ranges differ by 1,000. '
            'What counts is the sum of the parts.'),
        ('read_replica', 'addition', 'replica-month', 2, 500, 500, NULL, NULL, 'Two replicas: +1,000.'),
        ('redis', 'addition', 'node-month', 1, 500, 500, NULL, NULL, NULL),
        ('index_storage', 'addition', 'month', 1, 200, 200, NULL, NULL,
            'The owner''s flat sum for storage of all indexes; the indexes'' real size is measured.'),
        ('r6i.2xlarge', 'instance', 'instance-hour', NULL, NULL, NULL, 8, 68719476736, 'Enter the price you pay.'),
        ('r6i.4xlarge', 'instance', 'instance-hour', NULL, NULL, NULL, 16, 137438953472, 'Enter the price you pay.')
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    INSERT INTO perf.checklist_item (phase, item_no, item, check_name, note, origin)
    SELECT v.*, NULL, 'loading' FROM (VALUES
        ('before', 1, 'baseline tests', 'baseline_exists'),
        ('before', 2, 'p95/p99 recorded', 'baseline_captured'),
        ('before', 3, 'rollback plan', NULL),
        ('before', 4, 'low-traffic window', 'low_traffic'),
        ('before', 5, 'team told', NULL),
        ('phase_1', 1, 'indexes in a migration', NULL),
        ('phase_1', 2, 'cache connection', 'cache_connected'),
        ('phase_1', 3, 'slow log on', 'capture_on'),
        ('phase_1', 4, 'deploy', NULL),
        ('phase_1', 5, 'indexes verified', 'indexes_valid'),
        ('phase_1', 6, 'latency watched', 'latency_watched'),
        ('phase_2_plus', 1, 'views created', 'matviews_exist'),
        ('phase_2_plus', 2, 'refresh jobs', 'refresh_jobs_exist'),
        ('phase_2_plus', 3, 'pooling', 'pooling_in_use'),
        ('phase_2_plus', 4, 'replicas', 'replicas_streaming'),
        ('phase_2_plus', 5, 'replication monitoring', 'replication_monitored'),
        ('after', 1, 'gains verified', 'gains_verified'),
        ('after', 2, 'plans checked', 'plans_checked'),
        ('after', 3, 'cache hit rates', 'cache_hit_rates'),
        ('after', 4, 'lessons', NULL),
        ('after', 5, 'next phase planned', NULL)
    ) AS v;
    GET DIAGNOSTICS loaded = ROW_COUNT; total := total + loaded;

    RETURN total;
END
$$;

REVOKE ALL ON FUNCTION perf.load_policy(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION perf.clear_policy() FROM PUBLIC;

SELECT perf.load_policy();
