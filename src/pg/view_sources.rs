//! What the content of a materialized view depends on: the tables its query reads, through plain views, partitions and
//! inheritance, and the version of everything else that has a say (rules of views, functions, catalog rows). Where that
//! cannot be known, or where the result depends on more than rows (time, settings, other servers), it says why.
//!
//! Called inside a transaction by the jobs that refresh views. Takes ACCESS SHARE on views, only if it is free, and gives it
//! back; tables are not locked. Reads the syscache and the relation cache, so that it costs well under a millisecond when
//! both are warm.
//!
//! Kinds of nodes and functions are let in by name: whatever is not known to depend on its arguments alone is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::ptr;

use pgrx::{pg_guard, pg_sys};

use super::ident;
use super::lock::Shared;

/// Tables that one view can read before it is given up to find out about them all.
const SOURCES_MAX: usize = 512;
/// Languages whose functions do what they do whatever else is defined: `internal` and `c`.
const SEALED_LANGUAGES: [u32; 2] = [12, 13];
/// Columns of pg_aggregate that hold the functions of an aggregate, from aggtransfn to aggmfinalfn; the same in 15 to 18.
const AGGREGATE_FUNCTIONS: std::ops::RangeInclusive<i16> = 4..=11;
/// Columns of pg_inherits.
const INHPARENT: i16 = 2;

/// What was found.
#[derive(Default)]
pub struct Found {
    /// Catalog entries other than tables, with the version of each.
    pub objects: BTreeMap<String, String>,
    /// Tables read, with the version of each.
    pub sources: BTreeMap<u32, String>,
    /// Materialized views that the query names, directly or through plain views.
    pub matviews: BTreeSet<u32>,
    /// Why it cannot be known whether the content would be another now. The rest may be incomplete then.
    pub obstacle: Option<String>,
}

/// Whether a materialized view holds a result; `None` when there is no such view (any more).
pub fn is_populated(view: pg_sys::Oid) -> Option<bool> {
    let class = class_of(view)?;
    (class.kind == b'm').then_some(class.populated)
}

/// Finds out what the content of `view` depends on.
pub fn find(view: pg_sys::Oid) -> Found {
    let mut search = Search { found: Found::default(), self_oid: pg_sys::InvalidOid, pending: Vec::new() };
    // SAFETY: inside a transaction: what others have changed in the catalogs is taken notice of now.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    search.walk_rule(view);
    let mut seen = BTreeSet::from([view.to_u32()]);
    while let (Some(relation), true) = (search.pending.pop(), search.found.obstacle.is_none()) {
        if seen.insert(relation.to_u32()) {
            search.relation(relation);
        }
    }
    search.found
}

struct Search {
    found: Found,
    /// The view whose rule is walked.
    self_oid: pg_sys::Oid,
    /// Relations that are named and not looked at yet.
    pending: Vec<pg_sys::Oid>,
}

/// What pg_class says.
struct Class {
    kind: u8,
    populated: bool,
    secured: bool,
    has_children: bool,
    version: String,
}

/// Which version of a catalog row this is: who wrote it, and where it is.
///
/// # Safety
/// `tuple` is a valid tuple of the syscache.
unsafe fn version_of(tuple: pg_sys::HeapTuple) -> String {
    // SAFETY: as promised; a tuple on disk has the first form of the union.
    unsafe {
        let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
        let at = (*tuple).t_self;
        let block = u32::from(at.ip_blkid.bi_hi) << 16 | u32::from(at.ip_blkid.bi_lo);
        format!("{}:{block}:{}", u32::from(xmin), at.ip_posid)
    }
}

fn class_of(relation: pg_sys::Oid) -> Option<Class> {
    // SAFETY: the tuple is read as what its cache holds, and released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let class = Class {
            kind: row.relkind as u8,
            populated: row.relispopulated,
            secured: row.relrowsecurity,
            has_children: row.relhassubclass,
            version: format!("{}:{}", version_of(tuple), row.relfilenode.to_u32()),
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(class)
    }
}

impl Search {
    fn refuse(&mut self, why: impl FnOnce() -> String) {
        if self.found.obstacle.is_none() {
            self.found.obstacle = Some(why());
        }
    }

