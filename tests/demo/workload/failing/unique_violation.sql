INSERT INTO payments (user_id, provider, direction, amount, external_ref)
SELECT user_id, provider, direction, amount, external_ref FROM payments WHERE id = 1;
