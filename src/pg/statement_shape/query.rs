//! Walks rewritten queries: which tables they use, and which equalities hold.

use std::collections::HashMap;
use std::ffi::{c_void, CStr};
use std::ops::Range;
use std::ptr;

use pgrx::{pg_guard, pg_sys, PgList};

use super::notes::note_node;
use super::resolve::Value;
use super::{Command, Pin, Shape, TableColumn, Unclear};
use crate::compat;
use crate::indexes::OWN_SCHEMA;
use crate::pg::ident;

/// Queries inside of each other, and references to common ones, before a statement is given up.
const LEVELS_MAX: usize = 512;
/// Tables in use before a statement is given up.
const TABLES_MAX: usize = 1024;
/// What an entry of a range table turned out to be.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// A table, by its place.
    Table(usize),
    /// A query: its level.
    Query(usize),
    /// Anything else.
    Other,
}

/// A query at some depth.
pub(super) struct Level {
    pub(super) query: *mut pg_sys::Query,
    pub(super) parent: Option<usize>,
    pub(super) entries: HashMap<usize, Entry>,
    /// Common table expressions that are walked once, by name.
    commons: HashMap<Vec<u8>, Entry>,
}

/// Where a walk stood: what was found since can be told apart.
struct Mark {
    tables: usize,
    joins: usize,
    pins: usize,
}

/// The walk over one statement.
pub(super) struct Walker {
    pub(super) shape: Shape,
    pub(super) levels: Vec<Level>,
    /// Parameters of the text; those above are variables.
    pub(super) known: usize,
    /// Expressions that stand for one value each, which nobody knows.
    pub(super) unknown: Vec<*mut pg_sys::Node>,
    pub(super) too_large: bool,
}

/// Adds a table, unless it is one that no workload is about; its place.
pub(super) fn add_table(shape: &mut Shape, oid: pg_sys::Oid) -> Option<usize> {
    if oid == pg_sys::InvalidOid {
        return None;
    }
    // SAFETY: syscache look-ups.
    let (persistence, schema) = unsafe { (pg_sys::get_rel_persistence(oid) as u8, pg_sys::get_rel_namespace(oid)) };
    let of_extension = oid.to_u32() >= pg_sys::FirstNormalObjectId && is_of_extension(schema);
    shape.extension |= of_extension;
    if of_extension || oid.to_u32() < pg_sys::FirstNormalObjectId {
        shape.catalogs = true;
        None
    } else if persistence == pg_sys::RELPERSISTENCE_TEMP {
        shape.temporary = true;
        None
    } else {
        shape.tables.push(oid);
        Some(shape.tables.len() - 1)
    }
}

/// Whether a schema is this extension's.
pub(super) fn is_of_extension(schema: pg_sys::Oid) -> bool {
    // SAFETY: a syscache look-up that gives NULL or a string that is ours to free.
    unsafe { ident::owned(pg_sys::get_namespace_name(schema)) }.as_deref() == Some(OWN_SCHEMA)
}

/// Elements of a list of nodes.
///
/// # Safety
/// `list` is NIL or a valid list of pointers.
pub(super) unsafe fn each<T>(list: *mut pg_sys::List) -> Vec<*mut T> {
    // SAFETY: as promised.
    unsafe { PgList::<T>::from_pg(list).iter_ptr().collect() }
}

impl Walker {
    pub(super) fn new(known: usize) -> Walker {
        Walker { shape: Shape::default(), levels: Vec::new(), known, unknown: Vec::new(), too_large: false }
    }

    /// What was found.
    pub(super) fn finish(mut self) -> Result<Shape, Unclear> {
        if self.too_large {
            return Err(Unclear::Failed("it is too large".to_owned()));
        }
        self.shape.updated.sort_unstable_by_key(|(table, column)| (table.to_u32(), *column));
        self.shape.updated.dedup();
        Ok(self.shape)
    }

    /// Notes what a query calls and locks, at every depth.
    ///
    /// # Safety
    /// `query` is valid and rewritten.
    pub(super) unsafe fn note(&mut self, query: *mut pg_sys::Query) {
        // SAFETY: as promised; the callee keeps no pointer to the shape.
        unsafe { note_node(query.cast(), (&raw mut self.shape).cast()) };
    }

