\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT id, game_code, stake, payout, outcome, created_at FROM game_results
WHERE user_id = :uid ORDER BY created_at DESC LIMIT 25;
