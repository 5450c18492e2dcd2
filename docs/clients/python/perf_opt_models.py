"""perf_opt from SQLAlchemy 2, typed: copy this file. It needs a driver (tested with psycopg 3), and no other file.

A function that returns rows is a selectable with typed columns, one that returns a value is an expression, a
procedure is a statement, and a view or a policy table is a mapped class:

    import perf_opt_models as perf

    slow = perf.slow_queries(min_severity="critical")
    session.execute(select(slow.query, slow.duration_ms).where(slow.duration_ms > 10_000))
    session.scalar(perf.cache_get("cache:risk:user:7"))
    session.scalars(select(perf.Job).where(perf.Job.consecutive_failures > 0))
    connection.execute(perf.partition_convert("events", "at", "month"))     # on an AUTOCOMMIT connection

Nothing is run by this module: `Session`, `Connection` and their asynchronous twins take what it gives. Names,
arguments and columns are those of SQL. Arguments that are not given are not sent, so that the server's defaults
hold; None is NULL, which often means something else than the default. An argument may be an expression, such as a
column of another function's rows. Intervals are timedelta or texts such as "6 months"; relations are texts such as
"public.orders". Any column of a function may be NULL: what was not measured is. `\\df+ perf.*` in psql says more of
each function.

The mapped classes have a MetaData of their own: `create_all()` and migrations of an application do not see them.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, Generic, List, Optional, Sequence, TypeVar, Union, overload

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.expression import ClauseElement, ColumnElement, Executable
from sqlalchemy.sql.functions import Function
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

T = TypeVar("T")
# What an argument may be: a value, an expression, or None for NULL.
Arg = Union[T, "ColumnElement[Any]", None]
Interval = Union[dt.timedelta, str]
Time = Union[dt.datetime, str]

# The end of the time that Python knows.
LATEST = dt.datetime(9999, 12, 31, tzinfo=dt.timezone.utc)


class EndlessTime(TypeDecorator[dt.datetime]):
    """A time that may be infinite, which Python's cannot be: it is read as `LATEST`."""

    impl = sa.TIMESTAMP(timezone=True)
    cache_ok = True

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        latest = sa.literal(LATEST, sa.TIMESTAMP(timezone=True))
        return sa.case((column > latest, latest), else_=column)


class _Named(UserDefinedType[str]):
    """A type of PostgreSQL's own whose values are texts here."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        return self.name


class _Nothing(UserDefinedType[None]):
    """void."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "void"

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return lambda value: None


BIGINT: TypeEngine[int] = sa.BigInteger()
BIGINTS: TypeEngine[Sequence[int]] = sa.ARRAY(sa.BigInteger())
BOOLEAN: TypeEngine[bool] = sa.Boolean()
DOUBLE: TypeEngine[float] = sa.Double()
DOUBLES: TypeEngine[Sequence[float]] = sa.ARRAY(sa.Double())
ENDLESS: TypeEngine[dt.datetime] = EndlessTime()
INTEGER: TypeEngine[int] = sa.Integer()
INTERVAL: TypeEngine[dt.timedelta] = pg.INTERVAL()
INTERVALS: TypeEngine[Sequence[dt.timedelta]] = sa.ARRAY(pg.INTERVAL())
JSONB: TypeEngine[Any] = pg.JSONB()
NAMES: TypeEngine[Sequence[str]] = sa.ARRAY(_Named("name"))
NOTHING: TypeEngine[None] = _Nothing()
NUMERIC: TypeEngine[Decimal] = sa.Numeric()
REGCLASS: TypeEngine[str] = _Named("regclass")
REGROLE: TypeEngine[str] = _Named("regrole")
SNAPSHOT: TypeEngine[str] = _Named("pg_snapshot")
TEXT: TypeEngine[str] = sa.Text()
TEXTS: TypeEngine[Sequence[str]] = sa.ARRAY(sa.Text())
TIME: TypeEngine[dt.datetime] = sa.TIMESTAMP(timezone=True)


class _Default:
    """An argument that is left to the server."""

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def __repr__(self) -> str:
        return self.sql


def default(sql: str) -> Any:
    """The server's default, for people to read: it is not sent."""
    return _Default(sql)


def _typed(value: Any, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """A value that no driver can take for one of another type; texts stand for what PostgreSQL reads from them."""
    if isinstance(type_, sa.ARRAY) and isinstance(value, (list, tuple)) and not isinstance(type_.item_type, sa.Text):
        if any(isinstance(item, str) for item in value):
            value = pg.array([_typed(item, type_.item_type) for item in value])
    elif isinstance(value, str) and not isinstance(type_, (sa.Text, pg.JSONB)):
        value = sa.cast(value, TEXT)
    return sa.cast(value, type_)


def _arg(name: str, value: Any, type_: TypeEngine[Any]) -> Optional[ColumnElement[Any]]:
    """`name => value`; None for the server's default."""
    return None if isinstance(value, _Default) else sa.column(name).op("=>")(_typed(value, type_))


def _function(
    name: str, type_: Optional[TypeEngine[Any]], arguments: Sequence[Optional[ColumnElement[Any]]]
) -> Function[Any]:
    given = [argument for argument in arguments if argument is not None]
    return Function(name, *given, type_=type_, packagenames=("perf",))


C = TypeVar("C", bound="Col[Any]")


class Col(Generic[T]):
    """A column of a function's rows."""

    def __init__(self, type_: TypeEngine[T]) -> None:
        self.type = type_

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self: C, rows: None, owner: type) -> C: ...

    @overload
    def __get__(self, rows: "Rows", owner: type) -> ColumnElement[Optional[T]]: ...

    def __get__(self, rows: Optional["Rows"], owner: type) -> Any:
        return self if rows is None else rows.__clause_element__().c[self.name]


class Rows:
    """The rows of a function: stands in FROM, and has its columns as attributes. Two calls are two FROM elements."""

    def __init__(self, *arguments: Optional[ColumnElement[Any]]) -> None:
        found = vars(type(self)).items()
        columns: List[Any] = [sa.column(name, one.type) for name, one in found if isinstance(one, Col)]
        self.__rows = _function(type(self).__name__, None, arguments).table_valued(*columns, joins_implicitly=True)

    # A TableValuedAlias; what SQLAlchemy declares for this method is narrower than what it takes.
    def __clause_element__(self) -> Any:
        return self.__rows


class Call(Executable, ClauseElement):
    """CALL of a procedure. It commits as it goes: run it on an AUTOCOMMIT connection."""

    inherit_cache = False

    def __init__(self, procedure: Function[Any]) -> None:
        self.procedure = procedure


@compiles(Call)
def _compile_call(call: Call, compiler: Any, **options: Any) -> str:
    return "CALL " + str(compiler.process(call.procedure, **options))


class Base(DeclarativeBase):
    """The base of the mapped classes."""

    metadata = sa.MetaData(schema="perf")


# From here on the file is written from the catalogue of a server: docs/clients/README.md says how.
# Policy tables come first, which are yours to edit; then views, then functions.


