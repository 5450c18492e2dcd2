INSERT INTO users (id, username, email, country, role, status, segment, kyc_level, balance, settings, created_at, last_login)
SELECT i,
       'player_' || lpad(i::text, 7, '0'),
       'player_' || lpad(i::text, 7, '0') || '@mail' || i % 7 || '.example',
       (ARRAY['DE','GB','SE','MT','ES','IT','FI','NL','CA','BR'])[1 + floor(10 * power(pg_temp.u(i, 1), 1.8))::integer],
       CASE WHEN i <= 40 THEN 'admin' ELSE 'player' END,
       CASE WHEN u < 0.94 THEN 'active' WHEN u < 0.96 THEN 'suspended' WHEN u < 0.97 THEN 'self_excluded' ELSE 'closed' END,
       CASE WHEN v < 0.80 THEN 'casual' WHEN v < 0.95 THEN 'regular' WHEN v < 0.99 THEN 'high_roller' ELSE 'vip' END,
       pg_temp.pick(i, 2, 4),
       1000 + round((2000 * power(pg_temp.u(i, 3), 4))::numeric, 2),
       CASE i % 3 WHEN 0 THEN '{"theme": "dark", "language": "en", "mails": true, "limits": {"daily": 200}}'
                  WHEN 1 THEN '{"theme": "light", "language": "de", "mails": false}'
                  ELSE '{"theme": "dark", "language": "es", "mails": true}' END::jsonb,
       created_at,
       greatest(created_at, timestamptz :'anchor' - interval '1 second' * (31536000 * power(pg_temp.u(i, 4), 2.2)))
FROM (SELECT i, pg_temp.u(i, 5) AS u, pg_temp.u(i, 6) AS v,
             -- Ids rise with time: the first half in the year before the platform's year of data, the others during it.
             timestamptz :'anchor' - interval '1 day' * (1 + 730 * (1 - i::double precision / :n)) AS created_at
      FROM generate_series(1, :n::bigint) AS i) AS g;
