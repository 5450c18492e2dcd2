SELECT sum(payout) / sum(stake - stake) AS payout_ratio FROM game_results WHERE created_at >= now() - interval '1 day';
