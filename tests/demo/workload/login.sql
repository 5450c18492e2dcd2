\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
UPDATE users SET last_login = now() WHERE id = :uid;