class AlertThreshold(Base):
    """Thresholds of perf.alerts."""

    __tablename__ = "alert_threshold"

    alert_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    metric: Mapped[str] = mapped_column(TEXT)
    comparison: Mapped[str] = mapped_column(TEXT)
    threshold: Mapped[float] = mapped_column(DOUBLE)
    unit: Mapped[str] = mapped_column(TEXT)
    severity: Mapped[str] = mapped_column(TEXT)
    action: Mapped[str] = mapped_column(TEXT)
    fire_after: Mapped[int] = mapped_column(INTEGER, server_default=sa.FetchedValue())
    clear_after: Mapped[int] = mapped_column(INTEGER, server_default=sa.FetchedValue())
    clear_margin_ratio: Mapped[float] = mapped_column(DOUBLE, server_default=sa.FetchedValue())
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class CachePolicy(Base):
    """Result caches the owner wants."""

    __tablename__ = "cache_policy"

    cache_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    policy_no: Mapped[Optional[int]] = mapped_column(INTEGER)
    key_template: Mapped[str] = mapped_column(TEXT)
    ttl: Mapped[dt.timedelta] = mapped_column(INTERVAL)
    size_low_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    size_high_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    size_per: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())
    invalidated_by: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    used_for: Mapped[Optional[str]] = mapped_column(TEXT)
    source_tables: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    queryid: Mapped[Optional[int]] = mapped_column(BIGINT)
    query_pattern: Mapped[Optional[str]] = mapped_column(TEXT)
    compute_sql: Mapped[Optional[str]] = mapped_column(TEXT)
    max_stale: Mapped[Optional[dt.timedelta]] = mapped_column(INTERVAL)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class CapacityPolicy(Base):
    """What the owner expects of growth."""

    __tablename__ = "capacity_policy"

    metric: Mapped[str] = mapped_column(TEXT, primary_key=True)
    horizon: Mapped[dt.timedelta] = mapped_column(INTERVAL, primary_key=True)
    expected_low: Mapped[float] = mapped_column(DOUBLE)
    expected_high: Mapped[float] = mapped_column(DOUBLE)
    unit: Mapped[str] = mapped_column(TEXT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class ChecklistItem(Base):
    """The deployment checklist."""

    __tablename__ = "checklist_item"

    phase: Mapped[str] = mapped_column(TEXT, primary_key=True)
    item_no: Mapped[int] = mapped_column(INTEGER, primary_key=True, autoincrement=False)
    item: Mapped[str] = mapped_column(TEXT)
    check_name: Mapped[Optional[str]] = mapped_column(TEXT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class IndexPolicy(Base):
    """Indexes the owner of the application wants."""

    __tablename__ = "index_policy"

    policy_no: Mapped[int] = mapped_column(INTEGER, primary_key=True, autoincrement=False)
    table_name: Mapped[str] = mapped_column(TEXT)
    columns: Mapped[List[str]] = mapped_column(TEXTS)
    priority: Mapped[str] = mapped_column(TEXT)
    used_by: Mapped[Optional[str]] = mapped_column(TEXT)
    expected_gain: Mapped[Optional[str]] = mapped_column(TEXT)
    expected_size_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class MatviewPolicy(Base):
    """Materialized views the owner wants and how often they are refreshed."""

    __tablename__ = "matview_policy"

    view_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    schedule: Mapped[str] = mapped_column(TEXT)
    refresh_every: Mapped[dt.timedelta] = mapped_column(INTERVAL)
    source_tables: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    expected_gain: Mapped[Optional[str]] = mapped_column(TEXT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    definition: Mapped[Optional[str]] = mapped_column(TEXT)
    unique_columns: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class PartitionPolicy(Base):
    """Tables the owner wants partitioned by time."""

    __tablename__ = "partition_policy"

    table_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    control_column: Mapped[Optional[str]] = mapped_column(TEXT)
    every: Mapped[str] = mapped_column(TEXT)
    retention: Mapped[Optional[dt.timedelta]] = mapped_column(INTERVAL)
    on_expire: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class Price(Base):
    """Prices, a table to edit."""

    __tablename__ = "price"

    item: Mapped[str] = mapped_column(TEXT, primary_key=True)
    kind: Mapped[str] = mapped_column(TEXT)
    resource_unit: Mapped[str] = mapped_column(TEXT)
    quantity: Mapped[Optional[float]] = mapped_column(DOUBLE)
    unit_price_low: Mapped[Optional[Decimal]] = mapped_column(NUMERIC)
    unit_price_high: Mapped[Optional[Decimal]] = mapped_column(NUMERIC)
    currency: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())
    vcpus: Mapped[Optional[int]] = mapped_column(INTEGER)
    memory_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class RoadmapTask(Base):
    """The owner's optimization roadmap, a row a task."""

    __tablename__ = "roadmap_task"

    phase: Mapped[int] = mapped_column(INTEGER, primary_key=True, autoincrement=False)
    task_no: Mapped[int] = mapped_column(INTEGER, primary_key=True, autoincrement=False)
    phase_name: Mapped[str] = mapped_column(TEXT)
    weeks: Mapped[Optional[str]] = mapped_column(TEXT)
    priority: Mapped[str] = mapped_column(TEXT)
    kind: Mapped[str] = mapped_column(TEXT)
    task: Mapped[str] = mapped_column(TEXT)
    objects: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    phase_gain_low_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)
    phase_gain_high_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)
    phase_effort_low_hours: Mapped[Optional[float]] = mapped_column(DOUBLE)
    phase_effort_high_hours: Mapped[Optional[float]] = mapped_column(DOUBLE)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class ScalingTrigger(Base):
    """When to scale, and how."""

    __tablename__ = "scaling_trigger"

    trigger_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    kind: Mapped[str] = mapped_column(TEXT)
    metric: Mapped[Optional[str]] = mapped_column(TEXT)
    threshold: Mapped[Optional[float]] = mapped_column(DOUBLE)
    unit: Mapped[Optional[str]] = mapped_column(TEXT)
    priority: Mapped[str] = mapped_column(TEXT)
    recommendation: Mapped[str] = mapped_column(TEXT)
    expected_gain: Mapped[Optional[str]] = mapped_column(TEXT)
    settings: Mapped[Any] = mapped_column(JSONB, server_default=sa.FetchedValue())
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class SqlExample(Base):
    """Statements the owner wants rewritten."""

    __tablename__ = "sql_example"

    example_no: Mapped[int] = mapped_column(INTEGER, primary_key=True, autoincrement=False)
    title: Mapped[str] = mapped_column(TEXT)
    source_tables: Mapped[List[str]] = mapped_column(TEXTS, server_default=sa.FetchedValue())
    problem: Mapped[str] = mapped_column(TEXT)
    before_sql: Mapped[str] = mapped_column(TEXT)
    after_sql: Mapped[str] = mapped_column(TEXT)
    supporting_ddl: Mapped[Optional[str]] = mapped_column(TEXT)
    owner_ddl: Mapped[Optional[str]] = mapped_column(TEXT)
    changes_result: Mapped[bool] = mapped_column(BOOLEAN)
    expected_gain: Mapped[Optional[str]] = mapped_column(TEXT)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    origin: Mapped[str] = mapped_column(TEXT, server_default=sa.FetchedValue())


class AppliedChange(Base):
    """Changes made by perf.apply(), by autopilot, and those of others that its guard watches (recommendation_id
    observed:...)."""

    __tablename__ = "applied_changes"

    change_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    recommendation_id: Mapped[Optional[str]] = mapped_column(TEXT)
    kind: Mapped[Optional[str]] = mapped_column(TEXT)
    relation: Mapped[Optional[str]] = mapped_column(TEXT)
    ddl: Mapped[Optional[str]] = mapped_column(TEXT)
    undo_ddl: Mapped[Optional[str]] = mapped_column(TEXT)
    status: Mapped[Optional[str]] = mapped_column(TEXT)
    predicted_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)
    achieved_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)
    applied_by: Mapped[Optional[str]] = mapped_column(TEXT)
    by_autopilot: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    applied_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    verified_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    undone_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    run_id: Mapped[Optional[int]] = mapped_column(BIGINT)
    baseline: Mapped[Optional[str]] = mapped_column(TEXT)
    message: Mapped[Optional[str]] = mapped_column(TEXT)


class Baseline(Base):
    """Baselines that have not expired."""

    __tablename__ = "baselines"

    name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    note: Mapped[Optional[str]] = mapped_column(TEXT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)
    from_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    captured_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    expires_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    statements: Mapped[Optional[int]] = mapped_column(BIGINT)
    calls: Mapped[Optional[int]] = mapped_column(BIGINT)
    total_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    history_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    change_id: Mapped[Optional[int]] = mapped_column(BIGINT)


class CacheWatch(Base):
    """Watches of relations that invalidate caches."""

    __tablename__ = "cache_watches"

    watch_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    event: Mapped[Optional[str]] = mapped_column(TEXT)
    relation: Mapped[Optional[str]] = mapped_column(REGCLASS)
    operations: Mapped[Optional[List[str]]] = mapped_column(TEXTS)
    keys: Mapped[Optional[List[str]]] = mapped_column(TEXTS)
    tags: Mapped[Optional[List[str]]] = mapped_column(TEXTS)
    owner: Mapped[Optional[str]] = mapped_column(REGROLE)
    created_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    is_active: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    missing_columns: Mapped[Optional[List[str]]] = mapped_column(TEXTS)
    missing_relation: Mapped[Optional[str]] = mapped_column(TEXT)