    /// Walks a query; its level.
    ///
    /// # Safety
    /// `query` is valid and rewritten.
    pub(super) unsafe fn query(&mut self, query: *mut pg_sys::Query, parent: Option<usize>) -> usize {
        pgrx::check_for_interrupts!();
        let level = self.levels.len();
        self.levels.push(Level { query, parent, entries: HashMap::new(), commons: HashMap::new() });
        if level >= LEVELS_MAX || self.shape.tables.len() >= TABLES_MAX {
            self.too_large = true;
        }
        if self.too_large {
            return level;
        }
        // SAFETY: as promised; each field is NIL or of the type that the server documents.
        unsafe {
            pg_sys::check_stack_depth();
            if (*query).commandType != pg_sys::CmdType::CMD_SELECT {
                self.shape.command = Command::Write;
            }
            for common in each::<pg_sys::CommonTableExpr>((*query).cteList) {
                let inner = (*common).ctequery.cast::<pg_sys::Query>();
                // One that writes runs once, whether it is read or not.
                if (*inner).commandType != pg_sys::CmdType::CMD_SELECT {
                    let entry = Entry::Query(self.query(inner, Some(level)));
                    self.levels[level].commons.insert(name_of((*common).ctename), entry);
                }
            }
            let target = (*query).resultRelation as usize;
            if let Some(Entry::Table(table)) = (target > 0).then(|| self.entry(level, target)) {
                self.shape.writes.push(table);
            }
            self.from(level, (*query).jointree.cast());
            self.set_operations(level, (*query).setOperations);
            let condition = compat::merge_condition(query);
            self.conditions(level, condition);
            // What an UPDATE sets is looked at where it is known what is set.
            let is_update = (*query).commandType == pg_sys::CmdType::CMD_UPDATE;
            let targets = if is_update { ptr::null_mut() } else { (*query).targetList };
            for list in [targets, (*query).returningList] {
                for target in each::<pg_sys::TargetEntry>(list) {
                    self.expression(level, (*target).expr.cast());
                }
            }
            // What rows are grouped by is in none of these lists from 18 on.
            for entry in each::<pg_sys::RangeTblEntry>((*query).rtable) {
                if let Some(expressions) = compat::group_expressions(entry) {
                    self.expression(level, expressions.cast());
                }
            }
            self.conditions(level, (*query).havingQual);
            self.expression(level, (*query).limitOffset);
            self.expression(level, (*query).limitCount);
            self.written(level, query);
        }
        level
    }

    /// What the rows that a query writes get.
    unsafe fn written(&mut self, level: usize, query: *mut pg_sys::Query) {
        // SAFETY: fields of a valid query.
        unsafe {
            let target = (*query).resultRelation as usize;
            let Some(Entry::Table(table)) = self.levels[level].entries.get(&target).copied() else {
                if (*query).commandType == pg_sys::CmdType::CMD_UPDATE {
                    self.expression(level, (*query).targetList.cast());
                }
                return;
            };
            match (*query).commandType {
                pg_sys::CmdType::CMD_INSERT => {
                    self.inserted(level, table, (*query).targetList);
                    let conflict = (*query).onConflict;
                    if !conflict.is_null() {
                        self.updated(level, table, (*conflict).onConflictSet);
                        self.expression(level, (*conflict).onConflictWhere);
                    }
                }
                pg_sys::CmdType::CMD_UPDATE => self.updated(level, table, (*query).targetList),
                _ => {}
            }
            for action in each::<pg_sys::MergeAction>((*query).mergeActionList) {
                self.expression(level, (*action).qual);
                if (*action).commandType == pg_sys::CmdType::CMD_INSERT {
                    for target in each::<pg_sys::TargetEntry>((*action).targetList) {
                        self.expression(level, (*target).expr.cast());
                    }
                }
                match (*action).commandType {
                    pg_sys::CmdType::CMD_INSERT => self.inserted(level, table, (*action).targetList),
                    pg_sys::CmdType::CMD_UPDATE => self.updated(level, table, (*action).targetList),
                    _ => {}
                }
            }
        }
    }

    unsafe fn inserted(&mut self, level: usize, table: usize, targets: *mut pg_sys::List) {
        // SAFETY: target entries of a valid query.
        unsafe {
            for target in each::<pg_sys::TargetEntry>(targets) {
                if (*target).resjunk || (*target).resno <= 0 {
                    continue;
                }
                let column = (table, (*target).resno);
                match self.resolve(level, (*target).expr.cast()) {
                    Value::Columns(columns) => columns.into_iter().for_each(|c| self.shape.joins.push((c, column))),
                    Value::Slots(slots) => self.shape.pins.push(Pin { column, slots }),
                    // A number of a sequence, or something else that is made for the row: one value, and nobody knows it.
                    Value::Other if self.inserts_rows(level) => {
                        let slots = (0..self.rows_inserted(level)).map(|_| self.fresh_slot()).collect();
                        self.shape.pins.push(Pin { column, slots });
                    }
                    Value::Other => {}
                }
            }
        }
    }

