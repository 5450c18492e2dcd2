-- What every generator shares. psql variables: n (rows of this table), users, transactions, seed, anchor.
-- All randomness is a hash of (row number, seed), so the same seed gives the same rows; only the clock moves:
-- every time is counted back from the anchor, the minute at which loading began.
SET client_min_messages = warning;
SET synchronous_commit = off;

-- Uniform in [0, 1): draw number k of row i.
CREATE FUNCTION pg_temp.u(i bigint, k bigint) RETURNS double precision IMMUTABLE LANGUAGE sql
RETURN (hashint8extended(i, :seed * 1000 + k) & 4503599627370495)::double precision / 4503599627370496.0;

-- Integer in [0, m).
CREATE FUNCTION pg_temp.pick(i bigint, k bigint, m bigint) RETURNS integer IMMUTABLE LANGUAGE sql
RETURN ((hashint8extended(i, :seed * 1000 + k) & 4611686018427387903) % m)::integer;

-- Days since the start of the year at which the share y of a table had been written: the platform grows.
CREATE FUNCTION pg_temp.grown(y double precision) RETURNS double precision IMMUTABLE LANGUAGE sql
RETURN 365 * (sqrt(0.36 + 1.6 * y) - 0.6) / 0.8;

-- The player of row i of rows_in_all, skewed: the busiest one has about 0.5 % of all rows, the quieter half of them
-- share a quarter. Multiplying by a prime spreads busy players over the whole table; the busiest is number 123.
-- Half of the players signed up before the year began, the others during it: nobody plays before that.
CREATE FUNCTION pg_temp.signed_up(id bigint, before double precision) RETURNS bigint IMMUTABLE LANGUAGE sql
RETURN CASE WHEN id <= :users * before THEN id ELSE 1 + id % floor(:users * before)::bigint END;
CREATE FUNCTION pg_temp.player(i bigint, k bigint, rows_in_all bigint) RETURNS bigint IMMUTABLE LANGUAGE sql
RETURN pg_temp.signed_up(1 + (floor(:users * power(pg_temp.u(i, k), 2.2))::bigint * 48271 + 122) % :users,
                         0.5 + pg_temp.grown((i - 1)::double precision / rows_in_all) / 730);

-- The time of row i: ascending over the year up to the anchor, more rows later than earlier and more at some hours
-- of the day than at others.
CREATE FUNCTION pg_temp.at(i bigint, rows_in_all bigint) RETURNS timestamptz STABLE LANGUAGE sql
RETURN timestamptz :'anchor' - interval '1 second' * (86400 * (365
    - pg_temp.grown((i - 1 + pg_temp.u(i, 900)) / rows_in_all)
    + 0.08 * sin(2 * pi() * pg_temp.grown((i - 1 + pg_temp.u(i, 900)) / rows_in_all))));
