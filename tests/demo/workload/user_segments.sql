SELECT u.segment, u.country, count(*) AS players, sum(t.volume) AS volume, avg(t.bets) AS bets
FROM users AS u
JOIN (SELECT user_id, sum(amount) AS volume, count(*) FILTER (WHERE type = 'bet') AS bets
      FROM transactions WHERE status = 'completed' GROUP BY user_id) AS t ON t.user_id = u.id
GROUP BY u.segment, u.country ORDER BY volume DESC;
