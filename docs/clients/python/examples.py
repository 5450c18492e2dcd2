"""Every public function of perf_opt from SQLAlchemy, by what one does with it: read the part you need.

    DATABASE_URL=postgresql+psycopg://... python examples.py        # makes tables of its own: use an empty database

The server preloads perf_opt (`shared_preload_libraries`), the role is a superuser. What is asserted is what one can
rely on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from decimal import Decimal
from typing import Optional

import sqlalchemy as sa
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import perf_opt_models as perf

engine = sa.create_engine(os.environ["DATABASE_URL"])
autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")


class Base(DeclarativeBase):
    """The application's own tables."""


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    total: Mapped[float]


class Event(Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    at: Mapped[dt.datetime] = mapped_column(sa.TIMESTAMP(timezone=True), server_default=func.now())


def application() -> None:
    """Something to look at: tables, and the queries of an application."""
    with engine.begin() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS perf_opt"))
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS dblink"))
        Base.metadata.create_all(connection)
        connection.execute(text("INSERT INTO orders SELECT n, n % 5000, 1 FROM generate_series(1, 100000) n"))
        connection.execute(text("INSERT INTO events (id) SELECT generate_series(1, 100)"))
        connection.execute(text("ANALYZE orders, events"))
        # What the loading has cost would speak against an index that makes loading slower.
        connection.execute(perf.reset())
    with Session(engine) as session:
        for customer in range(20):
            session.scalars(select(Order).where(Order.customer_id == customer)).all()
        session.execute(text("SELECT pg_sleep(0.2)"))


def observe(session: Session) -> None:
    """What runs, what ran, and how long it took."""
    # The columns of rows are typed expressions: filter, order and join them like those of any table.
    top = perf.statements()
    ours = select(top.queryid, top.query, top.calls, top.p99_ms).where(top.query.like("%FROM orders%customer_id%"))
    queryid, query, calls, p99_ms = session.execute(ours.order_by(sa.desc(top.calls)).limit(1)).one()
    assert queryid and query and calls == 20 and p99_ms and p99_ms > 0

    buckets = session.execute(select(perf.latency_histogram(queryid))).all()
    assert sum(bucket.calls for bucket in buckets) == calls

    # An argument may be a column of another function's rows.
    histogram = perf.latency_histogram(top.queryid)
    joined = select(func.sum(histogram.calls)).select_from(top).join(histogram, sa.true())
    assert session.scalar(joined.where(top.queryid == queryid)) == calls

    # Arguments that are not given are the server's defaults; None is NULL, here: all that is kept.
    slow = perf.slow_queries(since=None, min_severity="slow", max_rows=10)
    sleeps = session.execute(select(slow.query, slow.duration_ms).where(slow.query.like("%pg_sleep%"))).all()
    assert len(sleeps) == 1 and sleeps[0].duration_ms >= 200

    pattern = session.execute(select(perf.slow_query_patterns(max_rows=1))).one()
    assert pattern.executions >= 1 and pattern.cause
    trend = perf.slow_query_trend(bucket="10 min", since=func.now() - dt.timedelta(hours=1))
    assert 6 <= len(session.execute(select(trend)).all()) <= 8

    running = perf.active_statements()
    assert session.execute(select(running.query, running.elapsed_ms).where(running.elapsed_ms > 60_000)).all() == []
    health = perf.health()
    assert session.scalars(select(health.component).where(health.status == "error")).all() == []


def recommend(session: Session) -> None:
    """Indexes, and what a statement would cost with them."""
    advice = perf.index_recommendations(time_budget_ms=20_000, storage_budget_bytes=10**9)
    wanted = select(advice.ddl, advice.benefit_pct).where(advice.columns == ["customer_id"])
    ddl, benefit_pct = session.execute(wanted.where(advice.evidence[0]["queryid"].is_not(None))).one()
    assert ddl and ddl.startswith("CREATE INDEX CONCURRENTLY") and benefit_pct and benefit_pct > 0

    statement = "SELECT * FROM orders WHERE customer_id = 7"
    plans = perf.what_if(statement, indexes=["CREATE INDEX ON orders (customer_id)"])
    before, after = session.scalars(select(plans.total_cost)).all()
    assert before and after and after < before / 10
    advice = perf.index_recommendations(queries=[statement], weights=[1000])
    assert session.scalars(select(advice.id)).all()

    # Statements to write otherwise: those of the policy, and those found in the workload.
    rewrites = perf.sql_optimization_examples(include_inapplicable=True)
    assert len(session.execute(select(rewrites.problem, rewrites.after_sql, rewrites.improvement_pct)).all()) >= 3

    # A wish of one's own is a row of a policy table, which is a mapped class.
    session.add(perf.IndexPolicy(policy_no=1001, table_name="orders", columns=["total"], priority="low"))
    session.flush()
    judged = perf.index_recommendations(include_inapplicable=True)
    status, source = session.execute(select(judged.status, judged.source).where(judged.columns == ["total"])).one()
    assert (status, source) == ("not_needed", "policy")
    policy = session.get_one(perf.IndexPolicy, 1001)
    assert policy.origin == "added"
    session.delete(policy)


def ended(session: Session, run_id: Optional[int]) -> Optional[str]:
    """How a run has ended. Indexes are built while nobody keeps a snapshot: `job_wait` gives way to that."""
    status = None
    while status in (None, "queued", "running"):
        session.commit()
        time.sleep(0.05)
        status = session.scalar(perf.job_wait(run_id))
    return status


def act(session: Session) -> None:
    """A recommendation is applied by a job, measured by the statements that come after it, and undone."""
    advice = perf.index_recommendations(time_budget_ms=20_000)
    wanted = select(advice.id).where(advice.columns == ["customer_id"], advice.status == "recommended")
    index_id = session.scalars(wanted).one()
    run_id = session.scalar(perf.apply(index_id))
    assert ended(session, run_id) == "succeeded"
    for customer in range(20):
        session.scalars(select(Order).where(Order.customer_id == customer)).all()
    session.commit()
    gain = perf.verify(index_id)
    assert session.scalar(select(gain.verdict))
    change = session.scalars(select(perf.AppliedChange).where(perf.AppliedChange.recommendation_id == index_id)).one()
    assert change.kind == "index_create" and change.undo_ddl is not None
    run_id = session.scalar(perf.undo(index_id))
    assert ended(session, run_id) == "succeeded"
    session.refresh(change)
    assert change.status == "undone"


def plan_ahead(session: Session) -> None:
    """Metrics, alerts, forecasts, costs."""
    metrics = perf.metrics()
    assert session.scalar(select(metrics.value).where(metrics.name == "database_size_bytes"))
    alerts = perf.alerts(include_ok=True)
    thresholds = session.scalar(select(func.count()).select_from(perf.AlertThreshold))
    assert session.scalar(select(func.count()).select_from(alerts)) == thresholds

    estimate = perf.capacity_estimate(horizons=["6 months", dt.timedelta(days=365)])
    quality = session.execute(select(estimate.metric, estimate.horizon, estimate.quality)).all()
    assert {row.metric for row in quality} == {"database_size", "disk_used", "peak_connections", "qps"}
    assert session.scalar(perf.capacity_sample_now()) is not None
    samples = perf.capacity_samples("database_size_bytes", since=func.now() - dt.timedelta(days=1))
    assert session.scalars(select(samples.value_mean)).all()
    scaling = perf.scaling_recommendations()
    assert session.scalars(select(scaling.kind).where(scaling.kind == "read_replicas")).all()
    verdicts = perf.sharding_advice(nodes=2)
    assert session.scalars(select(verdicts.verdict)).all()
    session.add(perf.Price(item="database_size", kind="current", resource_unit="GiB", unit_price_low=Decimal("0.2")))
    session.flush()
    cost = perf.cost_impact()
    assert session.scalar(select(cost.monthly_cost_high).where(cost.item == "database_size"))

    # The roadmap and the checklist judge what they can; a tick says what only people know.
    roadmap = perf.optimization_roadmap(time_budget_ms=10_000)
    assert session.execute(select(roadmap.task, roadmap.status, roadmap.expected_gain_pct)).all()
    pooling = session.scalars(select(perf.RoadmapTask).where(perf.RoadmapTask.kind == "pooling")).one()
    session.execute(perf.roadmap_tick(pooling.phase, pooling.task_no, note="done by hand"))
    assert session.scalar(perf.roadmap_untick(pooling.phase, pooling.task_no)) is True
    checklist = perf.deployment_checklist()
    manual = select(checklist.phase, checklist.item_no).where(checklist.status == "manual").limit(1)
    stage, item_no = session.execute(manual).one()
    session.execute(perf.checklist_tick(stage, item_no, note="seen"))
    ticked = select(checklist.status).where(checklist.phase == stage, checklist.item_no == item_no)
    assert session.scalar(ticked) == "ticked"
    assert session.scalar(perf.checklist_untick(stage, item_no)) is True

    node = session.scalar(perf.fleet_node_add("replica 1", "host=127.0.0.1 port=1 user=monitor"))
    assert session.get_one(perf.FleetNode, node).name == "replica 1"
    session.execute(perf.fleet_node_remove("replica 1"))


def jobs(session: Session) -> None:
    """SQL by schedule, as its owner."""
    job_id = session.scalar(perf.job_schedule("tidy", "30 2 * * *", "DELETE FROM orders WHERE total = 0",
                                              time_zone="Europe/Berlin", timeout="10 min", max_retries=1))
    session.execute(perf.job_pause(job_id))
    paused = session.get_one(perf.Job, job_id)
    assert paused.paused_until == perf.LATEST  # until it is resumed: Python has no infinite time
    session.execute(perf.job_resume(job_id))
    session.refresh(paused)
    assert paused.paused_until is None and paused.enabled and paused.schedule == "30 2 * * *"

    run_id = session.scalar(perf.job_run_now(job_id))
    session.commit()  # a run starts once it is committed
    assert session.scalar(perf.job_wait(run_id, timeout=dt.timedelta(seconds=30))) == "succeeded"
    session.commit()
    run = session.scalars(select(perf.JobRun).where(perf.JobRun.job_id == job_id)).one()
    assert run.status == "succeeded" and run.finished_at is not None
    assert session.scalar(perf.job_cancel(run_id)) is False  # it has ended
    session.execute(perf.job_unschedule(job_id))


def caches(session: Session) -> None:
    """Results kept in the database, exact under invalidation."""
    session.add(perf.CachePolicy(
        cache_name="orders_of", key_template="orders:{customer_id}", ttl=dt.timedelta(minutes=5),
        compute_sql="SELECT count(*) FROM orders WHERE customer_id = {customer_id}::bigint",
        source_tables=["orders"], query_pattern="SELECT orders.%FROM orders%", invalidated_by=["order_placed"]))
    session.commit()
    assert session.scalar(perf.cached("orders_of", params={"customer_id": 7})) == 20

    # Ask, compute what is missing, put: in one session.
    key = "risk:7"
    value = session.scalar(perf.cache_get(key))
    if value is None:
        value = {"score": 0.2}
        assert session.scalar(perf.cache_put(key, value, ttl=dt.timedelta(minutes=10), tags=["risk"])) is True
    session.commit()
    assert session.scalar(perf.cache_get(key)) == {"score": 0.2}
    assert session.scalar(perf.cache_invalidate(tag="risk")) == 1
    session.commit()
    assert session.scalar(perf.cache_get(key)) is None

    # Computed elsewhere: hand over what was visible before.
    snapshot = session.scalar(perf.cache_snapshot())
    assert session.scalar(perf.cache_put("elsewhere", [1, 2], snapshot=snapshot)) is True

    keys = ["orders:{customer_id}"]
    watch_id = session.scalar(perf.cache_watch("order_placed", "orders", operations=["insert"], keys=keys))
    assert session.get_one(perf.CacheWatch, watch_id).relation == "orders"
    assert session.scalar(perf.cache_unwatch("order_placed", "orders")) is True
    stats = perf.cache_stats()
    assert session.scalar(select(stats.gets).where(stats.name == "orders_of")) == 1
    session.commit()

    strategies = perf.caching_strategies(include_inapplicable=True)
    assert session.scalar(select(strategies.ttl).where(strategies.name == "orders_of")) == dt.timedelta(minutes=5)
    watched = session.scalar(perf.cache_shadow("orders_of", sizes=[1_000_000], ttls=["1 min", dt.timedelta(hours=1)]))
    assert watched and watched >= 1
    session.commit()
    session.execute(select(perf.cache_shadow_results(name="orders_of"))).all()
    session.scalar(perf.cache_shadow("orders_of", on=False))


def maintain(session: Session) -> None:
    """Materialized views, indexes, and warm buffers, as jobs of one's own."""
    session.execute(text("CREATE MATERIALIZED VIEW order_totals AS "
                         "SELECT customer_id, sum(total) FROM orders GROUP BY 1"))
    session.execute(text("CREATE UNIQUE INDEX ON order_totals (customer_id)"))
    job_id = session.scalar(perf.matview_schedule("order_totals", "daily", lock_timeout="5 s"))
    session.flush()
    view = session.scalars(select(perf.Matview).where(perf.Matview.view_name == "public.order_totals")).one()
    assert view.job_id == job_id and view.why_not_concurrent is None
    session.execute(perf.matview_unschedule("order_totals"))
    session.execute(select(perf.matview_policy_apply(schemas=["public"]))).all()

    indexes = perf.index_maintenance(min_size_bytes=0)
    session.execute(select(indexes.ddl, indexes.bloat_pct)).all()
    weekly = session.scalar(perf.index_maintenance_schedule(schedule="0 4 * * SUN", max_duration=dt.timedelta(hours=2)))
    assert session.get_one(perf.Job, weekly).time_zone == "UTC"

    session.scalar(perf.prewarm_schedule(max_bytes=2**30))
    mark = session.scalar(perf.prewarm_mark("SELECT count(*) FROM orders"))
    assert session.get_one(perf.PrewarmStatement, mark).statement == "SELECT count(*) FROM orders"
    session.execute(select(perf.prewarm(max_bytes=2**30))).all()
    assert session.scalar(perf.prewarm_unmark(mark)) is True


def partitions(session: Session) -> None:
    """A table in use becomes partitioned; a job makes partitions and lets go of them."""
    advice = perf.partition_advice(min_size_bytes=0)
    session.execute(select(advice.relation, advice.ddl)).all()
    plan = perf.partition_convert_plan("events", "at", "month")
    assert session.scalars(select(plan.blocker).where(plan.blocker.is_not(None))).all() == []
    session.commit()  # the conversion waits for whoever has read the table
    with autocommit.connect() as connection:  # a procedure commits as it goes
        connection.execute(perf.partition_convert("events", "at", "month", max_lock=dt.timedelta(milliseconds=200)))
    conversion = session.get_one(perf.PartitionConversion, "public.events")
    assert conversion.state == "converted"
    session.commit()
    with autocommit.connect() as connection:
        connection.execute(perf.partition_convert_undo("events"))

    session.execute(text("CREATE TABLE logs (at timestamptz NOT NULL) PARTITION BY RANGE (at)"))
    session.scalar(perf.partition_manage("logs", "month", premake=2, retention="1 year", on_expire="drop"))
    session.commit()
    ticks = perf.partition_tick(parent="logs")
    made = session.scalars(select(ticks.relation).where(ticks.step == "create", ticks.status == "done")).all()
    assert len(made) == 3, made
    problems = perf.partition_check(relation="logs")
    assert session.execute(select(problems.problem, problems.fix_sql)).all() == []
    session.execute(perf.partition_unmanage("logs"))
    session.execute(select(perf.partition_policy_apply(schemas=["public"]))).all()


def baselines(session: Session) -> None:
    """What statements did before a change, and after it."""
    assert session.scalar(perf.baseline_capture("before", note="release 1", keep="1 year")) is not None
    session.commit()
    assert session.get_one(perf.Baseline, "before").note == "release 1"
    compared = perf.baseline_compare("before")
    worse = select(compared.query, compared.mean_ms_before, compared.mean_ms_after).where(compared.verdict == "slower")
    for query, before, after in session.execute(worse):
        print(f"slower: {before:.2f} ms, now {after:.2f} ms: {query}")
    assert session.scalar(perf.baseline_drop("before")) is True


def tell(session: Session) -> None:
    """All of this as text."""
    page: Optional[str] = session.scalar(perf.report(format="html", since=func.now() - dt.timedelta(days=7)))
    assert page and page.startswith("<!doctype html>")
    assert "perf_opt_" in (session.scalar(perf.prometheus_metrics()) or "")
    assert "perf_opt" in (session.scalar(perf.prometheus_rules()) or "")


def policies(session: Session) -> None:
    """The shipped wishes; the views that say what jobs have done; and a clean slate."""
    assert session.scalar(perf.clear_policy())
    assert session.scalar(select(func.count()).select_from(perf.RoadmapTask)) == 0
    assert session.scalar(perf.load_policy(name="gaming_platform"))
    session.expire_all()
    for table in (perf.ScalingTrigger, perf.SqlExample, perf.MatviewPolicy, perf.PartitionPolicy, perf.CapacityPolicy,
                  perf.RoadmapTask, perf.ChecklistItem):
        assert session.scalars(select(table)).first() is not None, table
    for view in (perf.PartitionArchive, perf.PartitionCompression, perf.PrewarmHour):
        assert session.scalars(select(view)).all() == []
    assert session.scalar(perf.reset()) is not None


async def asynchronously() -> None:
    """The same statements, awaited."""
    async_engine = create_async_engine(os.environ["DATABASE_URL"])
    async with AsyncSession(async_engine) as session:
        top = perf.statements()
        assert (await session.scalars(select(top.query).limit(1))).all()
        assert await session.scalar(perf.cache_get("nothing")) is None
        assert await session.get(perf.Job, 0) is None
    await async_engine.dispose()


if __name__ == "__main__":
    application()
    for part in (observe, recommend, act, plan_ahead, jobs, caches, maintain, partitions, baselines, tell, policies):
        with Session(engine) as session:
            part(session)
            session.commit()
    asyncio.run(asynchronously())
    print("all is well")
