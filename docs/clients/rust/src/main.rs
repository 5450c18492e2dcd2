//! Every public function of perf_opt from SeaORM, by what one does with it: read the part you need.
//!
//! `DATABASE_URL=postgres://... cargo run` makes tables of its own: use an empty database of a server that preloads
//! perf_opt, and a superuser. What is asserted is what one can rely on.

#[allow(dead_code)]
mod perf_opt;

use perf_opt as perf;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Alias, Expr, Order};
use sea_orm::{ActiveValue::Set, ConnectOptions, Database, DatabaseConnection, TransactionTrait};

/// The application's own table.
mod orders {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "orders")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub customer_id: i32,
        pub total: f64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Something to look at: tables, and the queries of an application.
async fn application(db: &DatabaseConnection) -> Result<(), DbErr> {
    for statement in [
        "CREATE EXTENSION IF NOT EXISTS perf_opt",
        "CREATE EXTENSION IF NOT EXISTS dblink",
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int NOT NULL, total float8 NOT NULL)",
        "CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())",
        "INSERT INTO orders SELECT n, n % 5000, 1 FROM generate_series(1, 100000) n",
        "INSERT INTO events (id) SELECT generate_series(1, 100)",
        "ANALYZE orders, events",
    ] {
        db.execute_unprepared(statement).await?;
    }
    // What the loading has cost would speak against an index that makes loading slower.
    perf::reset().get(db).await?;
    for customer in 0..20 {
        orders::Entity::find().filter(orders::Column::CustomerId.eq(customer)).all(db).await?;
    }
    db.execute_unprepared("SELECT pg_sleep(0.2)").await?;
    Ok(())
}

/// What runs, what ran, and how long it took.
async fn observe(db: &DatabaseConnection) -> Result<(), DbErr> {
    // Rows are structs; a select can be filtered and ordered before it is fetched.
    let mut top = perf::statements().all_databases(false).select();
    top.and_where(Expr::col(Alias::new("query")).like("%customer_id\" = %"))
        .order_by(Alias::new("calls"), Order::Desc)
        .limit(1);
    let top: Vec<perf::StatementsRow> = perf::fetch(db, &top).await?;
    assert_eq!(top.len(), 1);
    assert_eq!(top[0].calls, Some(20));
    let Some(queryid) = top[0].queryid else { panic!("a statement of our own has a queryid") };
    let buckets = perf::latency_histogram(queryid).all(db).await?;
    assert_eq!(buckets.iter().filter_map(|bucket| bucket.calls).sum::<i64>(), 20);

    // Arguments that are not given are the server's defaults; None is NULL, here: all that is kept.
    let slow = perf::slow_queries().since(None).min_severity("slow").max_rows(10).all(db).await?;
    assert!(slow.iter().any(|one| one.duration_ms > Some(200.0)));
    assert!(!perf::slow_query_patterns().all(db).await?.is_empty());
    assert!(perf::slow_query_trend().bucket("10 min").all(db).await?.len() > 1000);
    perf::active_statements().all(db).await?;
    assert!(perf::health().all(db).await?.iter().all(|one| one.status.as_deref() != Some("error")));
    Ok(())
}

/// Indexes, and what a statement would cost with them.
async fn recommend(db: &DatabaseConnection) -> Result<(), DbErr> {
    let advice =
        perf::index_recommendations().time_budget_ms(20_000).storage_budget_bytes(1_000_000_000).all(db).await?;
    let wanted = advice.iter().find(|one| one.columns.as_deref() == Some(&["customer_id".to_owned()]));
    assert!(wanted.is_some_and(|one| one.evidence.is_some() && one.benefit_pct > Some(0.0)), "{advice:?}");

    let statement = "SELECT * FROM orders WHERE customer_id = 7";
    let plans = perf::what_if(statement).indexes(["CREATE INDEX ON orders (customer_id)"]).all(db).await?;
    assert!(plans[1].total_cost < plans[0].total_cost);
    let advice = perf::index_recommendations().queries([statement]).weights(vec![1000.0]).all(db).await?;
    assert!(!advice.is_empty());

    // Statements to write otherwise: those of the policy, and those found in the workload.
    assert!(perf::sql_optimization_examples().include_inapplicable(true).all(db).await?.len() >= 3);

    // A wish of one's own is a row of a policy table.
    let policy = perf::index_policy::ActiveModel {
        policy_no: Set(1001),
        table_name: Set("orders".to_owned()),
        columns: Set(vec!["total".to_owned()]),
        priority: Set("low".to_owned()),
        ..Default::default()
    };
    let policy = policy.insert(db).await?;
    assert_eq!(policy.origin, "added");
    policy.delete(db).await?;
    Ok(())
}

