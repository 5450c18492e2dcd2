SELECT u.id, u.username, u.segment, c.probability, u.last_login FROM churn_predictions AS c JOIN users AS u ON u.id = c.user_id
WHERE c.model_version = 'churn-2' AND c.band = 'high' AND u.last_login < now() - interval '14 days' AND u.status = 'active'
ORDER BY c.probability DESC, u.id LIMIT 100;
