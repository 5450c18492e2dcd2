\set uid random(1, :users)
SELECT id, username, country, status, segment, kyc_level, balance, last_login FROM users WHERE id = :uid;