    unsafe fn updated(&mut self, level: usize, table: usize, targets: *mut pg_sys::List) {
        // SAFETY: target entries of a valid query.
        unsafe {
            for target in each::<pg_sys::TargetEntry>(targets) {
                // A query that sets several columns at once is in an entry that sets none.
                self.expression(level, (*target).expr.cast());
                if (*target).resjunk || (*target).resno <= 0 {
                    continue;
                }
                let itself = Value::Columns(vec![(table, (*target).resno)]);
                if self.resolve(level, (*target).expr.cast()) != itself {
                    self.shape.updated.push((self.shape.tables[table], (*target).resno));
                }
            }
        }
    }

    /// Looks an entry of the range table up, and walks it the first time.
    ///
    /// # Safety
    /// The level's query is valid.
    pub(super) unsafe fn entry(&mut self, level: usize, number: usize) -> Entry {
        if let Some(known) = self.levels[level].entries.get(&number) {
            return *known;
        }
        // SAFETY: as promised; fields as the kind of the entry has them.
        unsafe {
            let Some(entry) = self.range_entry(level, number) else { return Entry::Other };
            let found = match (*entry).rtekind {
                pg_sys::RTEKind::RTE_RELATION => {
                    add_table(&mut self.shape, (*entry).relid).map_or(Entry::Other, Entry::Table)
                }
                pg_sys::RTEKind::RTE_SUBQUERY => Entry::Query(self.query((*entry).subquery, Some(level))),
                pg_sys::RTEKind::RTE_CTE if (*entry).self_reference => Entry::Other,
                pg_sys::RTEKind::RTE_CTE => self.common(level, entry),
                pg_sys::RTEKind::RTE_FUNCTION => {
                    self.expression(level, (*entry).functions.cast());
                    Entry::Other
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    self.expression(level, (*entry).values_lists.cast());
                    Entry::Other
                }
                _ => Entry::Other,
            };
            self.levels[level].entries.insert(number, found);
            // Policies of row security: true for every row that is seen.
            for condition in each::<pg_sys::Node>((*entry).securityQuals) {
                self.conditions(level, condition);
            }
            found
        }
    }

    /// The entry itself.
    ///
    /// # Safety
    /// The level's query is valid.
    pub(super) unsafe fn range_entry(&self, level: usize, number: usize) -> Option<*mut pg_sys::RangeTblEntry> {
        // SAFETY: as promised.
        unsafe {
            let table = PgList::<pg_sys::RangeTblEntry>::from_pg((*self.levels[level].query).rtable);
            table.get_ptr(number.checked_sub(1)?)
        }
    }

    /// A reference to a common table expression: walked once for each, as if it were written there.
    unsafe fn common(&mut self, level: usize, entry: *mut pg_sys::RangeTblEntry) -> Entry {
        // SAFETY: an entry of a valid query.
        unsafe {
            let Some(home) = self.up(level, (*entry).ctelevelsup) else { return Entry::Other };
            let name = name_of((*entry).ctename);
            if let Some(known) = self.levels[home].commons.get(&name) {
                return *known;
            }
            let all = each::<pg_sys::CommonTableExpr>((*self.levels[home].query).cteList);
            let Some(common) = all.into_iter().find(|c| name_of((**c).ctename) == name) else { return Entry::Other };
            let inner = (*common).ctequery.cast::<pg_sys::Query>();
            if (*common).cterecursive {
                // Its rows come from rows of its own: no column of it is one of a table.
                self.levels[home].commons.insert(name, Entry::Other);
                self.query(inner, Some(home));
                return Entry::Other;
            }
            Entry::Query(self.query(inner, Some(home)))
        }
    }

    /// The level so many above.
    pub(super) fn up(&self, level: usize, above: u32) -> Option<usize> {
        (0..above).try_fold(level, |level, _| self.levels[level].parent)
    }