    fn relation(&mut self, oid: pg_sys::Oid) {
        let name = || ident::relation(oid).unwrap_or_else(|| format!("relation {}", oid.to_u32()));
        let Some(class) = class_of(oid) else {
            return self.refuse(|| format!("it reads relation {}, which is being dropped", oid.to_u32()));
        };
        if oid.to_u32() < pg_sys::FirstNormalObjectId {
            return self.refuse(|| format!("it reads {}, which belongs to the system", name()));
        }
        match class.kind {
            b'v' => {
                self.found.objects.insert(format!("view {}", oid.to_u32()), class.version);
                return self.walk_rule(oid);
            }
            b'm' => {
                self.found.matviews.insert(oid.to_u32());
            }
            b'r' | b'p' => {}
            b'f' => return self.refuse(|| format!("it reads {}, a foreign table", name())),
            _ => return self.refuse(|| format!("it reads {}, which is no table", name())),
        }
        if class.secured {
            return self.refuse(|| format!("row security policies decide what it sees of {}", name()));
        }
        self.found.sources.insert(oid.to_u32(), class.version);
        if self.found.sources.len() > SOURCES_MAX {
            return self.refuse(|| format!("it reads more than {SOURCES_MAX} tables"));
        }
        if class.has_children {
            self.children(oid);
        }
    }

    /// Adds the partitions of a table, or the tables that inherit from it.
    fn children(&mut self, parent: pg_sys::Oid) {
        let mut detaching = false;
        // SAFETY: a scan of a catalog by its index under a fresh catalog snapshot, ended before the relation is closed; a
        // raised error leaves both to the transaction's abort. The row's fixed part is read.
        unsafe {
            let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let inherits = pg_sys::table_open(pg_sys::Oid::from(INHERITS), mode);
            let mut key = pg_sys::ScanKeyData::default();
            let equal = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            let value = pg_sys::Datum::from(parent);
            pg_sys::ScanKeyInit(&raw mut key, INHPARENT, equal, pg_sys::Oid::from(OIDEQ), value);
            let index = pg_sys::Oid::from(INHERITS_BY_PARENT);
            let scan = pg_sys::systable_beginscan(inherits, index, true, ptr::null_mut(), 1, &raw mut key);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let row = &*pg_sys::GETSTRUCT(tuple).cast::<Inherits>();
                self.pending.push(row.child);
                detaching |= row.detach_pending;
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(inherits, mode);
        }
        if detaching {
            self.refuse(|| format!("a partition of {} is being detached", ident::relation(parent).unwrap_or_default()));
        }
    }

    /// Follows the query of a view.
    fn walk_rule(&mut self, view: pg_sys::Oid) {
        let name = || ident::relation(view).unwrap_or_else(|| format!("relation {}", view.to_u32()));
        let Some(_lock) = Shared::try_take(view) else {
            return self.refuse(|| format!("{} is locked by another session", name()));
        };
        self.note_rule(view);
        self.self_oid = view;
        // SAFETY: opened under the lock just taken and closed before it is given back; rules live as long as the relation
        // is open. The walker keeps no pointer.
        unsafe {
            let relation = pg_sys::try_relation_open(view, pg_sys::NoLock as pg_sys::LOCKMODE);
            if relation.is_null() {
                return self.refuse(|| format!("relation {} is being dropped", view.to_u32()));
            }
            let rules = (*relation).rd_rules;
            let count = if rules.is_null() { 0 } else { (*rules).numLocks.max(0) as usize };
            for index in 0..count {
                let rule = *(*rules).rules.add(index);
                if (*rule).event == pg_sys::CmdType::CMD_SELECT {
                    walk((*rule).actions.cast(), ptr::from_mut(self).cast());
                }
            }
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            if count == 0 {
                self.refuse(|| format!("{} has no query", name()));
            }
        }
    }

