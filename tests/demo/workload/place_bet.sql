\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
\set stake random(1, 20)
\set payout random(0, 1) * random(1, 40)
BEGIN;
UPDATE users SET balance = balance - :stake + :payout WHERE id = :uid AND balance >= :stake;
INSERT INTO transactions (user_id, type, amount, channel) VALUES (:uid, 'bet', :stake, 'web');
INSERT INTO game_results (user_id, game_code, stake, payout, outcome, duration_s)
VALUES (:uid, 'slots_gold', :stake, :payout, CASE WHEN :payout > 0 THEN 'win' ELSE 'loss' END, 45);
COMMIT;
