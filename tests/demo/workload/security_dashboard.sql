SELECT u.country, f.flag_type, f.severity, count(*) AS flags, avg(f.score) AS score
FROM fraud_flags AS f JOIN users AS u ON u.id = f.user_id
WHERE f.created_at >= now() - interval '7 days' AND f.status <> 'dismissed'
GROUP BY u.country, f.flag_type, f.severity ORDER BY flags DESC LIMIT 50;
