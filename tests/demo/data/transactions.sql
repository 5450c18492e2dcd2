-- Every sixth row is a deposit or withdrawal and has its row in payments.
INSERT INTO transactions (id, user_id, type, amount, currency, status, channel, metadata, created_at)
SELECT i,
       pg_temp.player(i, 100, :n),
       CASE WHEN i % 6 = 0 THEN CASE WHEN i % 18 = 0 THEN 'withdrawal' ELSE 'deposit' END
            WHEN u < 0.62 THEN 'bet' WHEN u < 0.90 THEN 'win' WHEN u < 0.96 THEN 'bonus' ELSE 'purchase' END,
       round((0.5 + 400 * power(pg_temp.u(i, 101), 5))::numeric, 2),
       (ARRAY['EUR','EUR','EUR','GBP','SEK'])[1 + i % 5],
       CASE WHEN u < 0.97 THEN 'completed' WHEN u < 0.99 THEN 'failed' ELSE 'reversed' END,
       (ARRAY['web','ios','android','android','api'])[1 + pg_temp.pick(i, 102, 5)],
       CASE i % 4 WHEN 0 THEN '{"session": "desktop", "risk": "none"}'
                  WHEN 1 THEN '{"session": "mobile", "risk": "none", "promo": "weekend"}' END::jsonb,
       pg_temp.at(i, :n)
FROM (SELECT i, pg_temp.u(i, 103) AS u FROM generate_series(1, :n::bigint) AS i) AS g;