    fn note_rule(&mut self, view: pg_sys::Oid) {
        // SAFETY: as in `class_of`.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::RULERELNAME as i32;
            let (key, name) = (pg_sys::Datum::from(view), pg_sys::Datum::from(c"_RETURN".as_ptr()));
            let tuple = pg_sys::SearchSysCache2(cache, key, name);
            if !tuple.is_null() {
                self.found.objects.insert(format!("rule of {}", view.to_u32()), version_of(tuple));
                pg_sys::ReleaseSysCache(tuple);
            }
        }
    }

    /// An entry of a range table. What it holds is walked by itself.
    ///
    /// # Safety
    /// `entry` is one of a valid query.
    unsafe fn entry(&mut self, entry: *mut pg_sys::RangeTblEntry) {
        // SAFETY: as promised.
        let entry = unsafe { &*entry };
        match entry.rtekind {
            // Versions differ in whether a view's own query lists the view itself.
            pg_sys::RTEKind::RTE_RELATION if entry.relid == self.self_oid => {}
            pg_sys::RTEKind::RTE_RELATION if entry.tablesample.is_null() => self.pending.push(entry.relid),
            pg_sys::RTEKind::RTE_RELATION => self.refuse(|| "it samples a table (TABLESAMPLE)".to_owned()),
            pg_sys::RTEKind::RTE_TABLEFUNC | pg_sys::RTEKind::RTE_NAMEDTUPLESTORE => {
                self.refuse(|| "it reads rows that no table holds (XMLTABLE, JSON_TABLE)".to_owned());
            }
            _ => {}
        }
    }

    /// A column or constant of a type.
    fn value(&mut self, type_oid: u32, column: i32) {
        // Functions of these are marked immutable, although a configuration or dictionary may be altered.
        if [pg_sys::REGCONFIGOID, pg_sys::REGDICTIONARYOID].map(u32::from).contains(&type_oid) {
            self.refuse(|| "it uses a text search configuration, which may be altered".to_owned());
        }
        // Row locks change xmax, and nobody counts them.
        if column < 0 && column != pg_sys::TableOidAttributeNumber {
            self.refuse(|| "it reads system columns".to_owned());
        }
    }

    fn function(&mut self, oid: pg_sys::Oid) {
        // SAFETY: as in `class_of`.
        let (name, volatility, language, is_aggregate, version) = unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
            if tuple.is_null() {
                return self.refuse(|| format!("it calls function {}, which is being dropped", oid.to_u32()));
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let name = ident::from_server(std::ffi::CStr::from_ptr(row.proname.data.as_ptr()));
            let aggregate = row.prokind as u8 == pg_sys::PROKIND_AGGREGATE;
            let facts = (name, row.provolatile as u8, row.prolang.to_u32(), aggregate, version_of(tuple));
            pg_sys::ReleaseSysCache(tuple);
            facts
        };
        match volatility {
            b'i' => {}
            b's' => return self.refuse(|| format!("it calls {name}(), which is stable, not immutable")),
            _ => return self.refuse(|| format!("it calls {name}(), which is volatile")),
        }
        if is_aggregate {
            return self.aggregate(oid, version);
        }
        if oid.to_u32() < pg_sys::FirstNormalObjectId {
            return;
        }
        if !SEALED_LANGUAGES.contains(&language) {
            return self.refuse(|| format!("it calls {name}(), whose body may use what is not known here"));
        }
        self.found.objects.insert(format!("function {}", oid.to_u32()), version);
    }

    /// An aggregate is marked immutable whatever its functions are.
    fn aggregate(&mut self, oid: pg_sys::Oid, version: String) {
        let mut functions = Vec::new();
        // SAFETY: as in `class_of`; the columns are of type regproc and NOT NULL.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::AGGFNOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
            if tuple.is_null() {
                return self.refuse(|| format!("it calls aggregate {}, which is being dropped", oid.to_u32()));
            }
            for column in AGGREGATE_FUNCTIONS {
                let mut is_null = false;
                let value = pg_sys::SysCacheGetAttr(cache, tuple, column, &raw mut is_null);
                let function = pg_sys::Oid::from(value.value() as u32);
                if !is_null && function != pg_sys::InvalidOid {
                    functions.push(function);
                }
            }
            if oid.to_u32() >= pg_sys::FirstNormalObjectId {
                let version = format!("{version} {}", version_of(tuple));
                self.found.objects.insert(format!("aggregate {}", oid.to_u32()), version);
            }
            pg_sys::ReleaseSysCache(tuple);
        }
        for function in functions {
            self.function(function);
        }
    }
}

