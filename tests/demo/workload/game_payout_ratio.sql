SELECT game_code, count(*), sum(payout) / sum(stake) AS payout_ratio FROM game_results
WHERE created_at >= now() - interval '7 days' GROUP BY game_code ORDER BY game_code;
