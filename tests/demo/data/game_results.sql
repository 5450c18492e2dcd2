INSERT INTO game_results (id, user_id, game_code, stake, payout, outcome, duration_s, rounds, created_at)
SELECT i,
       pg_temp.player(i, 300, :n),
       (ARRAY['slots_gold','slots_fruit','roulette','blackjack','poker','baccarat','bingo','keno'])[1 + floor(8 * power(u, 1.7))::integer],
       stake,
       CASE WHEN v < 0.42 THEN round(stake * (1 + 1.9 * power(v, 2))::numeric, 2) WHEN v < 0.47 THEN stake ELSE 0 END,
       CASE WHEN v < 0.42 THEN 'win' WHEN v < 0.47 THEN 'draw' ELSE 'loss' END,
       10 + floor(3600 * power(pg_temp.u(i, 301), 3))::integer,
       1 + pg_temp.pick(i, 302, 60),
       pg_temp.at(i, :n)
FROM (SELECT i, pg_temp.u(i, 303) AS u, pg_temp.u(i, 304) AS v,
             round((0.2 + 60 * power(pg_temp.u(i, 305), 4))::numeric, 2) AS stake
      FROM generate_series(1, :n::bigint) AS i) AS g;
