\set uid random(1, :users)
\set p random(0, 29)
INSERT INTO churn_predictions (user_id, probability, band, model_version) VALUES (:uid, :p / 100.0, 'low', 'churn-2')
ON CONFLICT (user_id, model_version) DO UPDATE SET probability = excluded.probability, band = excluded.band, predicted_at = now();
