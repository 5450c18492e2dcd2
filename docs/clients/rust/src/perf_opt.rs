//! perf_opt from SeaORM 1.1, typed: copy this file. It needs sea-orm with the features `macros`, `postgres-array`,
//! `sqlx-postgres`, `with-json` and `with-time`, and no other file.
//!
//! ```ignore
//! let slow = perf_opt::slow_queries().min_severity("critical").all(&db).await?;          // rows: Vec<SlowQueriesRow>
//! let value = perf_opt::cache_get("cache:risk:user:7").get(&db).await?;                  // a value: Option<Json>
//! perf_opt::job_pause(7).run(&db).await?;                                                // nothing, and procedures
//! let failing = perf_opt::jobs::Entity::find()                                           // views and policy tables
//!     .filter(perf_opt::jobs::Column::ConsecutiveFailures.gt(0)).all(&db).await?;
//! ```
//!
//! Names, arguments and columns are those of SQL. What must be given is given to the function; what may be
//! given is a method of the same name. Arguments that are not given are not sent, so that the server's
//! defaults hold; `None` is NULL, which often means something else than the default. Intervals and relations
//! are texts, such as "6 months" and "public.orders". Any column of a function may be NULL: what was not
//! measured is. `\df+ perf.*` in psql says more of each function.

use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Alias, Func, Nullable, Query, SelectStatement, SimpleExpr};
use sea_orm::{FromQueryResult, Statement, TryGetable};
use std::marker::PhantomData;

/// timestamptz.
pub type Time = TimeDateTimeWithTimeZone;

/// An argument: a value, or `None` for NULL.
pub struct Arg<T>(Option<T>);

