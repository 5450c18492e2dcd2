SELECT id, username, country, last_login FROM users
WHERE last_login >= now() - interval '1 hour' ORDER BY last_login DESC LIMIT 50;
