\set pid random_exponential(1, :payments, 5)
\set pid :payments + 1 - :pid
UPDATE payments SET status = 'settled', settled_at = now() WHERE id = :pid AND status = 'pending';