    unsafe fn set_operations(&mut self, level: usize, node: *mut pg_sys::Node) {
        if node.is_null() {
            return;
        }
        // SAFETY: a tree of set operations over entries of the range table.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_RangeTblRef => {
                    self.entry(level, (*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize);
                }
                pg_sys::NodeTag::T_SetOperationStmt => {
                    let operation = node.cast::<pg_sys::SetOperationStmt>();
                    self.set_operations(level, (*operation).larg);
                    self.set_operations(level, (*operation).rarg);
                }
                _ => {}
            }
        }
    }

    unsafe fn from(&mut self, level: usize, node: *mut pg_sys::Node) {
        if node.is_null() || self.too_large {
            return;
        }
        // SAFETY: a node of a join tree.
        unsafe {
            pg_sys::check_stack_depth();
            match (*node).type_ {
                pg_sys::NodeTag::T_RangeTblRef => {
                    self.entry(level, (*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize);
                }
                pg_sys::NodeTag::T_FromExpr => {
                    let from = node.cast::<pg_sys::FromExpr>();
                    for item in each::<pg_sys::Node>((*from).fromlist) {
                        self.from(level, item);
                    }
                    self.conditions(level, (*from).quals);
                }
                pg_sys::NodeTag::T_JoinExpr => self.join(level, node.cast()),
                _ => {}
            }
        }
    }

    unsafe fn join(&mut self, level: usize, join: *mut pg_sys::JoinExpr) {
        // SAFETY: as for `from`.
        unsafe {
            let (first, second) = match (*join).jointype {
                pg_sys::JoinType::JOIN_RIGHT => ((*join).rarg, (*join).larg),
                _ => ((*join).larg, (*join).rarg),
            };
            let all = self.mark();
            self.from(level, first);
            let mark = self.mark();
            self.from(level, second);
            let inner = mark.tables..self.shape.tables.len();
            let conditions = self.shape.pins.len();
            self.conditions(level, (*join).quals);
            match (*join).jointype {
                pg_sys::JoinType::JOIN_INNER => {}
                pg_sys::JoinType::JOIN_FULL => self.shape.pins.truncate(all.pins),
                _ => {
                    // What is said of the side that is always there leaves none of its rows out.
                    let mut at = 0;
                    self.shape.pins.retain(|pin| {
                        at += 1;
                        at <= conditions || inner.contains(&pin.column.0)
                    });
                    self.loosen(&mark, inner);
                }
            }
        }
    }

    fn mark(&self) -> Mark {
        Mark { tables: self.shape.tables.len(), joins: self.shape.joins.len(), pins: self.shape.pins.len() }
    }

    /// Rows of `inner` may be missing beside a row of what is around them: a value of theirs is none of what is around.
    /// Equalities are kept, for by them rows find each other; values of columns that are equal to one outside are dropped.
    fn loosen(&mut self, since: &Mark, inner: Range<usize>) {
        let joins = &self.shape.joins[since.joins..];
        let is_inner = |column: &TableColumn| inner.contains(&column.0);
        let mut crossing: Vec<TableColumn> = joins
            .iter()
            .filter(|(a, b)| is_inner(a) != is_inner(b))
            .map(|(a, b)| if is_inner(a) { *a } else { *b })
            .collect();
        let mut at = 0;
        while let Some(column) = crossing.get(at).copied() {
            at += 1;
            for (a, b) in joins.iter().filter(|(a, b)| is_inner(a) && is_inner(b)) {
                for (one, other) in [(a, b), (b, a)] {
                    if *one == column && !crossing.contains(other) {
                        crossing.push(*other);
                    }
                }
            }
        }
        let mut number = 0;
        self.shape.pins.retain(|pin| {
            number += 1;
            number <= since.pins || !crossing.contains(&pin.column)
        });
    }

    /// An expression that is no condition: finds the queries in it.
    ///
    /// # Safety
    /// The node is NULL or valid, and of this level.
    pub(super) unsafe fn expression(&mut self, level: usize, node: *mut pg_sys::Node) {
        let mut at = At { walker: self, level };
        // SAFETY: as promised; the context lives through the call.
        unsafe { find_queries(node, (&raw mut at).cast()) };
    }

    /// A query in an expression: rows around it are there whether it finds something or not.
    unsafe fn link(&mut self, level: usize, link: *mut pg_sys::SubLink) {
        let mark = self.mark();
        // SAFETY: as for `expression`.
        unsafe {
            let inner = self.query((*link).subselect.cast(), Some(level));
            match (*link).subLinkType {
                pg_sys::SubLinkType::ANY_SUBLINK => self.tested(level, inner, (*link).testexpr),
                _ => self.expression(level, (*link).testexpr),
            }
        }
        self.loosen(&mark, mark.tables..self.shape.tables.len());
    }
}

/// Where an expression is walked.
struct At<'a> {
    walker: &'a mut Walker,
    level: usize,
}

#[pg_guard]
unsafe extern "C-unwind" fn find_queries(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with nodes of a valid expression and with the context that `expression` lends.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_SubLink {
            let at = &mut *context.cast::<At>();
            at.walker.link(at.level, node.cast());
            return false;
        }
        pg_sys::expression_tree_walker(node, Some(find_queries), context)
    }
}

unsafe fn name_of(name: *const std::ffi::c_char) -> Vec<u8> {
    // SAFETY: names of common table expressions are strings.
    unsafe { CStr::from_ptr(name) }.to_bytes().to_vec()
}