/// OIDs of pg_inherits, its index on inhparent, and the function behind `=` of oid: fixed since 8.x.
const INHERITS: u32 = 2611;
const INHERITS_BY_PARENT: u32 = 2187;
const OIDEQ: u32 = 184;

/// A row of pg_inherits.
#[repr(C)]
struct Inherits {
    child: pg_sys::Oid,
    parent: pg_sys::Oid,
    number: i32,
    detach_pending: bool,
}

#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with the nodes of a valid query, and with the search that `walk_rule` lends.
    unsafe {
        let search = context.cast::<Search>();
        if (*search).found.obstacle.is_some() {
            return true;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_RangeTblEntry => {
                (*search).entry(node.cast());
                return false;
            }
            pg_sys::NodeTag::T_Query => {
                let query = node.cast::<pg_sys::Query>();
                if (*query).commandType != pg_sys::CmdType::CMD_SELECT || !(*query).rowMarks.is_null() {
                    (*search).refuse(|| "its query does more than read".to_owned());
                    return true;
                }
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as i32;
                return pg_sys::query_tree_walker(query, Some(walk), context, flags);
            }
            pg_sys::NodeTag::T_Var => {
                let var = node.cast::<pg_sys::Var>();
                (*search).value(u32::from((*var).vartype), i32::from((*var).varattno));
            }
            pg_sys::NodeTag::T_Const => (*search).value(u32::from((*node.cast::<pg_sys::Const>()).consttype), 0),
            tag if !is_known(tag) => {
                (*search).refuse(|| what_is(tag));
                return true;
            }
            _ => {}
        }
        pg_sys::check_functions_in_node(node, Some(note_function), context)
            || pg_sys::expression_tree_walker(node, Some(walk), context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn note_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the context is the search that `walk` was given.
    unsafe {
        let search = context.cast::<Search>();
        (*search).function(function);
        (*search).found.obstacle.is_some()
    }
}

fn what_is(tag: pg_sys::NodeTag) -> String {
    match tag {
        pg_sys::NodeTag::T_SQLValueFunction => {
            "it uses the time, the date or the name of a role, database or schema".to_owned()
        }
        pg_sys::NodeTag::T_NextValueExpr => "it takes values of a sequence".to_owned(),
        pg_sys::NodeTag::T_XmlExpr => "it makes or reads XML, which depends on settings".to_owned(),
        _ => format!("it has an expression of a kind that may depend on more than rows ({tag:?})"),
    }
}

/// Nodes of a query that depend on nothing but what is below them.
fn is_known(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag::*;
    matches!(
        tag,
        T_List
            | T_TargetEntry
            | T_FromExpr
            | T_JoinExpr
            | T_RangeTblRef
            | T_RangeTblFunction
            | T_SetOperationStmt
            | T_CommonTableExpr
            | T_WindowClause
            | T_SortGroupClause
            | T_GroupingSet
            | T_GroupingFunc
            | T_SubLink
            | T_Param
            | T_Aggref
            | T_WindowFunc
            | T_SubscriptingRef
            | T_FuncExpr
            | T_NamedArgExpr
            | T_OpExpr
            | T_DistinctExpr
            | T_NullIfExpr
            | T_ScalarArrayOpExpr
            | T_BoolExpr
            | T_FieldSelect
            | T_RelabelType
            | T_CoerceViaIO
            | T_ArrayCoerceExpr
            | T_ConvertRowtypeExpr
            | T_CollateExpr
            | T_CaseExpr
            | T_CaseWhen
            | T_CaseTestExpr
            | T_ArrayExpr
            | T_RowExpr
            | T_RowCompareExpr
            | T_CoalesceExpr
            | T_MinMaxExpr
            | T_NullTest
            | T_BooleanTest
            | T_CoerceToDomain
            | T_CoerceToDomainValue
    )
}
