-- Baselines: what statements did, kept and compared. Statements are made slow enough here that a verdict is no chance.
CREATE FUNCTION regress_work(ms float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(ms / 1000); END $$;
CREATE PROCEDURE regress_runs(ms float8) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..12 LOOP
        PERFORM regress_work(ms) AS regress_baseline_a;
        PERFORM regress_work(3) AS regress_baseline_b;
    END LOOP;
END $$;
SELECT perf.reset() >= 0 AS reset;
CALL regress_runs(12);
SELECT perf.baseline_capture('regress before', 'before the change', now() - interval '1 hour') > 0 AS captured;
SELECT name, note, owner = current_user AS mine, from_at < captured_at AS in_order, expires_at = captured_at + interval '1 year' AS kept,
       statements > 0 AS has_statements, calls > 0 AS has_calls, total_ms > 12 * 12 AS has_time
FROM perf.baselines WHERE name LIKE 'regress%';

-- Nothing has been done since: all is gone.
SELECT DISTINCT verdict, calls_after, change_pct FROM perf.baseline_compare('regress before') WHERE query ~ 'regress_baseline_';

-- What was pending then does not count twice; one statement is faster now, one the same, one new.
CALL regress_runs(4);
SELECT count(*) FROM pg_class WHERE relname = 'regress_baseline_c';
SELECT perf._normalize(substring(query FROM 'regress_baseline_\w')) AS statement, calls_before, calls_after,
       CASE WHEN verdict = 'faster' THEN change_pct BETWEEN -80 AND -40 END AS by_two_thirds, verdict
FROM perf.baseline_compare('regress before') WHERE query ~ 'regress_(work|baseline_c)' AND query !~* 'baseline_compare' ORDER BY 1;

-- What was pending is not taken off from what came after a reset.
SELECT perf.baseline_capture('regress reset') > 0 AS captured;
SELECT perf.reset() >= 0 AS reset;
CALL regress_runs(25);
SELECT verdict, calls_after, mean_ms_after > 24 AS all_of_it
FROM perf.baseline_compare('regress reset') WHERE query ~ 'regress_baseline_a';
SELECT perf.baseline_drop('regress reset');

-- Against another baseline, and the other way round.
SELECT perf.baseline_capture('regress after', since => (SELECT captured_at FROM perf.baselines WHERE name = 'regress before')) > 0 AS captured;
SELECT verdict FROM perf.baseline_compare('regress before', 'regress before') WHERE query ~ 'baseline_a';
SELECT count(*) FROM perf.baseline_compare('regress before', 'regress before') WHERE verdict <> 'same' OR change_pct <> 0;

-- Others see that there are baselines, and of their statements their own.
CREATE ROLE regress_stranger;
SET ROLE regress_stranger;
SELECT name FROM perf.baselines ORDER BY 1;
SELECT count(*) FROM perf.baseline_compare('regress before') WHERE query ~ 'regress_baseline_';
SELECT perf.baseline_capture('regress mine');
SELECT perf.baseline_drop('regress before');
SELECT count(*) FROM perf.baseline_statement;
RESET ROLE;

-- Wrong arguments.
SELECT perf.baseline_capture(NULL);
SELECT perf.baseline_capture('');
SELECT perf.baseline_capture(repeat('x', 201));
SELECT perf.baseline_capture('regress before');
SELECT perf.baseline_capture('regress x', since => 'infinity');
SELECT perf.baseline_capture('regress x', since => '-infinity');
SELECT perf.baseline_capture('regress x', since => '2100-01-01');
SELECT perf.baseline_capture('regress x', since => NULL);
SELECT perf.baseline_capture('regress x', keep => '0');
SELECT perf.baseline_capture('regress x', keep => '-1 day');
SELECT perf.baseline_capture('regress x', keep => '11 years');
SELECT perf.baseline_compare(NULL);
SELECT perf.baseline_compare('nonesuch');
SELECT perf.baseline_compare('regress before', 'nonesuch');
SELECT perf.baseline_drop(NULL);
SELECT perf.baseline_drop('nonesuch');

-- One that has expired is none.
UPDATE perf.baseline SET expires_at = now() - interval '1 s' WHERE name = 'regress after';
SELECT perf.baseline_compare('regress after');
SELECT perf.baseline_drop('regress after'), perf.baseline_drop('regress before');
SELECT count(*) FROM perf.baseline_statement;
DROP ROLE regress_stranger;
DROP PROCEDURE regress_runs;
DROP FUNCTION regress_work;