class FleetNode(Base):
    """Standbys that are asked every minute."""

    __tablename__ = "fleet_nodes"

    name: Mapped[Optional[str]] = mapped_column(TEXT)
    status: Mapped[Optional[str]] = mapped_column(TEXT)
    last_seen_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    lag_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    lag_s: Mapped[Optional[float]] = mapped_column(DOUBLE)
    message: Mapped[Optional[str]] = mapped_column(TEXT)
    job_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    checked_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    since_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    qps: Mapped[Optional[float]] = mapped_column(DOUBLE)
    qps_basis: Mapped[Optional[str]] = mapped_column(TEXT)


class JobRun(Base):
    """Runs of your jobs."""

    __tablename__ = "job_runs"

    run_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    job_id: Mapped[Optional[int]] = mapped_column(BIGINT)
    scheduled_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    started_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    finished_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    status: Mapped[Optional[str]] = mapped_column(TEXT)
    attempt: Mapped[Optional[int]] = mapped_column(INTEGER)
    sqlstate: Mapped[Optional[str]] = mapped_column(TEXT)
    message: Mapped[Optional[str]] = mapped_column(TEXT)
    lock_wait_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    detail: Mapped[Any] = mapped_column(JSONB)
    job_name: Mapped[Optional[str]] = mapped_column(TEXT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)
    requested: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    not_before: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    pid: Mapped[Optional[int]] = mapped_column(INTEGER)
    phase: Mapped[Optional[str]] = mapped_column(TEXT)
    phase_done_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)


class Job(Base):
    """Your jobs."""

    __tablename__ = "jobs"

    job_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    name: Mapped[Optional[str]] = mapped_column(TEXT)
    kind: Mapped[Optional[str]] = mapped_column(TEXT)
    target: Mapped[Optional[str]] = mapped_column(TEXT)
    schedule: Mapped[Optional[str]] = mapped_column(TEXT)
    time_zone: Mapped[Optional[str]] = mapped_column(TEXT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)
    enabled: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    paused_until: Mapped[Optional[dt.datetime]] = mapped_column(ENDLESS)
    next_run_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    last_status: Mapped[Optional[str]] = mapped_column(TEXT)
    last_run_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    last_duration_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    consecutive_failures: Mapped[Optional[int]] = mapped_column(INTEGER)
    command: Mapped[Optional[str]] = mapped_column(TEXT)
    priority: Mapped[Optional[int]] = mapped_column(INTEGER)
    catch_up: Mapped[Optional[str]] = mapped_column(TEXT)
    overlap: Mapped[Optional[str]] = mapped_column(TEXT)
    timeout: Mapped[Optional[dt.timedelta]] = mapped_column(INTERVAL)
    lock_timeout: Mapped[Optional[dt.timedelta]] = mapped_column(INTERVAL)
    max_retries: Mapped[Optional[int]] = mapped_column(INTEGER)
    options: Mapped[Any] = mapped_column(JSONB)


class Matview(Base):
    """All materialized views."""

    __tablename__ = "matviews"

    view_name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    populated: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    last_refresh_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    age: Mapped[Optional[dt.timedelta]] = mapped_column(INTERVAL)
    writes_since: Mapped[Optional[int]] = mapped_column(BIGINT)
    schedule: Mapped[Optional[str]] = mapped_column(TEXT)
    time_zone: Mapped[Optional[str]] = mapped_column(TEXT)
    mode: Mapped[Optional[str]] = mapped_column(TEXT)
    next_run_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    why_not_concurrent: Mapped[Optional[str]] = mapped_column(TEXT)
    why_not_skipped: Mapped[Optional[str]] = mapped_column(TEXT)
    job_id: Mapped[Optional[int]] = mapped_column(BIGINT)
    last_status: Mapped[Optional[str]] = mapped_column(TEXT)
    last_message: Mapped[Optional[str]] = mapped_column(TEXT)
    last_run_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    last_mode: Mapped[Optional[str]] = mapped_column(TEXT)
    last_duration_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    rows: Mapped[Optional[int]] = mapped_column(BIGINT)
    size_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)


class PartitionArchive(Base):
    """Partitions that your jobs have archived to files."""

    __tablename__ = "partition_archives"

    relation: Mapped[str] = mapped_column(TEXT, primary_key=True)
    parent: Mapped[Optional[str]] = mapped_column(TEXT)
    bounds: Mapped[Optional[str]] = mapped_column(TEXT)
    archived_at: Mapped[dt.datetime] = mapped_column(TIME, primary_key=True)
    file: Mapped[Optional[str]] = mapped_column(TEXT)
    rows: Mapped[Optional[int]] = mapped_column(BIGINT)
    table_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    content_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    file_bytes: Mapped[Optional[int]] = mapped_column(BIGINT)
    sha256: Mapped[Optional[str]] = mapped_column(TEXT)
    load_sql: Mapped[Optional[str]] = mapped_column(TEXT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)


class PartitionCompression(Base):
    """What became of old partitions that your jobs were to compress."""

    __tablename__ = "partition_compressions"

    relation: Mapped[str] = mapped_column(TEXT, primary_key=True)
    parent: Mapped[Optional[str]] = mapped_column(TEXT)
    outcome: Mapped[Optional[str]] = mapped_column(TEXT)
    reason: Mapped[Optional[str]] = mapped_column(TEXT)
    ordered_by: Mapped[Optional[str]] = mapped_column(TEXT)
    rows: Mapped[Optional[int]] = mapped_column(BIGINT)
    bytes_before: Mapped[Optional[int]] = mapped_column(BIGINT)
    bytes_after: Mapped[Optional[int]] = mapped_column(BIGINT)
    compressed_at: Mapped[dt.datetime] = mapped_column(TIME, primary_key=True)
    is_current: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)


class PartitionConversion(Base):
    """Your conversions of plain tables into partitioned ones."""

    __tablename__ = "partition_conversions"

    relation: Mapped[str] = mapped_column(TEXT, primary_key=True)
    state: Mapped[Optional[str]] = mapped_column(TEXT)
    step: Mapped[Optional[str]] = mapped_column(TEXT)
    control: Mapped[Optional[str]] = mapped_column(TEXT)
    every: Mapped[Optional[str]] = mapped_column(TEXT)
    time_zone: Mapped[Optional[str]] = mapped_column(TEXT)
    boundary: Mapped[Optional[str]] = mapped_column(TEXT)
    first_partition: Mapped[Optional[str]] = mapped_column(TEXT)
    exclusive_lock_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    started_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    converted_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)


class PrewarmHour(Base):
    """How the hours went that your prewarm job warmed or held out."""

    __tablename__ = "prewarm_hours"

    job_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    hour_at: Mapped[dt.datetime] = mapped_column(TIME, primary_key=True)
    warmed: Mapped[Optional[bool]] = mapped_column(BOOLEAN)
    loaded_blocks: Mapped[Optional[int]] = mapped_column(BIGINT)
    read_blocks: Mapped[Optional[int]] = mapped_column(BIGINT)
    touched: Mapped[Optional[float]] = mapped_column(DOUBLE)
    reads: Mapped[Optional[float]] = mapped_column(DOUBLE)
    hit_pct: Mapped[Optional[float]] = mapped_column(DOUBLE)


class PrewarmStatement(Base):
    """Statements that you have marked for your prewarm job."""

    __tablename__ = "prewarm_statements"

    statement_id: Mapped[int] = mapped_column(BIGINT, primary_key=True, autoincrement=False)
    statement: Mapped[Optional[str]] = mapped_column(TEXT)
    queryid: Mapped[Optional[int]] = mapped_column(BIGINT)
    marked_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    last_run_at: Mapped[Optional[dt.datetime]] = mapped_column(TIME)
    last_ms: Mapped[Optional[float]] = mapped_column(DOUBLE)
    last_error: Mapped[Optional[str]] = mapped_column(TEXT)
    owner: Mapped[Optional[str]] = mapped_column(TEXT)


class active_statements(Rows):
    """Statements running now, longest first."""

    pid = Col(INTEGER)
    queryid = Col(BIGINT)
    query = Col(TEXT)
    started_at = Col(TIME)
    elapsed_ms = Col(DOUBLE)
    severity = Col(TEXT)
    wait_event_type = Col(TEXT)
    wait_event = Col(TEXT)
    database = Col(TEXT)
    username = Col(TEXT)
    application_name = Col(TEXT)

    def __init__(self) -> None:
        super().__init__()


class alerts(Rows):
    """Alerts of this database that are firing, or of which nothing is known."""

    name = Col(TEXT)
    severity = Col(TEXT)
    status = Col(TEXT)
    value = Col(DOUBLE)
    threshold = Col(DOUBLE)
    unit = Col(TEXT)
    since_at = Col(TIME)
    action = Col(TEXT)

    def __init__(self, *, include_ok: Arg[bool] = default("false")) -> None:
        super().__init__(_arg("include_ok", include_ok, BOOLEAN))


