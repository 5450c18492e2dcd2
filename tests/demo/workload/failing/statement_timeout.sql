SET statement_timeout = '100ms';
SELECT a.currency, count(*), sum(a.amount * b.amount) FROM transactions AS a JOIN transactions AS b USING (currency) GROUP BY a.currency;
RESET statement_timeout;
