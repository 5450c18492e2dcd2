SELECT provider, status, count(*), sum(amount), sum(fee) FROM payments
WHERE created_at >= now() - interval '24 hours' GROUP BY provider, status ORDER BY provider, status;
