\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
\set amount random(10, 500)
BEGIN;
INSERT INTO transactions (user_id, type, amount, status) VALUES (:uid, 'deposit', :amount, 'completed') RETURNING id AS tid \gset
INSERT INTO payments (user_id, transaction_id, provider, direction, amount, external_ref)
VALUES (:uid, :tid, 'card', 'in', :amount, 'live-' || :tid::bigint);
UPDATE users SET balance = balance + :amount WHERE id = :uid;
COMMIT;