def apply(recommendation_id: Arg[str]) -> Function[int]:
    """Carries out a recommendation of perf.index_recommendations()."""
    return _function("apply", BIGINT, [_arg("recommendation_id", recommendation_id, TEXT)])


def baseline_capture(
    name: Arg[str],
    *,
    note: Arg[str] = default("NULL::text"),
    since: Arg[Time] = default("(now() - '24:00:00'::interval)"),
    keep: Arg[Interval] = default("'1 year'::interval"),
) -> Function[int]:
    """Keeps what the statements of the current database did since a time, under a name, to be compared with later."""
    return _function("baseline_capture", BIGINT, [
        _arg("name", name, TEXT),
        _arg("note", note, TEXT),
        _arg("since", since, TIME),
        _arg("keep", keep, INTERVAL),
    ])


class baseline_compare(Rows):
    """Statement by statement, what has changed between two baselines."""

    queryid = Col(BIGINT)
    query = Col(TEXT)
    calls_before = Col(BIGINT)
    calls_after = Col(BIGINT)
    mean_ms_before = Col(DOUBLE)
    mean_ms_after = Col(DOUBLE)
    p95_ms_before = Col(DOUBLE)
    p95_ms_after = Col(DOUBLE)
    p99_ms_before = Col(DOUBLE)
    p99_ms_after = Col(DOUBLE)
    change_pct = Col(DOUBLE)
    verdict = Col(TEXT)

    def __init__(self, before: Arg[str], *, after: Arg[str] = default("NULL::text")) -> None:
        super().__init__(_arg("before", before, TEXT), _arg("after", after, TEXT))


def baseline_drop(name: Arg[str]) -> Function[bool]:
    """Removes a baseline of one's own, or of a role whose rights one has."""
    return _function("baseline_drop", BOOLEAN, [_arg("name", name, TEXT)])


def cache_get(key: Arg[str]) -> Function[Any]:
    """The value of a key in the namespace of the current role (or of the role that perf_opt.cache_role names),
    jsonb."""
    return _function("cache_get", JSONB, [_arg("key", key, TEXT)])


def cache_invalidate(
    *,
    event: Arg[str] = default("NULL::text"),
    key: Arg[str] = default("NULL::text"),
    tag: Arg[str] = default("NULL::text"),
) -> Function[int]:
    """Makes entries invalid as soon as this transaction is committed, and values that were computed before, whenever
    they are put."""
    return _function("cache_invalidate", BIGINT, [
        _arg("event", event, TEXT),
        _arg("key", key, TEXT),
        _arg("tag", tag, TEXT),
    ])


def cache_put(
    key: Arg[str],
    value: Arg[Any],
    *,
    ttl: Arg[Interval] = default("NULL::interval"),
    tags: Arg[Sequence[str]] = default("'{}'::text[]"),
    snapshot: Arg[str] = default("NULL::pg_snapshot"),
) -> Function[bool]:
    """Stores a value in the cache of this database, in the namespace of the current role (or of the role that
    perf_opt.cache_role names)."""
    return _function("cache_put", BOOLEAN, [
        _arg("key", key, TEXT),
        _arg("value", value, JSONB),
        _arg("ttl", ttl, INTERVAL),
        _arg("tags", tags, TEXTS),
        _arg("snapshot", snapshot, SNAPSHOT),
    ])


def cache_shadow(
    name: Arg[str],
    *,
    on: Arg[bool] = default("true"),
    sizes: Arg[Sequence[int]] = default("NULL::bigint[]"),
    ttls: Arg[Sequence[Interval]] = default("NULL::interval[]"),
) -> Function[int]:
    """Switches on (or off) the shadow of a caching strategy."""
    return _function("cache_shadow", BIGINT, [
        _arg("name", name, TEXT),
        _arg("on", on, BOOLEAN),
        _arg("sizes", sizes, BIGINTS),
        _arg("ttls", ttls, INTERVALS),
    ])


class cache_shadow_results(Rows):
    """What caches of several sizes and times to live would have done for strategies that are or were shadowed
    (perf.cache_shadow)."""

    strategy = Col(TEXT)
    switched_on = Col(BOOLEAN)
    size_bytes = Col(BIGINT)
    ttl = Col(INTERVAL)
    gets = Col(BIGINT)
    hits = Col(BIGINT)
    hit_pct = Col(DOUBLE)
    entries = Col(BIGINT)
    entries_bytes = Col(BIGINT)
    evicted = Col(BIGINT)
    expired = Col(BIGINT)
    invalidated = Col(BIGINT)
    sampled_pct = Col(DOUBLE)
    note = Col(TEXT)
    measured_at = Col(TIME)

    def __init__(self, *, name: Arg[str] = default("NULL::text")) -> None:
        super().__init__(_arg("name", name, TEXT))


def cache_snapshot() -> Function[str]:
    """What the current statement sees, pg_snapshot, for the argument snapshot of perf.cache_put() when a value is
    computed in another session than the one that puts it."""
    return _function("cache_snapshot", SNAPSHOT, [])


class cache_stats(Rows):
    """What the cache of this database holds and how it fares, one row for each policy in perf.cache_policy and (other)
    for keys that match none."""

    name = Col(TEXT)
    entries = Col(BIGINT)
    bytes = Col(BIGINT)
    gets = Col(BIGINT)
    hits = Col(BIGINT)
    hit_pct = Col(DOUBLE)
    puts = Col(BIGINT)
    refused_puts = Col(BIGINT)
    invalidations = Col(BIGINT)
    expired = Col(BIGINT)

    def __init__(self) -> None:
        super().__init__()


def cache_unwatch(event: Arg[str], relation: Arg[str]) -> Function[bool]:
    """Ends the watch of a relation for an event."""
    return _function("cache_unwatch", BOOLEAN, [_arg("event", event, TEXT), _arg("relation", relation, REGCLASS)])


def cache_watch(
    event: Arg[str],
    relation: Arg[str],
    *,
    operations: Arg[Sequence[str]] = default("'{insert,update,delete}'::text[]"),
    keys: Arg[Sequence[str]] = default("NULL::text[]"),
    tags: Arg[Sequence[str]] = default("NULL::text[]"),
) -> Function[int]:
    """Watches a relation."""
    return _function("cache_watch", BIGINT, [
        _arg("event", event, TEXT),
        _arg("relation", relation, REGCLASS),
        _arg("operations", operations, TEXTS),
        _arg("keys", keys, TEXTS),
        _arg("tags", tags, TEXTS),
    ])


def cached(name: Arg[str], *, params: Arg[Any] = default("'{}'::jsonb")) -> Function[Any]:
    """The result of a policy of perf.cache_policy, jsonb."""
    return _function("cached", JSONB, [_arg("name", name, TEXT), _arg("params", params, JSONB)])


class caching_strategies(Rows):
    """Which results to keep in a cache."""

    name = Col(TEXT)
    key_template = Col(TEXT)
    ttl = Col(INTERVAL)
    recommended_ttl = Col(INTERVAL)
    size_bytes = Col(BIGINT)
    invalidated_by = Col(TEXTS)
    used_for = Col(TEXT)
    source = Col(TEXT)
    status = Col(TEXT)
    queryid = Col(BIGINT)
    reads_per_min = Col(DOUBLE)
    writes_per_min = Col(DOUBLE)
    expected_hit_pct = Col(DOUBLE)
    measured_hit_pct = Col(DOUBLE)
    saved_ms_per_min = Col(DOUBLE)
    basis = Col(TEXT)
    reason = Col(TEXT)
    evidence = Col(JSONB)

    def __init__(self, *, include_inapplicable: Arg[bool] = default("false")) -> None:
        super().__init__(_arg("include_inapplicable", include_inapplicable, BOOLEAN))


