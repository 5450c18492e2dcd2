SELECT user_id, session_count FROM mv_cohort_summary WHERE session_count > 50 ORDER BY session_count DESC;