/// How a run has ended. An index is built concurrently only while nobody keeps a snapshot: `job_wait` gives way to it.
async fn ended(db: &DatabaseConnection, run_id: Option<i64>) -> Result<String, DbErr> {
    loop {
        let status = perf::job_wait(run_id).get(db).await?.unwrap_or_default();
        if status != "queued" && status != "running" {
            return Ok(status);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A recommendation is applied by a job, measured by the statements that come after it, and undone.
async fn act(db: &DatabaseConnection) -> Result<(), DbErr> {
    let advice = perf::index_recommendations().time_budget_ms(20_000).all(db).await?;
    let wanted = advice.iter().find(|one| one.columns.as_deref() == Some(&["customer_id".to_owned()]));
    let id = wanted.and_then(|one| one.id.clone()).unwrap_or_default();
    let run_id = perf::apply(id.as_str()).get(db).await?;
    assert_eq!(ended(db, run_id).await?, "succeeded");
    for customer in 0..20 {
        orders::Entity::find().filter(orders::Column::CustomerId.eq(customer)).all(db).await?;
    }
    assert!(perf::verify(id.as_str()).all(db).await?[0].verdict.is_some());
    let changes = perf::applied_changes::Entity::find()
        .filter(perf::applied_changes::Column::RecommendationId.eq(id.as_str()))
        .all(db)
        .await?;
    assert_eq!(changes[0].kind.as_deref(), Some("index_create"));
    let run_id = perf::undo(id).get(db).await?;
    assert_eq!(ended(db, run_id).await?, "succeeded");
    let change = perf::applied_changes::Entity::find_by_id(changes[0].change_id).one(db).await?;
    assert_eq!(change.and_then(|one| one.status).as_deref(), Some("undone"));
    Ok(())
}

/// Metrics, alerts, forecasts, costs.
async fn plan_ahead(db: &DatabaseConnection) -> Result<(), DbErr> {
    assert!(perf::metrics().all(db).await?.iter().any(|one| one.name.as_deref() == Some("database_size_bytes")));
    let alerts = perf::alerts().include_ok(true).all(db).await?;
    assert_eq!(alerts.len() as u64, perf::alert_threshold::Entity::find().count(db).await?);
    let estimate = perf::capacity_estimate().horizons(["6 months", "1 year"]).all(db).await?;
    assert!(estimate.iter().any(|one| one.metric.as_deref() == Some("qps") && one.horizon.is_some()));
    assert!(perf::capacity_sample_now().get(db).await?.is_some());
    assert!(!perf::capacity_samples("database_size_bytes").since(None).all(db).await?.is_empty());
    assert!(!perf::scaling_recommendations().all(db).await?.is_empty());
    assert!(!perf::sharding_advice().nodes(2).all(db).await?.is_empty());
    assert!(perf::cost_impact().all(db).await?.iter().any(|one| one.item.as_deref() == Some("database_size")));
    assert!(perf::price::Entity::find().count(db).await? > 0);

    // The roadmap and the checklist judge what they can; a tick says what only people know.
    assert!(!perf::optimization_roadmap().time_budget_ms(10_000).all(db).await?.is_empty());
    let pooling = perf::roadmap_task::Entity::find().filter(perf::roadmap_task::Column::Kind.eq("pooling"));
    let pooling = pooling.all(db).await?;
    perf::roadmap_tick(pooling[0].phase, pooling[0].task_no).note("done by hand").run(db).await?;
    assert_eq!(perf::roadmap_untick(pooling[0].phase, pooling[0].task_no).get(db).await?, Some(true));
    let items = perf::deployment_checklist().all(db).await?;
    let manual = items.iter().find(|item| item.status.as_deref() == Some("manual"));
    let (phase, item_no) = manual.and_then(|item| Some((item.phase.clone()?, item.item_no?))).unwrap_or_default();
    perf::checklist_tick(phase.clone(), item_no).note("seen").run(db).await?;
    let items = perf::deployment_checklist().only_phase(phase.as_str()).all(db).await?;
    assert!(items.iter().any(|item| item.item_no == Some(item_no) && item.status.as_deref() == Some("ticked")));
    assert_eq!(perf::checklist_untick(phase, item_no).get(db).await?, Some(true));

    let node = perf::fleet_node_add("replica 1", "host=127.0.0.1 port=1 user=monitor").get(db).await?;
    let node = perf::fleet_nodes::Entity::find_by_id(node.unwrap_or(0)).one(db).await?;
    assert!(node.is_some_and(|node| node.name.as_deref() == Some("replica 1")));
    perf::fleet_node_remove("replica 1").run(db).await
}

/// SQL by schedule, as its owner.
async fn jobs(db: &DatabaseConnection) -> Result<(), DbErr> {
    let job = perf::job_schedule("tidy", "30 2 * * *", "DELETE FROM orders WHERE total = 0");
    let job_id = job.time_zone("Europe/Berlin").timeout("10 min").max_retries(1).get(db).await?.unwrap_or(0);
    perf::job_pause(job_id).run(db).await?;
    let paused = perf::jobs::Entity::find_by_id(job_id).one(db).await?;
    // A time that may be infinite is a text.
    assert_eq!(paused.and_then(|job| job.paused_until).as_deref(), Some("infinity"));
    perf::job_resume(job_id).run(db).await?;

    let run_id = perf::job_run_now(job_id).get(db).await?.unwrap_or(0);
    assert_eq!(perf::job_wait(run_id).timeout("30 s").get(db).await?.as_deref(), Some("succeeded"));
    let run = perf::job_runs::Entity::find_by_id(run_id).one(db).await?;
    assert!(run.is_some_and(|run| run.job_id == Some(job_id) && run.finished_at.is_some()));
    assert_eq!(perf::job_cancel(run_id).get(db).await?, Some(false)); // it has ended
    perf::job_unschedule(job_id).run(db).await
}

/// Results kept in the database, exact under invalidation.
async fn caches(db: &DatabaseConnection) -> Result<(), DbErr> {
    let policy = perf::cache_policy::ActiveModel {
        cache_name: Set("orders_of".to_owned()),
        key_template: Set("orders:{customer_id}".to_owned()),
        ttl: Set("5 min".to_owned()),
        source_tables: Set(vec!["orders".to_owned()]),
        query_pattern: Set(Some("SELECT %FROM \"orders\" WHERE %".to_owned())),
        compute_sql: Set(Some("SELECT count(*) FROM orders WHERE customer_id = {customer_id}::bigint".to_owned())),
        invalidated_by: Set(vec!["order_placed".to_owned()]),
        ..Default::default()
    };
    policy.insert(db).await?;
    let value = perf::cached("orders_of").params(Json::from_iter([("customer_id", 7)])).get(db).await?;
    assert_eq!(value, Some(Json::from(20)));

    // Ask, compute what is missing, put: in one session, which a transaction has for sure.
    let session = db.begin().await?;
    assert_eq!(perf::cache_get("risk:7").get(&session).await?, None);
    let put = perf::cache_put("risk:7", Json::from(0.2)).ttl("10 min").tags(["risk"]).get(&session).await?;
    assert_eq!(put, Some(true));
    session.commit().await?;
    assert_eq!(perf::cache_get("risk:7").get(db).await?, Some(Json::from(0.2)));
    assert_eq!(perf::cache_invalidate().tag("risk").get(db).await?, Some(1));
    assert_eq!(perf::cache_get("risk:7").get(db).await?, None);

    // Computed elsewhere: hand over what was visible before.
    let snapshot = perf::cache_snapshot().get(db).await?;
    assert_eq!(perf::cache_put("elsewhere", Json::from(1)).snapshot(snapshot).get(db).await?, Some(true));

    let watch = perf::cache_watch("order_placed", "orders").operations(["insert"]).keys(["orders:{customer_id}"]);
    let watch = perf::cache_watches::Entity::find_by_id(watch.get(db).await?.unwrap_or(0)).one(db).await?;
    assert!(watch.is_some_and(|watch| watch.relation.as_deref() == Some("orders")));
    assert_eq!(perf::cache_unwatch("order_placed", "orders").get(db).await?, Some(true));
    assert!(perf::cache_stats().all(db).await?.iter().any(|one| one.name.as_deref() == Some("orders_of")));

    let strategies = perf::caching_strategies().include_inapplicable(true).all(db).await?;
    assert!(strategies.iter().any(|one| one.ttl.as_deref() == Some("00:05:00")));
    assert!(perf::cache_shadow("orders_of").sizes(vec![1_000_000]).ttls(["1 min", "1 h"]).get(db).await? >= Some(1));
    perf::cache_shadow_results().name("orders_of").all(db).await?;
    perf::cache_shadow("orders_of").on(false).get(db).await?;
    Ok(())
}

/// Materialized views, indexes, and warm buffers, as jobs of one's own.
async fn maintain(db: &DatabaseConnection) -> Result<(), DbErr> {
    db.execute_unprepared(
        "CREATE MATERIALIZED VIEW order_totals AS SELECT customer_id, sum(total) FROM orders GROUP BY 1",
    )
    .await?;
    db.execute_unprepared("CREATE UNIQUE INDEX ON order_totals (customer_id)").await?;
    let job_id = perf::matview_schedule("order_totals", "daily").lock_timeout("5 s").get(db).await?;
    let view = perf::matviews::Entity::find_by_id("public.order_totals").one(db).await?;
    assert_eq!(view.and_then(|view| view.job_id), job_id);
    perf::matview_unschedule("order_totals").run(db).await?;
    perf::matview_policy_apply().schemas(["public"]).all(db).await?;

    perf::index_maintenance().min_size_bytes(0).all(db).await?;
    assert!(perf::index_maintenance_schedule().schedule("0 4 * * SUN").max_duration("2 h").get(db).await?.is_some());
    assert!(perf::prewarm_schedule().max_bytes(1 << 30).get(db).await?.is_some());
    let mark = perf::prewarm_mark("SELECT count(*) FROM orders").get(db).await?.unwrap_or(0);
    assert!(perf::prewarm_statements::Entity::find_by_id(mark).one(db).await?.is_some());
    perf::prewarm().max_bytes(1 << 30).all(db).await?;
    assert_eq!(perf::prewarm_unmark(mark).get(db).await?, Some(true));
    Ok(())
}

/// A table in use becomes partitioned; a job makes partitions and lets go of them.
async fn partitions(db: &DatabaseConnection) -> Result<(), DbErr> {
    perf::partition_advice().min_size_bytes(0).all(db).await?;
    let plan = perf::partition_convert_plan("events", "at", "month").all(db).await?;
    assert!(plan.iter().all(|step| step.blocker.is_none()));
    perf::partition_convert("events", "at", "month").max_lock("200 ms").run(db).await?;
    let conversion = perf::partition_conversions::Entity::find_by_id("public.events").one(db).await?;
    assert_eq!(conversion.and_then(|one| one.state).as_deref(), Some("converted"));
    perf::partition_convert_undo("events").run(db).await?;

    db.execute_unprepared("CREATE TABLE logs (at timestamptz NOT NULL) PARTITION BY RANGE (at)").await?;
    perf::partition_manage("logs", "month").premake(2).retention("1 year").on_expire("drop").get(db).await?;
    let ticks = perf::partition_tick().parent("logs").all(db).await?;
    assert_eq!(ticks.iter().filter(|tick| tick.step.as_deref() == Some("create")).count(), 3);
    assert_eq!(perf::partition_check().relation("logs").all(db).await?, []);
    perf::partition_unmanage("logs").run(db).await?;
    perf::partition_policy_apply().schemas(["public"]).all(db).await?;
    Ok(())
}

/// What statements did before a change, and after it.
async fn baselines(db: &DatabaseConnection) -> Result<(), DbErr> {
    assert!(perf::baseline_capture("before").note("release 1").keep("1 year").get(db).await?.is_some());
    let baseline = perf::baselines::Entity::find_by_id("before").one(db).await?;
    assert_eq!(baseline.and_then(|one| one.note).as_deref(), Some("release 1"));
    let compared = perf::baseline_compare("before").all(db).await?;
    for one in compared.iter().filter(|one| one.verdict.as_deref() == Some("slower")) {
        println!("slower: {:?} ms, now {:?} ms: {:?}", one.mean_ms_before, one.mean_ms_after, one.query);
    }
    assert_eq!(perf::baseline_drop("before").get(db).await?, Some(true));
    Ok(())
}

/// All of this as text.
async fn tell(db: &DatabaseConnection) -> Result<(), DbErr> {
    let page = perf::report().format("html").get(db).await?;
    assert!(page.is_some_and(|page| page.starts_with("<!doctype html>")));
    assert!(perf::prometheus_metrics().get(db).await?.is_some_and(|text| text.contains("perf_opt_")));
    assert!(perf::prometheus_rules().get(db).await?.is_some_and(|text| text.contains("perf_opt_")));
    Ok(())
}

/// The shipped wishes; the views that say what jobs have done; and a clean slate.
async fn policies(db: &DatabaseConnection) -> Result<(), DbErr> {
    assert!(perf::clear_policy().get(db).await? > Some(0));
    assert_eq!(perf::roadmap_task::Entity::find().count(db).await?, 0);
    assert!(perf::load_policy().name("gaming_platform").get(db).await? > Some(0));
    assert!(perf::scaling_trigger::Entity::find().one(db).await?.is_some());
    assert!(perf::sql_example::Entity::find().one(db).await?.is_some());
    assert!(perf::matview_policy::Entity::find().one(db).await?.is_some());
    assert!(perf::partition_policy::Entity::find().one(db).await?.is_some());
    assert!(perf::capacity_policy::Entity::find().one(db).await?.is_some());
    assert!(perf::roadmap_task::Entity::find().one(db).await?.is_some());
    assert!(perf::checklist_item::Entity::find().one(db).await?.is_some());
    assert_eq!(perf::partition_archives::Entity::find().all(db).await?, []);
    assert_eq!(perf::partition_compressions::Entity::find().all(db).await?, []);
    assert_eq!(perf::prewarm_hours::Entity::find().all(db).await?, []);
    assert!(perf::reset().get(db).await?.is_some());
    Ok(())
}

/// What the README of perf_opt shows.
async fn in_short(db: DatabaseConnection) -> Result<(), DbErr> {
    let slow = perf::slow_queries().min_severity("critical").max_rows(20).all(&db).await?;
    let tidy = perf::job_schedule("tidy", "15 min", "DELETE FROM sessions WHERE expires_at < now()").get(&db).await?;
    let failing = perf::jobs::Entity::find().filter(perf::jobs::Column::ConsecutiveFailures.gt(0)).all(&db).await?;
    assert!(slow.iter().all(|one| one.duration_ms > Some(5000.0)) && tidy.is_some() && failing.is_empty());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = ConnectOptions::new(std::env::var("DATABASE_URL")?);
    options.max_connections(1).sqlx_logging(false);
    let db = Database::connect(options).await?;
    application(&db).await?;
    observe(&db).await?;
    recommend(&db).await?;
    act(&db).await?;
    plan_ahead(&db).await?;
    jobs(&db).await?;
    caches(&db).await?;
    maintain(&db).await?;
    partitions(&db).await?;
    baselines(&db).await?;
    tell(&db).await?;
    policies(&db).await?;
    in_short(db).await?;
    println!("all is well");
    Ok(())
}