class capacity_estimate(Rows):
    """Projects database_size and disk_used (bytes), peak_connections (highest of a day) and qps (95th percentile of a
    day's minutes) to each horizon."""

    metric = Col(TEXT)
    unit = Col(TEXT)
    horizon = Col(INTERVAL)
    horizon_at = Col(TIME)
    current_value = Col(DOUBLE)
    projected = Col(DOUBLE)
    projected_low = Col(DOUBLE)
    projected_high = Col(DOUBLE)
    growth_per_quarter = Col(DOUBLE)
    trigger_name = Col(TEXT)
    trigger_value = Col(DOUBLE)
    crosses_at = Col(TIME)
    crosses_earliest_at = Col(TIME)
    crosses_latest_at = Col(TIME)
    model = Col(TEXT)
    history_days = Col(DOUBLE)
    backtest_error_pct = Col(DOUBLE)
    backtest_coverage_pct = Col(DOUBLE)
    quality = Col(TEXT)
    basis = Col(TEXT)
    action = Col(TEXT)
    crossings = Col(JSONB)

    def __init__(self, *, horizons: Arg[Sequence[Interval]] = default("'{\"6 mons\",\"1 year\"}'::interval[]")) -> None:
        super().__init__(_arg("horizons", horizons, INTERVALS))


def capacity_sample_now() -> Function[int]:
    """Takes a sample of what is due now, as the collector worker does every minute."""
    return _function("capacity_sample_now", BIGINT, [])


class capacity_samples(Rows):
    """Samples of one metric since a time (NULL: all that is kept), oldest first, at the finest resolution kept for so
    long (1 min: 2 days, 5 min: 14 days, 1 h: 90 days, 1 day: 3 years), the latest ones finer until they are summed
    up."""

    sampled_at = Col(TIME)
    object = Col(TEXT)
    value_min = Col(DOUBLE)
    value_mean = Col(DOUBLE)
    value_p95 = Col(DOUBLE)
    value_max = Col(DOUBLE)

    def __init__(self, metric: Arg[str], *, since: Arg[Time] = default("(now() - '30 days'::interval)")) -> None:
        super().__init__(_arg("metric", metric, TEXT), _arg("since", since, TIME))


def checklist_tick(phase: Arg[str], item_no: Arg[int], *, note: Arg[str] = default("NULL::text")) -> Function[None]:
    """Ticks an item of the checklist off, with who, when and a note."""
    return _function("checklist_tick", NOTHING, [
        _arg("phase", phase, TEXT),
        _arg("item_no", item_no, INTEGER),
        _arg("note", note, TEXT),
    ])


def checklist_untick(phase: Arg[str], item_no: Arg[int]) -> Function[bool]:
    """Takes the tick of an item away."""
    return _function("checklist_untick", BOOLEAN, [_arg("phase", phase, TEXT), _arg("item_no", item_no, INTEGER)])


def clear_policy() -> Function[int]:
    """Empties all policy tables."""
    return _function("clear_policy", BIGINT, [])


class cost_impact(Rows):
    """What this server uses and what is to be added, in units of resources, and what that costs a month by the table
    perf.price."""

    item = Col(TEXT)
    quantity = Col(DOUBLE)
    resource_unit = Col(TEXT)
    unit_price = Col(DOUBLE)
    monthly_cost_low = Col(DOUBLE)
    monthly_cost_high = Col(DOUBLE)
    currency = Col(TEXT)
    basis = Col(TEXT)
    note = Col(TEXT)

    def __init__(self) -> None:
        super().__init__()


class deployment_checklist(Rows):
    """The items of perf.checklist_item, each checked now where the server can."""

    phase = Col(TEXT)
    item_no = Col(INTEGER)
    item = Col(TEXT)
    status = Col(TEXT)
    detail = Col(TEXT)

    def __init__(self, *, only_phase: Arg[str] = default("NULL::text")) -> None:
        super().__init__(_arg("only_phase", only_phase, TEXT))


def fleet_node_add(name: Arg[str], conninfo: Arg[str]) -> Function[int]:
    """Has this server ask one of its standbys every minute, as your job "fleet NAME"."""
    return _function("fleet_node_add", BIGINT, [_arg("name", name, TEXT), _arg("conninfo", conninfo, TEXT)])


def fleet_node_remove(name: Arg[str]) -> Function[None]:
    """Stops asking a standby, and forgets what it said."""
    return _function("fleet_node_remove", NOTHING, [_arg("name", name, TEXT)])


class health(Rows):
    """State of perf_opt itself, one row for each component."""

    component = Col(TEXT)
    status = Col(TEXT)
    detail = Col(TEXT)
    value = Col(DOUBLE)
    measured_at = Col(TIME)

    def __init__(self) -> None:
        super().__init__()


class index_maintenance(Rows):
    """Lists the indexes that are bloated, or left behind by a rebuild that did not end (_ccnew, _ccold), of the tables
    that you may read."""

    relation = Col(TEXT)
    index = Col(TEXT)
    size_bytes = Col(BIGINT)
    estimated_bytes = Col(BIGINT)
    bloat_pct = Col(DOUBLE)
    action = Col(TEXT)
    ddl = Col(TEXT)
    reason = Col(TEXT)
    run_id = Col(BIGINT)

    def __init__(
        self,
        *,
        max_bloat_pct: Arg[float] = default("40"),
        dry_run: Arg[bool] = default("true"),
        min_size_bytes: Arg[int] = default("10485760"),
        max_duration: Arg[Interval] = default("'01:00:00'::interval"),
        lock_timeout: Arg[Interval] = default("'00:01:00'::interval"),
        min_free_bytes: Arg[int] = default("1073741824"),
    ) -> None:
        super().__init__(
            _arg("max_bloat_pct", max_bloat_pct, DOUBLE),
            _arg("dry_run", dry_run, BOOLEAN),
            _arg("min_size_bytes", min_size_bytes, BIGINT),
            _arg("max_duration", max_duration, INTERVAL),
            _arg("lock_timeout", lock_timeout, INTERVAL),
            _arg("min_free_bytes", min_free_bytes, BIGINT),
        )


def index_maintenance_schedule(
    *,
    schedule: Arg[str] = default("'weekly'::text"),
    max_bloat_pct: Arg[float] = default("40"),
    time_zone: Arg[str] = default("'UTC'::text"),
    min_size_bytes: Arg[int] = default("10485760"),
    max_duration: Arg[Interval] = default("'01:00:00'::interval"),
    lock_timeout: Arg[Interval] = default("'00:01:00'::interval"),
    min_free_bytes: Arg[int] = default("1073741824"),
) -> Function[int]:
    """Defines or changes your job "scheduled index maintenance", which does what perf.index_maintenance(dry_run =>
    false) does."""
    return _function("index_maintenance_schedule", BIGINT, [
        _arg("schedule", schedule, TEXT),
        _arg("max_bloat_pct", max_bloat_pct, DOUBLE),
        _arg("time_zone", time_zone, TEXT),
        _arg("min_size_bytes", min_size_bytes, BIGINT),
        _arg("max_duration", max_duration, INTERVAL),
        _arg("lock_timeout", lock_timeout, INTERVAL),
        _arg("min_free_bytes", min_free_bytes, BIGINT),
    ])


class index_recommendations(Rows):
    """Recommends indexes for a workload, with evidence, judges every row of perf.index_policy, and says which existing
    indexes to drop or rebuild."""

    id = Col(TEXT)
    priority = Col(TEXT)
    action = Col(TEXT)
    source = Col(TEXT)
    status = Col(TEXT)
    relation = Col(TEXT)
    columns = Col(TEXTS)
    access_method = Col(TEXT)
    ddl = Col(TEXT)
    undo_ddl = Col(TEXT)
    size_bytes = Col(BIGINT)
    benefit_pct = Col(DOUBLE)
    benefit_ms_per_hour = Col(DOUBLE)
    statements_improved = Col(INTEGER)
    best_speedup = Col(DOUBLE)
    write_cost_pct = Col(DOUBLE)
    confidence = Col(TEXT)
    basis = Col(TEXT)
    policy_gain = Col(TEXT)
    reason = Col(TEXT)
    evidence = Col(JSONB)
    achieved_pct = Col(DOUBLE)

    def __init__(
        self,
        *,
        time_budget_ms: Arg[int] = default("5000"),
        storage_budget_bytes: Arg[int] = default("NULL::bigint"),
        include_inapplicable: Arg[bool] = default("false"),
        workload: Arg[str] = default("'captured'::text"),
        queries: Arg[Sequence[str]] = default("NULL::text[]"),
        weights: Arg[Sequence[float]] = default("NULL::double precision[]"),
    ) -> None:
        super().__init__(
            _arg("time_budget_ms", time_budget_ms, INTEGER),
            _arg("storage_budget_bytes", storage_budget_bytes, BIGINT),
            _arg("include_inapplicable", include_inapplicable, BOOLEAN),
            _arg("workload", workload, TEXT),
            _arg("queries", queries, TEXTS),
            _arg("weights", weights, DOUBLES),
        )


