SELECT date_trunc('month', u.created_at) AS cohort, date_trunc('month', g.created_at) AS month,
       count(DISTINCT g.user_id) AS players, sum(g.stake - g.payout) AS revenue
FROM users AS u JOIN game_results AS g ON g.user_id = u.id
WHERE u.created_at >= now() - interval '1 year' GROUP BY 1, 2 ORDER BY 1, 2;
