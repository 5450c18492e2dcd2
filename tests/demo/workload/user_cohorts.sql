SELECT user_id, COUNT(*) AS sessions FROM game_results GROUP BY user_id HAVING COUNT(*) > 50 ORDER BY sessions DESC;