def job_cancel(run_id: Arg[int]) -> Function[bool]:
    """Cancels a run that is queued or under way."""
    return _function("job_cancel", BOOLEAN, [_arg("run_id", run_id, BIGINT)])


def job_pause(
    job_id: Arg[int],
    *,
    until: Arg[Time] = default("'infinity'::timestamp with time zone"),
) -> Function[None]:
    """Lets the ticks of a job pass by until a time (infinity: until perf.job_resume)."""
    return _function("job_pause", NOTHING, [_arg("job_id", job_id, BIGINT), _arg("until", until, TIME)])


def job_resume(job_id: Arg[int]) -> Function[None]:
    """Ends a pause, or switches a job on again that perf_opt has switched off."""
    return _function("job_resume", NOTHING, [_arg("job_id", job_id, BIGINT)])


def job_run_now(job_id: Arg[int]) -> Function[int]:
    """Queues a run of a job, as its owner, whatever its schedule says."""
    return _function("job_run_now", BIGINT, [_arg("job_id", job_id, BIGINT)])


def job_schedule(
    name: Arg[str],
    schedule: Arg[str],
    command: Arg[str],
    *,
    time_zone: Arg[str] = default("'UTC'::text"),
    timeout: Arg[Interval] = default("NULL::interval"),
    lock_timeout: Arg[Interval] = default("NULL::interval"),
    max_retries: Arg[int] = default("3"),
    priority: Arg[int] = default("0"),
    catch_up: Arg[str] = default("'run_once'::text"),
    overlap: Arg[str] = default("'skip'::text"),
) -> Function[int]:
    """Defines a job of the current role, or changes its job of that name."""
    return _function("job_schedule", BIGINT, [
        _arg("name", name, TEXT),
        _arg("schedule", schedule, TEXT),
        _arg("command", command, TEXT),
        _arg("time_zone", time_zone, TEXT),
        _arg("timeout", timeout, INTERVAL),
        _arg("lock_timeout", lock_timeout, INTERVAL),
        _arg("max_retries", max_retries, INTEGER),
        _arg("priority", priority, INTEGER),
        _arg("catch_up", catch_up, TEXT),
        _arg("overlap", overlap, TEXT),
    ])


def job_unschedule(job_id: Arg[int]) -> Function[None]:
    """Removes a job."""
    return _function("job_unschedule", NOTHING, [_arg("job_id", job_id, BIGINT)])


def job_wait(run_id: Arg[int], *, timeout: Arg[Interval] = default("'00:01:00'::interval")) -> Function[str]:
    """Waits until a run has ended, at most timeout, and returns its status."""
    return _function("job_wait", TEXT, [_arg("run_id", run_id, BIGINT), _arg("timeout", timeout, INTERVAL)])


class latency_histogram(Rows):
    """Latencies of a statement of this database."""

    lower_ms = Col(DOUBLE)
    upper_ms = Col(DOUBLE)
    calls = Col(BIGINT)

    def __init__(self, queryid: Arg[int]) -> None:
        super().__init__(_arg("queryid", queryid, BIGINT))


def load_policy(*, name: Arg[str] = default("'gaming_platform'::text")) -> Function[int]:
    """Loads a shipped policy catalogue again."""
    return _function("load_policy", BIGINT, [_arg("name", name, TEXT)])


class matview_policy_apply(Rows):
    """Creates the views of perf.matview_policy whose source tables are in the given schemas (your search path, unless
    you say otherwise), with the unique indexes that concurrent refreshes need, and schedules all of them."""

    view_name = Col(TEXT)
    action = Col(TEXT)
    ddl = Col(TEXT)
    reason = Col(TEXT)
    job_id = Col(BIGINT)

    def __init__(self, *, schemas: Arg[Sequence[str]] = default("current_schemas(false)")) -> None:
        super().__init__(_arg("schemas", schemas, NAMES))


def matview_schedule(
    view: Arg[str],
    schedule: Arg[str],
    *,
    time_zone: Arg[str] = default("'UTC'::text"),
    mode: Arg[str] = default("'auto'::text"),
    skip_unchanged: Arg[bool] = default("true"),
    timeout: Arg[Interval] = default("'00:15:00'::interval"),
    lock_timeout: Arg[Interval] = default("'00:00:02'::interval"),
    max_retries: Arg[int] = default("3"),
) -> Function[int]:
    """Refreshes a materialized view by schedule, as the current role, which must own it (or, from 17 on, have MAINTAIN
    on it)."""
    return _function("matview_schedule", BIGINT, [
        _arg("view", view, REGCLASS),
        _arg("schedule", schedule, TEXT),
        _arg("time_zone", time_zone, TEXT),
        _arg("mode", mode, TEXT),
        _arg("skip_unchanged", skip_unchanged, BOOLEAN),
        _arg("timeout", timeout, INTERVAL),
        _arg("lock_timeout", lock_timeout, INTERVAL),
        _arg("max_retries", max_retries, INTEGER),
    ])


def matview_unschedule(view: Arg[str]) -> Function[None]:
    """Refreshes a materialized view no more."""
    return _function("matview_unschedule", NOTHING, [_arg("view", view, REGCLASS)])


class metrics(Rows):
    """What can be measured now, one row for each metric and object."""

    name = Col(TEXT)
    value = Col(DOUBLE)
    unit = Col(TEXT)
    scope = Col(TEXT)
    object = Col(TEXT)
    measured_at = Col(TIME)
    span = Col(INTERVAL)
    note = Col(TEXT)

    def __init__(self) -> None:
        super().__init__()


class optimization_roadmap(Rows):
    """The tasks of perf.roadmap_task with what this database says of each."""

    phase = Col(INTEGER)
    phase_name = Col(TEXT)
    priority = Col(TEXT)
    weeks = Col(TEXT)
    task_no = Col(INTEGER)
    task = Col(TEXT)
    status = Col(TEXT)
    expected_gain_pct = Col(DOUBLE)
    gain_basis = Col(TEXT)
    measured_gain_pct = Col(DOUBLE)
    effort_hours_low = Col(DOUBLE)
    effort_hours_high = Col(DOUBLE)
    ddl = Col(TEXT)
    reason = Col(TEXT)

    def __init__(self, *, time_budget_ms: Arg[int] = default("2000")) -> None:
        super().__init__(_arg("time_budget_ms", time_budget_ms, INTEGER))


class partition_advice(Rows):
    """Plain tables that would gain from being partitioned by time, by what the captured workload asks of them."""

    relation = Col(TEXT)
    control_column = Col(TEXT)
    every = Col(TEXT)
    priority = Col(TEXT)
    expected_benefit_pct = Col(DOUBLE)
    basis = Col(TEXT)
    reason = Col(TEXT)
    evidence = Col(JSONB)
    ddl = Col(TEXT)

    def __init__(self, *, min_size_bytes: Arg[int] = default("NULL::bigint")) -> None:
        super().__init__(_arg("min_size_bytes", min_size_bytes, BIGINT))


class partition_check(Rows):
    """What is wrong with partitioned tables, each with SQL that mends it."""

    parent = Col(TEXT)
    problem = Col(TEXT)
    detail = Col(TEXT)
    fix_sql = Col(TEXT)

    def __init__(self, *, relation: Arg[str] = default("NULL::regclass"), as_of: Arg[Time] = default("now()")) -> None:
        super().__init__(_arg("relation", relation, REGCLASS), _arg("as_of", as_of, TIME))


def partition_convert(
    relation: Arg[str],
    control: Arg[str],
    every: Arg[str],
    *,
    max_lock: Arg[Interval] = default("'00:00:00.05'::interval"),
    give_up_after: Arg[Interval] = default("'00:05:00'::interval"),
    time_zone: Arg[str] = default("'UTC'::text"),
    epoch: Arg[str] = default("NULL::text"),
) -> Call:
    """Makes a plain table partitioned by range while it is in use."""
    made = _function("partition_convert", NOTHING, [
        _arg("relation", relation, REGCLASS),
        _arg("control", control, TEXT),
        _arg("every", every, TEXT),
        _arg("max_lock", max_lock, INTERVAL),
        _arg("give_up_after", give_up_after, INTERVAL),
        _arg("time_zone", time_zone, TEXT),
        _arg("epoch", epoch, TEXT),
    ])
    return Call(made)


