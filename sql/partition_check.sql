-- What the functions that check partitions and advise on them say of themselves.
COMMENT ON FUNCTION perf.partition_check(regclass, timestamptz) IS
'What is wrong with partitioned tables, each with SQL that mends it: of one, or of all that you own, or whose owner you may act as, and that a job manages or that are partitioned by RANGE of one date or timestamp column; as if it were as_of.
Rows: parent text (quoted and qualified), problem text, detail text, fix_sql text (statements to run one by one, outside of a transaction; NULL: for your information, or somebody has to decide). Sorted by parent, the urgent first. problem:
- no_partition_for_now, too_few_ahead, gap: ranges that no partition holds. What has become due within the last two hours is left out: the job sees to it.
- rows_in_default: rows of a default partition by interval, of its first 10,000 to 200,000 (max_move_rows); default_not_checked: it is locked.
- missing_index, invalid_index, owner_differs, privileges_differ, row_security_differs, replica_identity_differs, statistics_differ: partitions, at every level, that are not like their parent; constraint_not_valid, detach_interrupted.
- expired: beyond the retention and still attached. odd_bounds, name_taken, too_many_partitions (over 2,000): harmless, or for you to weigh.
- job_failing, job_paused, job_switched_off, job_owner_gone, job_owner_denied, table_gone, not_managed (named in perf.partition_policy).
- not_checked: somebody has locked it.
Where no job is, gaps are told between partitions, and what their bounds are cut by is guessed; too_few_ahead, expired and name_taken are told of managed tables alone.
Reads catalogs, and default partitions, and waits for no lock longer than 20 ms. Errors: 42501 when you may not act as the owner of relation, 22023 for another kind of relation or infinity, 0A000 for a key of several columns or an expression, 22004 for NULL as_of';
COMMENT ON FUNCTION perf.partition_advice(bigint) IS
'Plain tables that would gain from being partitioned by time, by what the captured workload asks of them: statements that read all of a table for a range of a date or timestamp column, and deletes by age. min_size_bytes: smaller tables are left out; NULL: the size of shared_buffers.
Rows: relation text (quoted and qualified), control_column text (unquoted), every text (day | week | month | quarter | year: what perf.partition_policy wants, else the widest with nine tenths of the best one''s gain and 3 to 120 partitions), priority text (high from 20 % on | medium from 5 % on | low), expected_benefit_pct double precision (of all measured time), basis text (what_if: pages of the partitions that ranges touch, against all pages that are read now | measured: deletes alone, whose time is saved), reason text, evidence jsonb (size, rows, span of time, rows inserted and deleted, per statement: queryid, calls, ms, pages now and then, ms saved), ddl text (NULL: the reason says what is in the way; its priority is low).
Left out: tables that no statement filters by time, gains below 1 %, statements of roles that you are not a member of, columns without a histogram (ANALYZE makes one). A statement''s range is that of one sampled call, and taken to end with the newest rows.
Errors: 55000 when perf_opt is not preloaded, 22023 for a negative size';
