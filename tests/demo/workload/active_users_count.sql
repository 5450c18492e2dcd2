SELECT count(*) FROM users WHERE last_login >= now() - interval '15 minutes' AND status = 'active';
