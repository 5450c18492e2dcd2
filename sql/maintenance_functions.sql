-- COMMENTs of index maintenance and prewarm. EXECUTE stays with PUBLIC: their jobs can do what their owner's session could.
COMMENT ON TABLE perf.index_rebuild IS
    'What the latest rebuild of each index came to, so that an index that an estimate is wrong about is rebuilt once and no more: bytes_before, bytes_after, tuples (rows then). Written by index maintenance';
COMMENT ON TABLE perf.prewarm_state IS
    'Counters that each prewarm job saw at its latest reading: relids, and of each the blocks asked for (fetched) and found in the cache (hit)';
COMMENT ON TABLE perf.prewarm_profile IS
    'What each hour of the week (0: Monday 0 h, in the job''s time zone) touches and reads from disk of each relation, in blocks, recent weeks weighing more; at most 200 relations an hour';
COMMENT ON TABLE perf.prewarm_hour IS
    'Hours that a prewarm job has warmed or held out, with what their relations touched and read; read perf.prewarm_hours. Kept 10 weeks';
COMMENT ON TABLE perf.prewarm_statement IS
    'Statements that users have marked for the prewarm job; read perf.prewarm_statements. Dumped by pg_dump';
COMMENT ON VIEW perf.prewarm_hours IS
    'How the hours went that your prewarm job warmed or held out: job_id bigint, hour_at timestamptz, warmed boolean (false: held out, to compare with), loaded_blocks, read_blocks bigint (loaded before the hour, and of these from disk), touched, reads double precision (blocks of the loaded relations asked for in the hour, and read from disk; NULL until it is over), hit_pct double precision';
COMMENT ON VIEW perf.prewarm_statements IS
    'Statements that you have marked for your prewarm job; all of them for a superuser: statement_id bigint, statement text, queryid bigint, marked_at, last_run_at timestamptz, last_ms double precision, last_error, owner text';
COMMENT ON FUNCTION perf.index_maintenance(double precision, boolean, bigint, interval, interval, bigint) IS
'Lists the indexes that are bloated, or left behind by a rebuild that did not end (_ccnew, _ccold), of the tables that you may read; with dry_run => false also queues one run of your job "index maintenance", which rebuilds or drops them, and returns its run_id: see perf.job_runs for what became of each index.
relation, index text. size_bytes bigint: now. estimated_bytes bigint: of a fresh build, by the statistics or by what the latest rebuild came to; B-trees without expressions only. bloat_pct double precision. action text: reindex | drop | skip (the reason says why nothing is done). ddl, reason text. run_id bigint: NULL in a dry run.
max_bloat_pct: indexes with at least so much bloat. min_size_bytes: smaller ones are left alone. max_duration: no rebuild begins that is not expected to end within it. lock_timeout: of each wait of a rebuild for other transactions. min_free_bytes: must stay free on the disk; a rebuild also needs twice the size of the index there.
The run is at top level as you: REINDEX INDEX CONCURRENTLY and DROP INDEX CONCURRENTLY, one index at a time, what frees most first. Readers and writers are not held up; one that fails stops no other, and what it leaves is dropped.
Errors: 22023 for an argument out of range, 22004 for NULL, 55000 when perf_opt is not preloaded, 25006 on a standby (not for a dry run)';
COMMENT ON FUNCTION perf.index_maintenance_schedule(text, double precision, text, bigint, interval, interval, bigint) IS
'Defines or changes your job "scheduled index maintenance", which does what perf.index_maintenance(dry_run => false) does; returns job_id bigint. schedule, time_zone: as for perf.job_schedule. The other arguments: as for perf.index_maintenance. Errors: as for both';
COMMENT ON FUNCTION perf.prewarm_schedule(text, text, bigint, double precision) IS
'Defines or changes your job "prewarm", which learns what each hour of the week reads and loads it into the buffer cache before that hour; returns job_id bigint. It is to run once an hour, some minutes before the next one.
max_bytes: to load at most (NULL: half of shared_buffers). Of relations that do not fit or are not used whole the end is loaded. Only what you may read is loaded; TOAST is not.
Every sixth hour is held out. When the last six warmed hours have won less than min_gain_pct percent of the reads that such hours need, loading stops but for one try in 24 runs: the run is recorded as skipped, with the figures. perf.prewarm_hours shows all of it. Reads are those of PostgreSQL: what the operating system has cached counts as read.
Errors: 22023 for an argument that is not accepted, 22004 for NULL, 55000 when perf_opt is not preloaded, 25006 on a standby';
COMMENT ON FUNCTION perf.prewarm(timestamptz, bigint, boolean) IS
'Shows what your prewarm job would do before the hour that contains for_hour (NULL: the next hour); with dry_run => false also queues one run that does it now, whatever was won before, and returns its run_id.
relation text (NULL for a marked statement), statement_id bigint. blocks bigint: to load, from the end of the relation. expected_reads double precision: blocks read from disk in such an hour. cached_blocks bigint: of blocks, in the cache now. action text: load | run | skip. reason text. run_id bigint: NULL in a dry run. max_bytes: instead of the job''s.
Errors: 55000 when you have no prewarm job or perf_opt is not preloaded, 22023 for an argument that is not accepted, 22004 for NULL, 25006 on a standby (not for a dry run)';
COMMENT ON FUNCTION perf.prewarm_mark(text) IS
'Marks one SELECT to be run by your prewarm job ahead of the hours with at least half as many calls of it as its busiest hour of the week; ahead of every hour while no call is known. It runs as you in a read-only transaction, for at most a minute, with your role''s own search_path; its rows are thrown away. At most 100 for each role. Returns statement_id bigint. Errors: 22023 for anything but one SELECT that changes nothing, 22004 for NULL, 55000 for too many, and what the server says of the statement';
COMMENT ON FUNCTION perf.prewarm_unmark(bigint) IS
'Takes the mark of a statement away; false when you have marked none of that number (a superuser: nobody). Errors: 22004 for NULL';
