-- Payment j belongs to transaction 6j: same player, amount and time.
INSERT INTO payments (id, user_id, transaction_id, provider, direction, amount, fee, currency, status, external_ref, created_at, settled_at)
SELECT j, pg_temp.player(i, 100, :transactions), i,
       (ARRAY['card','card','card','wallet','bank','voucher'])[1 + pg_temp.pick(j, 200, 6)],
       CASE WHEN i % 18 = 0 THEN 'out' ELSE 'in' END,
       amount, round(amount * 0.012, 2),
       (ARRAY['EUR','EUR','EUR','GBP','SEK'])[1 + i % 5],
       CASE WHEN settled_at > timestamptz :'anchor' THEN 'pending' WHEN u < 0.95 THEN 'settled' WHEN u < 0.99 THEN 'failed' ELSE 'refunded' END,
       'psp-' || to_hex(hashint8extended(j, :seed) & 1152921504606846975) || '-' || j,
       at,
       CASE WHEN settled_at <= timestamptz :'anchor' AND u < 0.95 THEN settled_at END
FROM (SELECT j, j * 6 AS i, pg_temp.u(j, 201) AS u,
             round((0.5 + 400 * power(pg_temp.u(j * 6, 101), 5))::numeric, 2) AS amount,
             pg_temp.at(j * 6, :transactions) AS at,
             pg_temp.at(j * 6, :transactions) + interval '1 second' * (30 + 170000 * power(pg_temp.u(j, 202), 3)) AS settled_at
      FROM generate_series(1, :n::bigint) AS j) AS g;
