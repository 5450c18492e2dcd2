\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
\set score random(1, 100)
INSERT INTO fraud_flags (user_id, flag_type, severity, score, reason) VALUES (:uid, 'velocity', 'medium', :score, 'Rule velocity matched');
