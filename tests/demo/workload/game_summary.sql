\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT game_code, count(*), sum(stake), sum(payout) FROM game_results
WHERE user_id = :uid AND created_at >= now() - interval '30 days' GROUP BY game_code ORDER BY count(*) DESC;
