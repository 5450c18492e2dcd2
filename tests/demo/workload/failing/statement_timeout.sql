SET statement_timeout = '100ms';
SELECT a.user_id, count(*) FROM transactions AS a JOIN transactions AS b USING (user_id) GROUP BY a.user_id ORDER BY 2 DESC LIMIT 10;
RESET statement_timeout;
