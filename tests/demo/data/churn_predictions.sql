-- One row for each of the first n players, in the order of their ids.
INSERT INTO churn_predictions (id, user_id, probability, band, model_version, predicted_at)
SELECT i, i, round(p::numeric, 3),
       CASE WHEN p < 0.3 THEN 'low' WHEN p < 0.7 THEN 'medium' ELSE 'high' END,
       'churn-2',
       timestamptz :'anchor' - interval '1 second' * (604800 * (1 - i::double precision / :n))
FROM (SELECT i, power(pg_temp.u(i, 600), 2.5) AS p FROM generate_series(1, :n::bigint) AS i) AS g;
