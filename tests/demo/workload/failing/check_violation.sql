UPDATE users SET balance = balance - 1000000 WHERE id = 123;