class partition_convert_plan(Rows):
    """Shows what perf.partition_convert would do to a plain table, and changes nothing."""

    step_no = Col(INTEGER)
    sql = Col(TEXT)
    lock = Col(TEXT)
    blocker = Col(TEXT)

    def __init__(
        self,
        relation: Arg[str],
        control: Arg[str],
        every: Arg[str],
        *,
        time_zone: Arg[str] = default("'UTC'::text"),
        epoch: Arg[str] = default("NULL::text"),
    ) -> None:
        super().__init__(
            _arg("relation", relation, REGCLASS),
            _arg("control", control, TEXT),
            _arg("every", every, TEXT),
            _arg("time_zone", time_zone, TEXT),
            _arg("epoch", epoch, TEXT),
        )


def partition_convert_undo(
    relation: Arg[str],
    *,
    max_lock: Arg[Interval] = default("'00:00:00.05'::interval"),
    give_up_after: Arg[Interval] = default("'00:05:00'::interval"),
) -> Call:
    """Makes a table plain again that perf.partition_convert has converted, or was converting."""
    made = _function("partition_convert_undo", NOTHING, [
        _arg("relation", relation, REGCLASS),
        _arg("max_lock", max_lock, INTERVAL),
        _arg("give_up_after", give_up_after, INTERVAL),
    ])
    return Call(made)


def partition_manage(
    parent: Arg[str],
    every: Arg[str],
    *,
    premake: Arg[int] = default("4"),
    retention: Arg[Interval] = default("NULL::interval"),
    on_expire: Arg[str] = default("'detach'::text"),
    archive_schema: Arg[str] = default("'archive'::text"),
    compress_after: Arg[Interval] = default("NULL::interval"),
    time_zone: Arg[str] = default("'UTC'::text"),
    archive_to: Arg[str] = default("'schema'::text"),
    epoch: Arg[str] = default("NULL::text"),
    max_move_rows: Arg[int] = default("100000"),
) -> Function[int]:
    """Manages the partitions of a table by time, as the current role, which must own it."""
    return _function("partition_manage", BIGINT, [
        _arg("parent", parent, REGCLASS),
        _arg("every", every, TEXT),
        _arg("premake", premake, INTEGER),
        _arg("retention", retention, INTERVAL),
        _arg("on_expire", on_expire, TEXT),
        _arg("archive_schema", archive_schema, TEXT),
        _arg("compress_after", compress_after, INTERVAL),
        _arg("time_zone", time_zone, TEXT),
        _arg("archive_to", archive_to, TEXT),
        _arg("epoch", epoch, TEXT),
        _arg("max_move_rows", max_move_rows, BIGINT),
    ])


class partition_policy_apply(Rows):
    """Manages the tables of perf.partition_policy that are in the given schemas (your search path, unless you say
    otherwise) and partitioned, as the current role, by the every, retention and on_expire of their rows."""

    table_name = Col(TEXT)
    action = Col(TEXT)
    ddl = Col(TEXT)
    reason = Col(TEXT)
    job_id = Col(BIGINT)

    def __init__(self, *, schemas: Arg[Sequence[str]] = default("current_schemas(false)")) -> None:
        super().__init__(_arg("schemas", schemas, NAMES))


class partition_tick(Rows):
    """Does now what is due of the parents that you manage (a superuser: of all), or of one, as if it were as_of, and
    says what was done."""

    relation = Col(TEXT)
    step = Col(TEXT)
    status = Col(TEXT)
    detail = Col(TEXT)

    def __init__(self, *, parent: Arg[str] = default("NULL::regclass"), as_of: Arg[Time] = default("now()")) -> None:
        super().__init__(_arg("parent", parent, REGCLASS), _arg("as_of", as_of, TIME))


def partition_unmanage(parent: Arg[str]) -> Function[None]:
    """Manages the partitions of a table no more."""
    return _function("partition_unmanage", NOTHING, [_arg("parent", parent, REGCLASS)])


class prewarm(Rows):
    """Shows what your prewarm job would do before the hour that contains for_hour (NULL: the next hour)."""

    relation = Col(TEXT)
    statement_id = Col(BIGINT)
    blocks = Col(BIGINT)
    expected_reads = Col(DOUBLE)
    cached_blocks = Col(BIGINT)
    action = Col(TEXT)
    reason = Col(TEXT)
    run_id = Col(BIGINT)

    def __init__(
        self,
        *,
        for_hour: Arg[Time] = default("NULL::timestamp with time zone"),
        max_bytes: Arg[int] = default("NULL::bigint"),
        dry_run: Arg[bool] = default("true"),
    ) -> None:
        super().__init__(
            _arg("for_hour", for_hour, TIME),
            _arg("max_bytes", max_bytes, BIGINT),
            _arg("dry_run", dry_run, BOOLEAN),
        )


def prewarm_mark(statement: Arg[str]) -> Function[int]:
    """Marks one SELECT to be run by your prewarm job ahead of the hours with at least half as many calls of it as its
    busiest hour of the week."""
    return _function("prewarm_mark", BIGINT, [_arg("statement", statement, TEXT)])


def prewarm_schedule(
    *,
    schedule: Arg[str] = default("'50 * * * *'::text"),
    time_zone: Arg[str] = default("'UTC'::text"),
    max_bytes: Arg[int] = default("NULL::bigint"),
    min_gain_pct: Arg[float] = default("10"),
) -> Function[int]:
    """Defines or changes your job "prewarm", which learns what each hour of the week reads and loads it into the buffer
    cache before that hour."""
    return _function("prewarm_schedule", BIGINT, [
        _arg("schedule", schedule, TEXT),
        _arg("time_zone", time_zone, TEXT),
        _arg("max_bytes", max_bytes, BIGINT),
        _arg("min_gain_pct", min_gain_pct, DOUBLE),
    ])


def prewarm_unmark(statement_id: Arg[int]) -> Function[bool]:
    """Takes the mark of a statement away."""
    return _function("prewarm_unmark", BOOLEAN, [_arg("statement_id", statement_id, BIGINT)])


def prometheus_metrics() -> Function[str]:
    """What perf.metrics(), perf.alerts() and perf.health() say now, as text for Prometheus (exposition format
    0.0.4)."""
    return _function("prometheus_metrics", TEXT, [])


def prometheus_rules() -> Function[str]:
    """The rows of perf.alert_threshold as alerting rules for Prometheus."""
    return _function("prometheus_rules", TEXT, [])


def report(
    *,
    format: Arg[str] = default("'text'::text"),
    since: Arg[Time] = default("(now() - '24:00:00'::interval)"),
    compare_to: Arg[str] = default("NULL::text"),
) -> Function[str]:
    """Everything that perf_opt knows of this database and server."""
    return _function("report", TEXT, [
        _arg("format", format, TEXT),
        _arg("since", since, TIME),
        _arg("compare_to", compare_to, TEXT),
    ])


def reset(*, queryid: Arg[int] = default("NULL::bigint"), database: Arg[str] = default("NULL::text")) -> Function[int]:
    """Forgets statements."""
    return _function("reset", BIGINT, [_arg("queryid", queryid, BIGINT), _arg("database", database, TEXT)])


def roadmap_tick(phase: Arg[int], task_no: Arg[int], *, note: Arg[str] = default("NULL::text")) -> Function[None]:
    """Marks a task of the roadmap as done that no server can look at (documents, cold-path queries, pooling, kinds of
    your own)."""
    return _function("roadmap_tick", NOTHING, [
        _arg("phase", phase, INTEGER),
        _arg("task_no", task_no, INTEGER),
        _arg("note", note, TEXT),
    ])


def roadmap_untick(phase: Arg[int], task_no: Arg[int]) -> Function[bool]:
    """Takes the tick of a task away."""
    return _function("roadmap_untick", BOOLEAN, [_arg("phase", phase, INTEGER), _arg("task_no", task_no, INTEGER)])


class scaling_recommendations(Rows):
    """What to do as the load grows, of six kinds, at least one row each."""

    id = Col(TEXT)
    kind = Col(TEXT)
    priority = Col(TEXT)
    triggered = Col(BOOLEAN)
    recommendation = Col(TEXT)
    metric = Col(TEXT)
    measured_value = Col(DOUBLE)
    threshold = Col(DOUBLE)
    unit = Col(TEXT)
    expected_benefit_pct = Col(DOUBLE)
    basis = Col(TEXT)
    config = Col(TEXT)
    reason = Col(TEXT)
    evidence = Col(JSONB)

    def __init__(self) -> None:
        super().__init__()


