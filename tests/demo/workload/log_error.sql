\set ms random(100, 3000)
INSERT INTO error_logs (service, level, error_code, message)
VALUES ('gateway', 'error', 'E1042', 'Request to gateway failed after ' || :ms::bigint || ' ms');