impl<T> From<T> for Arg<T> {
    fn from(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> From<Option<T>> for Arg<T> {
    fn from(value: Option<T>) -> Self {
        Self(value)
    }
}

impl From<&str> for Arg<String> {
    fn from(value: &str) -> Self {
        Self(Some(value.to_owned()))
    }
}

impl<const N: usize> From<[&str; N]> for Arg<Vec<String>> {
    fn from(values: [&str; N]) -> Self {
        Self(Some(values.map(str::to_owned).to_vec()))
    }
}

/// A call of a function that returns `F`, not sent yet.
#[must_use]
pub struct Call<F> {
    arguments: Vec<SimpleExpr>,
    function: PhantomData<F>,
}

impl<F> Call<F> {
    fn new() -> Self {
        Self { arguments: Vec::new(), function: PhantomData }
    }

    /// `"name" => value`, of the type that the function has there.
    fn with<T: Into<Value> + Nullable>(mut self, name: &str, type_name: &str, value: Arg<T>) -> Self {
        let named = format!("\"{name}\" => CAST($1 AS {type_name})");
        self.arguments.push(Expr::cust_with_values(named, [Value::from(value.0)]));
        self
    }

    fn expression(self, function: &str) -> sea_orm::sea_query::FunctionCall {
        Func::cust(Alias::new(format!("perf.{function}"))).args(self.arguments)
    }
}

/// What is read as it is; values of other types are read as text.
const READABLE: [&str; 8] =
    ["bigint", "boolean", "double precision", "integer", "jsonb", "text", "text[]", "timestamp with time zone"];

fn readable(value: SimpleExpr, type_name: &str) -> SimpleExpr {
    if READABLE.contains(&type_name) {
        value
    } else {
        value.cast_as(Alias::new("text"))
    }
}

/// A row of a function.
pub trait Rows: FromQueryResult {
    /// Its name.
    const FUNCTION: &'static str;
    /// The columns and their types.
    const COLUMNS: &'static [(&'static str, &'static str)];
}

impl<R: Rows> Call<R> {
    /// `SELECT ... FROM perf.function(...)`, to be filtered and ordered by the names of its columns, see [`fetch`].
    pub fn select(self) -> SelectStatement {
        let mut select = Query::select();
        for (name, type_name) in R::COLUMNS {
            select.expr_as(readable(Expr::col(Alias::new(*name)).into(), type_name), Alias::new(*name));
        }
        select.from_function(self.expression(R::FUNCTION), Alias::new(R::FUNCTION));
        select
    }

    /// All rows.
    pub async fn all(self, db: &impl ConnectionTrait) -> Result<Vec<R>, DbErr> {
        fetch(db, &self.select()).await
    }
}

/// The rows of a [`Call::select`] that conditions, an order or a limit were added to.
pub async fn fetch<R: Rows>(db: &impl ConnectionTrait, select: &SelectStatement) -> Result<Vec<R>, DbErr> {
    R::find_by_statement(db.get_database_backend().build(select)).all(db).await
}

/// A function that returns a value.
pub trait Scalar {
    /// Its name.
    const FUNCTION: &'static str;
    /// The type of the value.
    const TYPE: &'static str;
    /// The type of the value here.
    type Value: TryGetable;
}

impl<S: Scalar> Call<S> {
    /// The value; `None` is NULL.
    pub async fn get(self, db: &impl ConnectionTrait) -> Result<Option<S::Value>, DbErr> {
        let mut select = Query::select();
        select.expr_as(readable(self.expression(S::FUNCTION).into(), S::TYPE), Alias::new("value"));
        match db.query_one(db.get_database_backend().build(&select)).await? {
            Some(row) => row.try_get("", "value"),
            None => Ok(None),
        }
    }
}

/// A function that returns nothing, or a procedure.
pub trait Action {
    /// Its name.
    const FUNCTION: &'static str;
    /// Whether it is a procedure, which commits as it goes: run it on a connection, not in a transaction.
    const IS_PROCEDURE: bool;
}

impl<A: Action> Call<A> {
    /// Has it done.
    pub async fn run(self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        let backend = db.get_database_backend();
        let Statement { sql, values, .. } = backend.build(Query::select().expr(self.expression(A::FUNCTION)));
        let sql = if A::IS_PROCEDURE { sql.replacen("SELECT", "CALL", 1) } else { sql };
        db.execute(Statement { sql, values, db_backend: backend }).await.map(|_| ())
    }
}

/// `name(required) { optional = what the server takes when it is not given } -> what is returned`.
macro_rules! function {
    ($(#[$doc:meta])* $name:ident($($required:ident: $rt:ty as $rs:literal),* $(,)?)
     { $($optional:ident: $ot:ty as $os:literal = $default:literal),* $(,)? } $marker:ident) => {
        $(#[$doc])*
        pub fn $name($($required: impl Into<Arg<$rt>>),*) -> Call<$marker> {
            Call::new()$(.with(stringify!($required), $rs, $required.into()))*
        }

        impl Call<$marker> {
            $(
                #[doc = concat!("Of type ", $os, ", by default `", $default, "`.")]
                #[allow(clippy::wrong_self_convention)] // as_of
                pub fn $optional(self, value: impl Into<Arg<$ot>>) -> Self {
                    self.with(stringify!($optional), $os, value.into())
                }
            )*
        }
    };
}

/// A function that returns rows.
macro_rules! rows {
    ($(#[$doc:meta])* $name:ident $required:tt $optional:tt
     -> $row:ident { $($column:ident: $ct:ty as $cs:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, FromQueryResult)]
        #[allow(missing_docs)]
        pub struct $row { $(pub $column: Option<$ct>),* }

        impl Rows for $row {
            const FUNCTION: &'static str = stringify!($name);
            const COLUMNS: &'static [(&'static str, &'static str)] = &[$((stringify!($column), $cs)),*];
        }

        function!($(#[$doc])* $name $required $optional $row);
    };
}

/// A function that returns a value.
macro_rules! value {
    ($(#[$doc:meta])* $name:ident $required:tt $optional:tt -> $marker:ident: $type:ty as $sql:literal) => {
        $(#[$doc])*
        pub struct $marker;

        impl Scalar for $marker {
            const FUNCTION: &'static str = stringify!($name);
            const TYPE: &'static str = $sql;
            type Value = $type;
        }

        function!($(#[$doc])* $name $required $optional $marker);
    };
}

/// A function that returns nothing, or a procedure.
macro_rules! action {
    ($(#[$doc:meta])* $name:ident $required:tt $optional:tt -> $marker:ident, procedure: $is_procedure:literal) => {
        $(#[$doc])*
        pub struct $marker;

        impl Action for $marker {
            const FUNCTION: &'static str = stringify!($name);
            const IS_PROCEDURE: bool = $is_procedure;
        }

        function!($(#[$doc])* $name $required $optional $marker);
    };
}

// From here on the file is written from the catalogue of a server: docs/clients/README.md says how.
// Policy tables come first, which are yours to edit; then views, then functions.

/// Thresholds of perf.alerts.
#[allow(missing_docs)]
pub mod alert_threshold {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "alert_threshold")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub alert_name: String,
        pub metric: String,
        pub comparison: String,
        pub threshold: f64,
        pub unit: String,
        pub severity: String,
        pub action: String,
        pub fire_after: i32,
        pub clear_after: i32,
        pub clear_margin_ratio: f64,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Result caches the owner wants.
#[allow(missing_docs)]
pub mod cache_policy {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "cache_policy")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub cache_name: String,
        pub policy_no: Option<i32>,
        pub key_template: String,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub ttl: String,
        pub size_low_bytes: Option<i64>,
        pub size_high_bytes: Option<i64>,
        pub size_per: String,
        pub invalidated_by: Vec<String>,
        pub used_for: Option<String>,
        pub source_tables: Vec<String>,
        pub queryid: Option<i64>,
        pub query_pattern: Option<String>,
        pub compute_sql: Option<String>,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub max_stale: Option<String>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What the owner expects of growth.
#[allow(missing_docs)]
pub mod capacity_policy {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "capacity_policy")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub metric: String,
        #[sea_orm(primary_key, auto_increment = false, select_as = "text", save_as = "interval")]
        pub horizon: String,
        pub expected_low: f64,
        pub expected_high: f64,
        pub unit: String,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The deployment checklist.
#[allow(missing_docs)]
pub mod checklist_item {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "checklist_item")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub phase: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub item_no: i32,
        pub item: String,
        pub check_name: Option<String>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Indexes the owner of the application wants.
#[allow(missing_docs)]
pub mod index_policy {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "index_policy")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub policy_no: i32,
        pub table_name: String,
        pub columns: Vec<String>,
        pub priority: String,
        pub used_by: Option<String>,
        pub expected_gain: Option<String>,
        pub expected_size_bytes: Option<i64>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Materialized views the owner wants and how often they are refreshed.
#[allow(missing_docs)]
pub mod matview_policy {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "matview_policy")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub view_name: String,
        pub schedule: String,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub refresh_every: String,
        pub source_tables: Vec<String>,
        pub expected_gain: Option<String>,
        pub note: Option<String>,
        pub definition: Option<String>,
        pub unique_columns: Vec<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Tables the owner wants partitioned by time.
#[allow(missing_docs)]
pub mod partition_policy {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "partition_policy")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub table_name: String,
        pub control_column: Option<String>,
        pub every: String,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub retention: Option<String>,
        pub on_expire: String,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Prices, a table to edit.
#[allow(missing_docs)]
pub mod price {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "price")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub item: String,
        pub kind: String,
        pub resource_unit: String,
        pub quantity: Option<f64>,
        #[sea_orm(select_as = "double precision", save_as = "numeric")]
        pub unit_price_low: Option<f64>,
        #[sea_orm(select_as = "double precision", save_as = "numeric")]
        pub unit_price_high: Option<f64>,
        pub currency: String,
        pub vcpus: Option<i32>,
        pub memory_bytes: Option<i64>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The owner's optimization roadmap, a row a task.
#[allow(missing_docs)]
pub mod roadmap_task {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "roadmap_task")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub phase: i32,
        #[sea_orm(primary_key, auto_increment = false)]
        pub task_no: i32,
        pub phase_name: String,
        pub weeks: Option<String>,
        pub priority: String,
        pub kind: String,
        pub task: String,
        pub objects: Vec<String>,
        pub phase_gain_low_pct: Option<f64>,
        pub phase_gain_high_pct: Option<f64>,
        pub phase_effort_low_hours: Option<f64>,
        pub phase_effort_high_hours: Option<f64>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// When to scale, and how.
#[allow(missing_docs)]
pub mod scaling_trigger {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "scaling_trigger")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub trigger_name: String,
        pub kind: String,
        pub metric: Option<String>,
        pub threshold: Option<f64>,
        pub unit: Option<String>,
        pub priority: String,
        pub recommendation: String,
        pub expected_gain: Option<String>,
        pub settings: Json,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Statements the owner wants rewritten.
#[allow(missing_docs)]
pub mod sql_example {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "sql_example")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub example_no: i32,
        pub title: String,
        pub source_tables: Vec<String>,
        pub problem: String,
        pub before_sql: String,
        pub after_sql: String,
        pub supporting_ddl: Option<String>,
        pub owner_ddl: Option<String>,
        pub changes_result: bool,
        pub expected_gain: Option<String>,
        pub note: Option<String>,
        pub origin: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Changes made by perf.apply(), by autopilot, and those of others that its guard watches (recommendation_id
/// observed:...).
#[allow(missing_docs)]
pub mod applied_changes {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "applied_changes")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub change_id: i64,
        pub recommendation_id: Option<String>,
        pub kind: Option<String>,
        pub relation: Option<String>,
        pub ddl: Option<String>,
        pub undo_ddl: Option<String>,
        pub status: Option<String>,
        pub predicted_pct: Option<f64>,
        pub achieved_pct: Option<f64>,
        pub applied_by: Option<String>,
        pub by_autopilot: Option<bool>,
        pub applied_at: Option<Time>,
        pub verified_at: Option<Time>,
        pub undone_at: Option<Time>,
        pub run_id: Option<i64>,
        pub baseline: Option<String>,
        pub message: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Baselines that have not expired.
#[allow(missing_docs)]
pub mod baselines {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "baselines")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub note: Option<String>,
        pub owner: Option<String>,
        pub from_at: Option<Time>,
        pub captured_at: Option<Time>,
        pub expires_at: Option<Time>,
        pub statements: Option<i64>,
        pub calls: Option<i64>,
        pub total_ms: Option<f64>,
        pub history_at: Option<Time>,
        pub change_id: Option<i64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Watches of relations that invalidate caches.
#[allow(missing_docs)]
pub mod cache_watches {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "cache_watches")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub watch_id: i64,
        pub event: Option<String>,
        #[sea_orm(select_as = "text", save_as = "regclass")]
        pub relation: Option<String>,
        pub operations: Option<Vec<String>>,
        pub keys: Option<Vec<String>>,
        pub tags: Option<Vec<String>>,
        #[sea_orm(select_as = "text", save_as = "regrole")]
        pub owner: Option<String>,
        pub created_at: Option<Time>,
        pub is_active: Option<bool>,
        pub missing_columns: Option<Vec<String>>,
        pub missing_relation: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Standbys that are asked every minute.
#[allow(missing_docs)]
pub mod fleet_nodes {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "fleet_nodes")]
    pub struct Model {
        pub name: Option<String>,
        pub status: Option<String>,
        pub last_seen_at: Option<Time>,
        pub lag_bytes: Option<i64>,
        pub lag_s: Option<f64>,
        pub message: Option<String>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub job_id: i64,
        pub checked_at: Option<Time>,
        pub since_at: Option<Time>,
        pub qps: Option<f64>,
        pub qps_basis: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Runs of your jobs.
#[allow(missing_docs)]
pub mod job_runs {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "job_runs")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub run_id: i64,
        pub job_id: Option<i64>,
        pub scheduled_at: Option<Time>,
        pub started_at: Option<Time>,
        pub finished_at: Option<Time>,
        pub status: Option<String>,
        pub attempt: Option<i32>,
        pub sqlstate: Option<String>,
        pub message: Option<String>,
        pub lock_wait_ms: Option<f64>,
        pub detail: Option<Json>,
        pub job_name: Option<String>,
        pub owner: Option<String>,
        pub requested: Option<bool>,
        pub not_before: Option<Time>,
        pub pid: Option<i32>,
        pub phase: Option<String>,
        pub phase_done_pct: Option<f64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Your jobs.
#[allow(missing_docs)]
pub mod jobs {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "jobs")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job_id: i64,
        pub name: Option<String>,
        pub kind: Option<String>,
        pub target: Option<String>,
        pub schedule: Option<String>,
        pub time_zone: Option<String>,
        pub owner: Option<String>,
        pub enabled: Option<bool>,
        #[sea_orm(column_type = "Text", select_as = "text", save_as = "timestamp with time zone")]
        pub paused_until: Option<String>,
        pub next_run_at: Option<Time>,
        pub last_status: Option<String>,
        pub last_run_at: Option<Time>,
        pub last_duration_ms: Option<f64>,
        pub consecutive_failures: Option<i32>,
        pub command: Option<String>,
        pub priority: Option<i32>,
        pub catch_up: Option<String>,
        pub overlap: Option<String>,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub timeout: Option<String>,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub lock_timeout: Option<String>,
        pub max_retries: Option<i32>,
        pub options: Option<Json>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// All materialized views.
#[allow(missing_docs)]
pub mod matviews {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "matviews")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub view_name: String,
        pub populated: Option<bool>,
        pub last_refresh_at: Option<Time>,
        #[sea_orm(select_as = "text", save_as = "interval")]
        pub age: Option<String>,
        pub writes_since: Option<i64>,
        pub schedule: Option<String>,
        pub time_zone: Option<String>,
        pub mode: Option<String>,
        pub next_run_at: Option<Time>,
        pub why_not_concurrent: Option<String>,
        pub why_not_skipped: Option<String>,
        pub job_id: Option<i64>,
        pub last_status: Option<String>,
        pub last_message: Option<String>,
        pub last_run_at: Option<Time>,
        pub last_mode: Option<String>,
        pub last_duration_ms: Option<f64>,
        pub rows: Option<i64>,
        pub size_bytes: Option<i64>,
        pub owner: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Partitions that your jobs have archived to files.
#[allow(missing_docs)]
pub mod partition_archives {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "partition_archives")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub relation: String,
        pub parent: Option<String>,
        pub bounds: Option<String>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub archived_at: Time,
        pub file: Option<String>,
        pub rows: Option<i64>,
        pub table_bytes: Option<i64>,
        pub content_bytes: Option<i64>,
        pub file_bytes: Option<i64>,
        pub sha256: Option<String>,
        pub load_sql: Option<String>,
        pub owner: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// What became of old partitions that your jobs were to compress.
#[allow(missing_docs)]
pub mod partition_compressions {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "partition_compressions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub relation: String,
        pub parent: Option<String>,
        pub outcome: Option<String>,
        pub reason: Option<String>,
        pub ordered_by: Option<String>,
        pub rows: Option<i64>,
        pub bytes_before: Option<i64>,
        pub bytes_after: Option<i64>,
        #[sea_orm(primary_key, auto_increment = false)]
        pub compressed_at: Time,
        pub is_current: Option<bool>,
        pub owner: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Your conversions of plain tables into partitioned ones.
#[allow(missing_docs)]
pub mod partition_conversions {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "partition_conversions")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub relation: String,
        pub state: Option<String>,
        pub step: Option<String>,
        pub control: Option<String>,
        pub every: Option<String>,
        pub time_zone: Option<String>,
        pub boundary: Option<String>,
        pub first_partition: Option<String>,
        pub exclusive_lock_ms: Option<f64>,
        pub started_at: Option<Time>,
        pub converted_at: Option<Time>,
        pub owner: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// How the hours went that your prewarm job warmed or held out.
#[allow(missing_docs)]
pub mod prewarm_hours {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "prewarm_hours")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub job_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub hour_at: Time,
        pub warmed: Option<bool>,
        pub loaded_blocks: Option<i64>,
        pub read_blocks: Option<i64>,
        pub touched: Option<f64>,
        pub reads: Option<f64>,
        pub hit_pct: Option<f64>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Statements that you have marked for your prewarm job.
#[allow(missing_docs)]
pub mod prewarm_statements {
    use super::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(schema_name = "perf", table_name = "prewarm_statements")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub statement_id: i64,
        pub statement: Option<String>,
        pub queryid: Option<i64>,
        pub marked_at: Option<Time>,
        pub last_run_at: Option<Time>,
        pub last_ms: Option<f64>,
        pub last_error: Option<String>,
        pub owner: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

rows! {
    /// Statements running now, longest first.
    active_statements() {} -> ActiveStatementsRow {
        pid: i32 as "integer",
        queryid: i64 as "bigint",
        query: String as "text",
        started_at: Time as "timestamp with time zone",
        elapsed_ms: f64 as "double precision",
        severity: String as "text",
        wait_event_type: String as "text",
        wait_event: String as "text",
        database: String as "text",
        username: String as "text",
        application_name: String as "text",
    }
}

rows! {
    /// Alerts of this database that are firing, or of which nothing is known.
    alerts() {
        include_ok: bool as "boolean" = "false",
    } -> AlertsRow {
        name: String as "text",
        severity: String as "text",
        status: String as "text",
        value: f64 as "double precision",
        threshold: f64 as "double precision",
        unit: String as "text",
        since_at: Time as "timestamp with time zone",
        action: String as "text",
    }
}

value! {
    /// Carries out a recommendation of perf.index_recommendations().
    apply(
        recommendation_id: String as "text",
    ) {} -> Apply: i64 as "bigint"
}

value! {
    /// Keeps what the statements of the current database did since a time, under a name, to be compared with later.
    baseline_capture(
        name: String as "text",
    ) {
        note: String as "text" = "NULL::text",
        since: Time as "timestamp with time zone" = "(now() - '24:00:00'::interval)",
        keep: String as "interval" = "'1 year'::interval",
    } -> BaselineCapture: i64 as "bigint"
}

rows! {
    /// Statement by statement, what has changed between two baselines.
    baseline_compare(
        before: String as "text",
    ) {
        after: String as "text" = "NULL::text",
    } -> BaselineCompareRow {
        queryid: i64 as "bigint",
        query: String as "text",
        calls_before: i64 as "bigint",
        calls_after: i64 as "bigint",
        mean_ms_before: f64 as "double precision",
        mean_ms_after: f64 as "double precision",
        p95_ms_before: f64 as "double precision",
        p95_ms_after: f64 as "double precision",
        p99_ms_before: f64 as "double precision",
        p99_ms_after: f64 as "double precision",
        change_pct: f64 as "double precision",
        verdict: String as "text",
    }
}

value! {
    /// Removes a baseline of one's own, or of a role whose rights one has.
    baseline_drop(
        name: String as "text",
    ) {} -> BaselineDrop: bool as "boolean"
}

value! {
    /// The value of a key in the namespace of the current role (or of the role that perf_opt.cache_role names), jsonb.
    cache_get(
        key: String as "text",
    ) {} -> CacheGet: Json as "jsonb"
}

value! {
    /// Makes entries invalid as soon as this transaction is committed, and values that were computed before, whenever
    /// they are put.
    cache_invalidate() {
        event: String as "text" = "NULL::text",
        key: String as "text" = "NULL::text",
        tag: String as "text" = "NULL::text",
    } -> CacheInvalidate: i64 as "bigint"
}

value! {
    /// Stores a value in the cache of this database, in the namespace of the current role (or of the role that
    /// perf_opt.cache_role names).
    cache_put(
        key: String as "text",
        value: Json as "jsonb",
    ) {
        ttl: String as "interval" = "NULL::interval",
        tags: Vec<String> as "text[]" = "'{}'::text[]",
        snapshot: String as "pg_snapshot" = "NULL::pg_snapshot",
    } -> CachePut: bool as "boolean"
}

value! {
    /// Switches on (or off) the shadow of a caching strategy.
    cache_shadow(
        name: String as "text",
    ) {
        on: bool as "boolean" = "true",
        sizes: Vec<i64> as "bigint[]" = "NULL::bigint[]",
        ttls: Vec<String> as "interval[]" = "NULL::interval[]",
    } -> CacheShadow: i64 as "bigint"
}

rows! {
    /// What caches of several sizes and times to live would have done for strategies that are or were shadowed
    /// (perf.cache_shadow).
    cache_shadow_results() {
        name: String as "text" = "NULL::text",
    } -> CacheShadowResultsRow {
        strategy: String as "text",
        switched_on: bool as "boolean",
        size_bytes: i64 as "bigint",
        ttl: String as "interval",
        gets: i64 as "bigint",
        hits: i64 as "bigint",
        hit_pct: f64 as "double precision",
        entries: i64 as "bigint",
        entries_bytes: i64 as "bigint",
        evicted: i64 as "bigint",
        expired: i64 as "bigint",
        invalidated: i64 as "bigint",
        sampled_pct: f64 as "double precision",
        note: String as "text",
        measured_at: Time as "timestamp with time zone",
    }
}

value! {
    /// What the current statement sees, pg_snapshot, for the argument snapshot of perf.cache_put() when a value is
    /// computed in another session than the one that puts it.
    cache_snapshot() {} -> CacheSnapshot: String as "pg_snapshot"
}

rows! {
    /// What the cache of this database holds and how it fares, one row for each policy in perf.cache_policy and (other)
    /// for keys that match none.
    cache_stats() {} -> CacheStatsRow {
        name: String as "text",
        entries: i64 as "bigint",
        bytes: i64 as "bigint",
        gets: i64 as "bigint",
        hits: i64 as "bigint",
        hit_pct: f64 as "double precision",
        puts: i64 as "bigint",
        refused_puts: i64 as "bigint",
        invalidations: i64 as "bigint",
        expired: i64 as "bigint",
    }
}

value! {
    /// Ends the watch of a relation for an event.
    cache_unwatch(
        event: String as "text",
        relation: String as "regclass",
    ) {} -> CacheUnwatch: bool as "boolean"
}

value! {
    /// Watches a relation.
    cache_watch(
        event: String as "text",
        relation: String as "regclass",
    ) {
        operations: Vec<String> as "text[]" = "'{insert,update,delete}'::text[]",
        keys: Vec<String> as "text[]" = "NULL::text[]",
        tags: Vec<String> as "text[]" = "NULL::text[]",
    } -> CacheWatch: i64 as "bigint"
}

value! {
    /// The result of a policy of perf.cache_policy, jsonb.
    cached(
        name: String as "text",
    ) {
        params: Json as "jsonb" = "'{}'::jsonb",
    } -> Cached: Json as "jsonb"
}

rows! {
    /// Which results to keep in a cache.
    caching_strategies() {
        include_inapplicable: bool as "boolean" = "false",
    } -> CachingStrategiesRow {
        name: String as "text",
        key_template: String as "text",
        ttl: String as "interval",
        recommended_ttl: String as "interval",
        size_bytes: i64 as "bigint",
        invalidated_by: Vec<String> as "text[]",
        used_for: String as "text",
        source: String as "text",
        status: String as "text",
        queryid: i64 as "bigint",
        reads_per_min: f64 as "double precision",
        writes_per_min: f64 as "double precision",
        expected_hit_pct: f64 as "double precision",
        measured_hit_pct: f64 as "double precision",
        saved_ms_per_min: f64 as "double precision",
        basis: String as "text",
        reason: String as "text",
        evidence: Json as "jsonb",
    }
}

rows! {
    /// Projects database_size and disk_used (bytes), peak_connections (highest of a day) and qps (95th percentile of a
    /// day's minutes) to each horizon.
    capacity_estimate() {
        horizons: Vec<String> as "interval[]" = "'{\"6 mons\",\"1 year\"}'::interval[]",
    } -> CapacityEstimateRow {
        metric: String as "text",
        unit: String as "text",
        horizon: String as "interval",
        horizon_at: Time as "timestamp with time zone",
        current_value: f64 as "double precision",
        projected: f64 as "double precision",
        projected_low: f64 as "double precision",
        projected_high: f64 as "double precision",
        growth_per_quarter: f64 as "double precision",
        trigger_name: String as "text",
        trigger_value: f64 as "double precision",
        crosses_at: Time as "timestamp with time zone",
        crosses_earliest_at: Time as "timestamp with time zone",
        crosses_latest_at: Time as "timestamp with time zone",
        model: String as "text",
        history_days: f64 as "double precision",
        backtest_error_pct: f64 as "double precision",
        backtest_coverage_pct: f64 as "double precision",
        quality: String as "text",
        basis: String as "text",
        action: String as "text",
        crossings: Json as "jsonb",
    }
}

value! {
    /// Takes a sample of what is due now, as the collector worker does every minute.
    capacity_sample_now() {} -> CapacitySampleNow: i64 as "bigint"
}

rows! {
    /// Samples of one metric since a time (NULL: all that is kept), oldest first, at the finest resolution kept for so
    /// long (1 min: 2 days, 5 min: 14 days, 1 h: 90 days, 1 day: 3 years), the latest ones finer until they are summed
    /// up.
    capacity_samples(
        metric: String as "text",
    ) {
        since: Time as "timestamp with time zone" = "(now() - '30 days'::interval)",
    } -> CapacitySamplesRow {
        sampled_at: Time as "timestamp with time zone",
        object: String as "text",
        value_min: f64 as "double precision",
        value_mean: f64 as "double precision",
        value_p95: f64 as "double precision",
        value_max: f64 as "double precision",
    }
}

action! {
    /// Ticks an item of the checklist off, with who, when and a note.
    checklist_tick(
        phase: String as "text",
        item_no: i32 as "integer",
    ) {
        note: String as "text" = "NULL::text",
    } -> ChecklistTick, procedure: false
}

value! {
    /// Takes the tick of an item away.
    checklist_untick(
        phase: String as "text",
        item_no: i32 as "integer",
    ) {} -> ChecklistUntick: bool as "boolean"
}

value! {
    /// Empties all policy tables.
    clear_policy() {} -> ClearPolicy: i64 as "bigint"
}

rows! {
    /// What this server uses and what is to be added, in units of resources, and what that costs a month by the table
    /// perf.price.
    cost_impact() {} -> CostImpactRow {
        item: String as "text",
        quantity: f64 as "double precision",
        resource_unit: String as "text",
        unit_price: f64 as "double precision",
        monthly_cost_low: f64 as "double precision",
        monthly_cost_high: f64 as "double precision",
        currency: String as "text",
        basis: String as "text",
        note: String as "text",
    }
}

rows! {
    /// The items of perf.checklist_item, each checked now where the server can.
    deployment_checklist() {
        only_phase: String as "text" = "NULL::text",
    } -> DeploymentChecklistRow {
        phase: String as "text",
        item_no: i32 as "integer",
        item: String as "text",
        status: String as "text",
        detail: String as "text",
    }
}

value! {
    /// Has this server ask one of its standbys every minute, as your job "fleet NAME".
    fleet_node_add(
        name: String as "text",
        conninfo: String as "text",
    ) {} -> FleetNodeAdd: i64 as "bigint"
}

action! {
    /// Stops asking a standby, and forgets what it said.
    fleet_node_remove(
        name: String as "text",
    ) {} -> FleetNodeRemove, procedure: false
}

rows! {
    /// State of perf_opt itself, one row for each component.
    health() {} -> HealthRow {
        component: String as "text",
        status: String as "text",
        detail: String as "text",
        value: f64 as "double precision",
        measured_at: Time as "timestamp with time zone",
    }
}

rows! {
    /// Lists the indexes that are bloated, or left behind by a rebuild that did not end (_ccnew, _ccold), of the tables
    /// that you may read.
    index_maintenance() {
        max_bloat_pct: f64 as "double precision" = "40",
        dry_run: bool as "boolean" = "true",
        min_size_bytes: i64 as "bigint" = "10485760",
        max_duration: String as "interval" = "'01:00:00'::interval",
        lock_timeout: String as "interval" = "'00:01:00'::interval",
        min_free_bytes: i64 as "bigint" = "1073741824",
    } -> IndexMaintenanceRow {
        relation: String as "text",
        index: String as "text",
        size_bytes: i64 as "bigint",
        estimated_bytes: i64 as "bigint",
        bloat_pct: f64 as "double precision",
        action: String as "text",
        ddl: String as "text",
        reason: String as "text",
        run_id: i64 as "bigint",
    }
}

value! {
    /// Defines or changes your job "scheduled index maintenance", which does what perf.index_maintenance(dry_run =>
    /// false) does.
    index_maintenance_schedule() {
        schedule: String as "text" = "'weekly'::text",
        max_bloat_pct: f64 as "double precision" = "40",
        time_zone: String as "text" = "'UTC'::text",
        min_size_bytes: i64 as "bigint" = "10485760",
        max_duration: String as "interval" = "'01:00:00'::interval",
        lock_timeout: String as "interval" = "'00:01:00'::interval",
        min_free_bytes: i64 as "bigint" = "1073741824",
    } -> IndexMaintenanceSchedule: i64 as "bigint"
}

rows! {
    /// Recommends indexes for a workload, with evidence, judges every row of perf.index_policy, and says which existing
    /// indexes to drop or rebuild.
    index_recommendations() {
        time_budget_ms: i32 as "integer" = "5000",
        storage_budget_bytes: i64 as "bigint" = "NULL::bigint",
        include_inapplicable: bool as "boolean" = "false",
        workload: String as "text" = "'captured'::text",
        queries: Vec<String> as "text[]" = "NULL::text[]",
        weights: Vec<f64> as "double precision[]" = "NULL::double precision[]",
    } -> IndexRecommendationsRow {
        id: String as "text",
        priority: String as "text",
        action: String as "text",
        source: String as "text",
        status: String as "text",
        relation: String as "text",
        columns: Vec<String> as "text[]",
        access_method: String as "text",
        ddl: String as "text",
        undo_ddl: String as "text",
        size_bytes: i64 as "bigint",
        benefit_pct: f64 as "double precision",
        benefit_ms_per_hour: f64 as "double precision",
        statements_improved: i32 as "integer",
        best_speedup: f64 as "double precision",
        write_cost_pct: f64 as "double precision",
        confidence: String as "text",
        basis: String as "text",
        policy_gain: String as "text",
        reason: String as "text",
        evidence: Json as "jsonb",
        achieved_pct: f64 as "double precision",
    }
}

value! {
    /// Cancels a run that is queued or under way.
    job_cancel(
        run_id: i64 as "bigint",
    ) {} -> JobCancel: bool as "boolean"
}

action! {
    /// Lets the ticks of a job pass by until a time (infinity: until perf.job_resume).
    job_pause(
        job_id: i64 as "bigint",
    ) {
        until: Time as "timestamp with time zone" = "'infinity'::timestamp with time zone",
    } -> JobPause, procedure: false
}

action! {
    /// Ends a pause, or switches a job on again that perf_opt has switched off.
    job_resume(
        job_id: i64 as "bigint",
    ) {} -> JobResume, procedure: false
}

value! {
    /// Queues a run of a job, as its owner, whatever its schedule says.
    job_run_now(
        job_id: i64 as "bigint",
    ) {} -> JobRunNow: i64 as "bigint"
}

value! {
    /// Defines a job of the current role, or changes its job of that name.
    job_schedule(
        name: String as "text",
        schedule: String as "text",
        command: String as "text",
    ) {
        time_zone: String as "text" = "'UTC'::text",
        timeout: String as "interval" = "NULL::interval",
        lock_timeout: String as "interval" = "NULL::interval",
        max_retries: i32 as "integer" = "3",
        priority: i32 as "integer" = "0",
        catch_up: String as "text" = "'run_once'::text",
        overlap: String as "text" = "'skip'::text",
    } -> JobSchedule: i64 as "bigint"
}

action! {
    /// Removes a job.
    job_unschedule(
        job_id: i64 as "bigint",
    ) {} -> JobUnschedule, procedure: false
}

value! {
    /// Waits until a run has ended, at most timeout, and returns its status.
    job_wait(
        run_id: i64 as "bigint",
    ) {
        timeout: String as "interval" = "'00:01:00'::interval",
    } -> JobWait: String as "text"
}

rows! {
    /// Latencies of a statement of this database.
    latency_histogram(
        queryid: i64 as "bigint",
    ) {} -> LatencyHistogramRow {
        lower_ms: f64 as "double precision",
        upper_ms: f64 as "double precision",
        calls: i64 as "bigint",
    }
}

value! {
    /// Loads a shipped policy catalogue again.
    load_policy() {
        name: String as "text" = "'gaming_platform'::text",
    } -> LoadPolicy: i64 as "bigint"
}

rows! {
    /// Creates the views of perf.matview_policy whose source tables are in the given schemas (your search path, unless
    /// you say otherwise), with the unique indexes that concurrent refreshes need, and schedules all of them.
    matview_policy_apply() {
        schemas: Vec<String> as "name[]" = "current_schemas(false)",
    } -> MatviewPolicyApplyRow {
        view_name: String as "text",
        action: String as "text",
        ddl: String as "text",
        reason: String as "text",
        job_id: i64 as "bigint",
    }
}

value! {
    /// Refreshes a materialized view by schedule, as the current role, which must own it (or, from 17 on, have MAINTAIN
    /// on it).
    matview_schedule(
        view: String as "regclass",
        schedule: String as "text",
    ) {
        time_zone: String as "text" = "'UTC'::text",
        mode: String as "text" = "'auto'::text",
        skip_unchanged: bool as "boolean" = "true",
        timeout: String as "interval" = "'00:15:00'::interval",
        lock_timeout: String as "interval" = "'00:00:02'::interval",
        max_retries: i32 as "integer" = "3",
    } -> MatviewSchedule: i64 as "bigint"
}

action! {
    /// Refreshes a materialized view no more.
    matview_unschedule(
        view: String as "regclass",
    ) {} -> MatviewUnschedule, procedure: false
}

rows! {
    /// What can be measured now, one row for each metric and object.
    metrics() {} -> MetricsRow {
        name: String as "text",
        value: f64 as "double precision",
        unit: String as "text",
        scope: String as "text",
        object: String as "text",
        measured_at: Time as "timestamp with time zone",
        span: String as "interval",
        note: String as "text",
    }
}

rows! {
    /// The tasks of perf.roadmap_task with what this database says of each.
    optimization_roadmap() {
        time_budget_ms: i32 as "integer" = "2000",
    } -> OptimizationRoadmapRow {
        phase: i32 as "integer",
        phase_name: String as "text",
        priority: String as "text",
        weeks: String as "text",
        task_no: i32 as "integer",
        task: String as "text",
        status: String as "text",
        expected_gain_pct: f64 as "double precision",
        gain_basis: String as "text",
        measured_gain_pct: f64 as "double precision",
        effort_hours_low: f64 as "double precision",
        effort_hours_high: f64 as "double precision",
        ddl: String as "text",
        reason: String as "text",
    }
}

rows! {
    /// Plain tables that would gain from being partitioned by time, by what the captured workload asks of them.
    partition_advice() {
        min_size_bytes: i64 as "bigint" = "NULL::bigint",
    } -> PartitionAdviceRow {
        relation: String as "text",
        control_column: String as "text",
        every: String as "text",
        priority: String as "text",
        expected_benefit_pct: f64 as "double precision",
        basis: String as "text",
        reason: String as "text",
        evidence: Json as "jsonb",
        ddl: String as "text",
    }
}

rows! {
    /// What is wrong with partitioned tables, each with SQL that mends it.
    partition_check() {
        relation: String as "regclass" = "NULL::regclass",
        as_of: Time as "timestamp with time zone" = "now()",
    } -> PartitionCheckRow {
        parent: String as "text",
        problem: String as "text",
        detail: String as "text",
        fix_sql: String as "text",
    }
}

action! {
    /// Makes a plain table partitioned by range while it is in use.
    partition_convert(
        relation: String as "regclass",
        control: String as "text",
        every: String as "text",
    ) {
        max_lock: String as "interval" = "'00:00:00.05'::interval",
        give_up_after: String as "interval" = "'00:05:00'::interval",
        time_zone: String as "text" = "'UTC'::text",
        epoch: String as "text" = "NULL::text",
    } -> PartitionConvert, procedure: true
}

rows! {
    /// Shows what perf.partition_convert would do to a plain table, and changes nothing.
    partition_convert_plan(
        relation: String as "regclass",
        control: String as "text",
        every: String as "text",
    ) {
        time_zone: String as "text" = "'UTC'::text",
        epoch: String as "text" = "NULL::text",
    } -> PartitionConvertPlanRow {
        step_no: i32 as "integer",
        sql: String as "text",
        lock: String as "text",
        blocker: String as "text",
    }
}

action! {
    /// Makes a table plain again that perf.partition_convert has converted, or was converting.
    partition_convert_undo(
        relation: String as "regclass",
    ) {
        max_lock: String as "interval" = "'00:00:00.05'::interval",
        give_up_after: String as "interval" = "'00:05:00'::interval",
    } -> PartitionConvertUndo, procedure: true
}

value! {
    /// Manages the partitions of a table by time, as the current role, which must own it.
    partition_manage(
        parent: String as "regclass",
        every: String as "text",
    ) {
        premake: i32 as "integer" = "4",
        retention: String as "interval" = "NULL::interval",
        on_expire: String as "text" = "'detach'::text",
        archive_schema: String as "text" = "'archive'::text",
        compress_after: String as "interval" = "NULL::interval",
        time_zone: String as "text" = "'UTC'::text",
        archive_to: String as "text" = "'schema'::text",
        epoch: String as "text" = "NULL::text",
        max_move_rows: i64 as "bigint" = "100000",
    } -> PartitionManage: i64 as "bigint"
}

rows! {
    /// Manages the tables of perf.partition_policy that are in the given schemas (your search path, unless you say
    /// otherwise) and partitioned, as the current role, by the every, retention and on_expire of their rows.
    partition_policy_apply() {
        schemas: Vec<String> as "name[]" = "current_schemas(false)",
    } -> PartitionPolicyApplyRow {
        table_name: String as "text",
        action: String as "text",
        ddl: String as "text",
        reason: String as "text",
        job_id: i64 as "bigint",
    }
}

rows! {
    /// Does now what is due of the parents that you manage (a superuser: of all), or of one, as if it were as_of, and
    /// says what was done.
    partition_tick() {
        parent: String as "regclass" = "NULL::regclass",
        as_of: Time as "timestamp with time zone" = "now()",
    } -> PartitionTickRow {
        relation: String as "text",
        step: String as "text",
        status: String as "text",
        detail: String as "text",
    }
}

action! {
    /// Manages the partitions of a table no more.
    partition_unmanage(
        parent: String as "regclass",
    ) {} -> PartitionUnmanage, procedure: false
}

rows! {
    /// Shows what your prewarm job would do before the hour that contains for_hour (NULL: the next hour).
    prewarm() {
        for_hour: Time as "timestamp with time zone" = "NULL::timestamp with time zone",
        max_bytes: i64 as "bigint" = "NULL::bigint",
        dry_run: bool as "boolean" = "true",
    } -> PrewarmRow {
        relation: String as "text",
        statement_id: i64 as "bigint",
        blocks: i64 as "bigint",
        expected_reads: f64 as "double precision",
        cached_blocks: i64 as "bigint",
        action: String as "text",
        reason: String as "text",
        run_id: i64 as "bigint",
    }
}

value! {
    /// Marks one SELECT to be run by your prewarm job ahead of the hours with at least half as many calls of it as its
    /// busiest hour of the week.
    prewarm_mark(
        statement: String as "text",
    ) {} -> PrewarmMark: i64 as "bigint"
}

value! {
    /// Defines or changes your job "prewarm", which learns what each hour of the week reads and loads it into the
    /// buffer cache before that hour.
    prewarm_schedule() {
        schedule: String as "text" = "'50 * * * *'::text",
        time_zone: String as "text" = "'UTC'::text",
        max_bytes: i64 as "bigint" = "NULL::bigint",
        min_gain_pct: f64 as "double precision" = "10",
    } -> PrewarmSchedule: i64 as "bigint"
}

value! {
    /// Takes the mark of a statement away.
    prewarm_unmark(
        statement_id: i64 as "bigint",
    ) {} -> PrewarmUnmark: bool as "boolean"
}

value! {
    /// What perf.metrics(), perf.alerts() and perf.health() say now, as text for Prometheus (exposition format 0.0.4).
    prometheus_metrics() {} -> PrometheusMetrics: String as "text"
}

value! {
    /// The rows of perf.alert_threshold as alerting rules for Prometheus.
    prometheus_rules() {} -> PrometheusRules: String as "text"
}

value! {
    /// Everything that perf_opt knows of this database and server.
    report() {
        format: String as "text" = "'text'::text",
        since: Time as "timestamp with time zone" = "(now() - '24:00:00'::interval)",
        compare_to: String as "text" = "NULL::text",
    } -> Report: String as "text"
}

value! {
    /// Forgets statements.
    reset() {
        queryid: i64 as "bigint" = "NULL::bigint",
        database: String as "text" = "NULL::text",
    } -> Reset: i64 as "bigint"
}

action! {
    /// Marks a task of the roadmap as done that no server can look at (documents, cold-path queries, pooling, kinds of
    /// your own).
    roadmap_tick(
        phase: i32 as "integer",
        task_no: i32 as "integer",
    ) {
        note: String as "text" = "NULL::text",
    } -> RoadmapTick, procedure: false
}

value! {
    /// Takes the tick of a task away.
    roadmap_untick(
        phase: i32 as "integer",
        task_no: i32 as "integer",
    ) {} -> RoadmapUntick: bool as "boolean"
}

rows! {
    /// What to do as the load grows, of six kinds, at least one row each.
    scaling_recommendations() {} -> ScalingRecommendationsRow {
        id: String as "text",
        kind: String as "text",
        priority: String as "text",
        triggered: bool as "boolean",
        recommendation: String as "text",
        metric: String as "text",
        measured_value: f64 as "double precision",
        threshold: f64 as "double precision",
        unit: String as "text",
        expected_benefit_pct: f64 as "double precision",
        basis: String as "text",
        config: String as "text",
        reason: String as "text",
        evidence: Json as "jsonb",
    }
}

rows! {
    /// Whether to split this database over several nodes (Citus), and by what.
    sharding_advice() {
        nodes: i32 as "integer" = "4",
    } -> ShardingAdviceRow {
        candidate_key: String as "text",
        verdict: String as "text",
        single_shard_pct: f64 as "double precision",
        cross_shard_pct: f64 as "double precision",
        reference_tables: Vec<String> as "text[]",
        colocated_tables: Vec<String> as "text[]",
        imbalance: f64 as "double precision",
        blockers: Vec<String> as "text[]",
        predicted_speedup: f64 as "double precision",
        ddl: String as "text",
        reason: String as "text",
    }
}

rows! {
    /// Executions that took longer than perf_opt.slow_ms, one row each, newest first.
    slow_queries() {
        since: Time as "timestamp with time zone" = "(now() - '24:00:00'::interval)",
        min_severity: String as "text" = "'slow'::text",
        max_rows: i32 as "integer" = "100",
        all_databases: bool as "boolean" = "false",
    } -> SlowQueriesRow {
        captured_at: Time as "timestamp with time zone",
        severity: String as "text",
        duration_ms: f64 as "double precision",
        rows: i64 as "bigint",
        outcome: String as "text",
        sqlstate: String as "text",
        queryid: i64 as "bigint",
        query: String as "text",
        database: String as "text",
        username: String as "text",
        application_name: String as "text",
        client_addr: String as "text",
        planning_ms: f64 as "double precision",
        shared_blks_hit: i64 as "bigint",
        shared_blks_read: i64 as "bigint",
        temp_blks_written: i64 as "bigint",
        wal_bytes: i64 as "bigint",
        relations: Vec<String> as "text[]",
        toplevel: bool as "boolean",
        plan: String as "text",
    }
}

rows! {
    /// Statements with at least one execution above perf_opt.slow_ms since the given time, by total time.
    slow_query_patterns() {
        since: Time as "timestamp with time zone" = "(now() - '24:00:00'::interval)",
        max_rows: i32 as "integer" = "50",
        all_databases: bool as "boolean" = "false",
    } -> SlowQueryPatternsRow {
        queryid: i64 as "bigint",
        query: String as "text",
        executions: i64 as "bigint",
        slow: i64 as "bigint",
        critical: i64 as "bigint",
        emergency: i64 as "bigint",
        failures: i64 as "bigint",
        first_seen_at: Time as "timestamp with time zone",
        last_seen_at: Time as "timestamp with time zone",
        total_ms: f64 as "double precision",
        mean_ms: f64 as "double precision",
        p50_ms: f64 as "double precision",
        p95_ms: f64 as "double precision",
        p99_ms: f64 as "double precision",
        max_ms: f64 as "double precision",
        share_pct: f64 as "double precision",
        cause: String as "text",
        trend: String as "text",
        trend_pct: f64 as "double precision",
        database: String as "text",
    }
}

rows! {
    /// Executions per bucket of time in this database, all statements or one queryid, oldest first.
    slow_query_trend() {
        bucket: String as "interval" = "'01:00:00'::interval",
        since: Time as "timestamp with time zone" = "(now() - '7 days'::interval)",
        queryid: i64 as "bigint" = "NULL::bigint",
    } -> SlowQueryTrendRow {
        bucket_at: Time as "timestamp with time zone",
        executions: i64 as "bigint",
        slow: i64 as "bigint",
        critical: i64 as "bigint",
        emergency: i64 as "bigint",
        failures: i64 as "bigint",
        mean_ms: f64 as "double precision",
        p50_ms: f64 as "double precision",
        p95_ms: f64 as "double precision",
        p99_ms: f64 as "double precision",
        slow_per_min: f64 as "double precision",
    }
}

rows! {
    /// How statements could be written better.
    sql_optimization_examples() {
        include_inapplicable: bool as "boolean" = "false",
    } -> SqlOptimizationExamplesRow {
        example_no: i32 as "integer",
        title: String as "text",
        source: String as "text",
        queryid: i64 as "bigint",
        problem: String as "text",
        before_sql: String as "text",
        after_sql: String as "text",
        supporting_ddl: String as "text",
        changes_result: bool as "boolean",
        cost_before: f64 as "double precision",
        cost_after: f64 as "double precision",
        improvement_pct: f64 as "double precision",
        basis: String as "text",
        policy_gain: String as "text",
        note: String as "text",
    }
}

rows! {
    /// Every statement in shared memory, one row for each database, user, queryid and level (toplevel or within a
    /// function).
    statements() {
        all_databases: bool as "boolean" = "false",
    } -> StatementsRow {
        database: String as "text",
        username: String as "text",
        queryid: i64 as "bigint",
        toplevel: bool as "boolean",
        query: String as "text",
        calls: i64 as "bigint",
        failures: i64 as "bigint",
        rows: i64 as "bigint",
        total_ms: f64 as "double precision",
        mean_ms: f64 as "double precision",
        min_ms: f64 as "double precision",
        max_ms: f64 as "double precision",
        stddev_ms: f64 as "double precision",
        p50_ms: f64 as "double precision",
        p95_ms: f64 as "double precision",
        p99_ms: f64 as "double precision",
        plans: i64 as "bigint",
        planning_total_ms: f64 as "double precision",
        shared_blks_hit: i64 as "bigint",
        shared_blks_read: i64 as "bigint",
        shared_blks_dirtied: i64 as "bigint",
        shared_blks_written: i64 as "bigint",
        temp_blks_read: i64 as "bigint",
        temp_blks_written: i64 as "bigint",
        blk_read_ms: f64 as "double precision",
        blk_write_ms: f64 as "double precision",
        wal_records: i64 as "bigint",
        wal_bytes: i64 as "bigint",
        jit_ms: f64 as "double precision",
        last_sqlstate: String as "text",
        first_seen_at: Time as "timestamp with time zone",
        last_seen_at: Time as "timestamp with time zone",
    }
}

value! {
    /// Takes an applied recommendation back.
    undo(
        recommendation_id: String as "text",
    ) {} -> Undo: i64 as "bigint"
}

rows! {
    /// Compares what the statements of an applied recommendation have done since with what they did before, and writes
    /// the verdict down.
    verify(
        recommendation_id: String as "text",
    ) {} -> VerifyRow {
        predicted_pct: f64 as "double precision",
        achieved_pct: f64 as "double precision",
        statements: Json as "jsonb",
        verdict: String as "text",
        reason: String as "text",
    }
}

rows! {
    /// Plans one statement with and without indexes that do not exist.
    what_if(
        query: String as "text",
    ) {
        indexes: Vec<String> as "text[]" = "'{}'::text[]",
        without: Vec<String> as "text[]" = "'{}'::text[]",
    } -> WhatIfRow {
        variant: String as "text",
        total_cost: f64 as "double precision",
        indexes_used: Vec<String> as "text[]",
        plan: String as "text",
        size_bytes: i64 as "bigint",
        estimated_ms: f64 as "double precision",
        work: Json as "jsonb",
    }
}