class sharding_advice(Rows):
    """Whether to split this database over several nodes (Citus), and by what."""

    candidate_key = Col(TEXT)
    verdict = Col(TEXT)
    single_shard_pct = Col(DOUBLE)
    cross_shard_pct = Col(DOUBLE)
    reference_tables = Col(TEXTS)
    colocated_tables = Col(TEXTS)
    imbalance = Col(DOUBLE)
    blockers = Col(TEXTS)
    predicted_speedup = Col(DOUBLE)
    ddl = Col(TEXT)
    reason = Col(TEXT)

    def __init__(self, *, nodes: Arg[int] = default("4")) -> None:
        super().__init__(_arg("nodes", nodes, INTEGER))


class slow_queries(Rows):
    """Executions that took longer than perf_opt.slow_ms, one row each, newest first."""

    captured_at = Col(TIME)
    severity = Col(TEXT)
    duration_ms = Col(DOUBLE)
    rows = Col(BIGINT)
    outcome = Col(TEXT)
    sqlstate = Col(TEXT)
    queryid = Col(BIGINT)
    query = Col(TEXT)
    database = Col(TEXT)
    username = Col(TEXT)
    application_name = Col(TEXT)
    client_addr = Col(TEXT)
    planning_ms = Col(DOUBLE)
    shared_blks_hit = Col(BIGINT)
    shared_blks_read = Col(BIGINT)
    temp_blks_written = Col(BIGINT)
    wal_bytes = Col(BIGINT)
    relations = Col(TEXTS)
    toplevel = Col(BOOLEAN)
    plan = Col(TEXT)

    def __init__(
        self,
        *,
        since: Arg[Time] = default("(now() - '24:00:00'::interval)"),
        min_severity: Arg[str] = default("'slow'::text"),
        max_rows: Arg[int] = default("100"),
        all_databases: Arg[bool] = default("false"),
    ) -> None:
        super().__init__(
            _arg("since", since, TIME),
            _arg("min_severity", min_severity, TEXT),
            _arg("max_rows", max_rows, INTEGER),
            _arg("all_databases", all_databases, BOOLEAN),
        )


class slow_query_patterns(Rows):
    """Statements with at least one execution above perf_opt.slow_ms since the given time, by total time."""

    queryid = Col(BIGINT)
    query = Col(TEXT)
    executions = Col(BIGINT)
    slow = Col(BIGINT)
    critical = Col(BIGINT)
    emergency = Col(BIGINT)
    failures = Col(BIGINT)
    first_seen_at = Col(TIME)
    last_seen_at = Col(TIME)
    total_ms = Col(DOUBLE)
    mean_ms = Col(DOUBLE)
    p50_ms = Col(DOUBLE)
    p95_ms = Col(DOUBLE)
    p99_ms = Col(DOUBLE)
    max_ms = Col(DOUBLE)
    share_pct = Col(DOUBLE)
    cause = Col(TEXT)
    trend = Col(TEXT)
    trend_pct = Col(DOUBLE)
    database = Col(TEXT)

    def __init__(
        self,
        *,
        since: Arg[Time] = default("(now() - '24:00:00'::interval)"),
        max_rows: Arg[int] = default("50"),
        all_databases: Arg[bool] = default("false"),
    ) -> None:
        super().__init__(
            _arg("since", since, TIME),
            _arg("max_rows", max_rows, INTEGER),
            _arg("all_databases", all_databases, BOOLEAN),
        )


class slow_query_trend(Rows):
    """Executions per bucket of time in this database, all statements or one queryid, oldest first."""

    bucket_at = Col(TIME)
    executions = Col(BIGINT)
    slow = Col(BIGINT)
    critical = Col(BIGINT)
    emergency = Col(BIGINT)
    failures = Col(BIGINT)
    mean_ms = Col(DOUBLE)
    p50_ms = Col(DOUBLE)
    p95_ms = Col(DOUBLE)
    p99_ms = Col(DOUBLE)
    slow_per_min = Col(DOUBLE)

    def __init__(
        self,
        *,
        bucket: Arg[Interval] = default("'01:00:00'::interval"),
        since: Arg[Time] = default("(now() - '7 days'::interval)"),
        queryid: Arg[int] = default("NULL::bigint"),
    ) -> None:
        super().__init__(_arg("bucket", bucket, INTERVAL), _arg("since", since, TIME), _arg("queryid", queryid, BIGINT))


class sql_optimization_examples(Rows):
    """How statements could be written better."""

    example_no = Col(INTEGER)
    title = Col(TEXT)
    source = Col(TEXT)
    queryid = Col(BIGINT)
    problem = Col(TEXT)
    before_sql = Col(TEXT)
    after_sql = Col(TEXT)
    supporting_ddl = Col(TEXT)
    changes_result = Col(BOOLEAN)
    cost_before = Col(DOUBLE)
    cost_after = Col(DOUBLE)
    improvement_pct = Col(DOUBLE)
    basis = Col(TEXT)
    policy_gain = Col(TEXT)
    note = Col(TEXT)

    def __init__(self, *, include_inapplicable: Arg[bool] = default("false")) -> None:
        super().__init__(_arg("include_inapplicable", include_inapplicable, BOOLEAN))


class statements(Rows):
    """Every statement in shared memory, one row for each database, user, queryid and level (toplevel or within a
    function)."""

    database = Col(TEXT)
    username = Col(TEXT)
    queryid = Col(BIGINT)
    toplevel = Col(BOOLEAN)
    query = Col(TEXT)
    calls = Col(BIGINT)
    failures = Col(BIGINT)
    rows = Col(BIGINT)
    total_ms = Col(DOUBLE)
    mean_ms = Col(DOUBLE)
    min_ms = Col(DOUBLE)
    max_ms = Col(DOUBLE)
    stddev_ms = Col(DOUBLE)
    p50_ms = Col(DOUBLE)
    p95_ms = Col(DOUBLE)
    p99_ms = Col(DOUBLE)
    plans = Col(BIGINT)
    planning_total_ms = Col(DOUBLE)
    shared_blks_hit = Col(BIGINT)
    shared_blks_read = Col(BIGINT)
    shared_blks_dirtied = Col(BIGINT)
    shared_blks_written = Col(BIGINT)
    temp_blks_read = Col(BIGINT)
    temp_blks_written = Col(BIGINT)
    blk_read_ms = Col(DOUBLE)
    blk_write_ms = Col(DOUBLE)
    wal_records = Col(BIGINT)
    wal_bytes = Col(BIGINT)
    jit_ms = Col(DOUBLE)
    last_sqlstate = Col(TEXT)
    first_seen_at = Col(TIME)
    last_seen_at = Col(TIME)

    def __init__(self, *, all_databases: Arg[bool] = default("false")) -> None:
        super().__init__(_arg("all_databases", all_databases, BOOLEAN))


def undo(recommendation_id: Arg[str]) -> Function[int]:
    """Takes an applied recommendation back."""
    return _function("undo", BIGINT, [_arg("recommendation_id", recommendation_id, TEXT)])


class verify(Rows):
    """Compares what the statements of an applied recommendation have done since with what they did before, and writes
    the verdict down."""

    predicted_pct = Col(DOUBLE)
    achieved_pct = Col(DOUBLE)
    statements = Col(JSONB)
    verdict = Col(TEXT)
    reason = Col(TEXT)

    def __init__(self, recommendation_id: Arg[str]) -> None:
        super().__init__(_arg("recommendation_id", recommendation_id, TEXT))


class what_if(Rows):
    """Plans one statement with and without indexes that do not exist."""

    variant = Col(TEXT)
    total_cost = Col(DOUBLE)
    indexes_used = Col(TEXTS)
    plan = Col(TEXT)
    size_bytes = Col(BIGINT)
    estimated_ms = Col(DOUBLE)
    work = Col(JSONB)

    def __init__(
        self,
        query: Arg[str],
        *,
        indexes: Arg[Sequence[str]] = default("'{}'::text[]"),
        without: Arg[Sequence[str]] = default("'{}'::text[]"),
    ) -> None:
        super().__init__(_arg("query", query, TEXT), _arg("indexes", indexes, TEXTS), _arg("without", without, TEXTS))
