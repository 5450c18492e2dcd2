//! Reads a CREATE INDEX statement into a hypothetical index, without executing it. Parses, resolves names and analyses
//! expressions as the server would; locks the table in ACCESS SHARE while it does.

use std::ffi::CStr;
use std::ptr;

use perf_core::index::{name, Kind};
use pgrx::{is_a, pg_sys, PgList};

use super::hypothetical::{method_of, Hypothetical, KeyPart, Storage};
use super::ident;
use super::relation::Relation;
use crate::error::Error;

/// What was read, before it is priced.
pub struct Described {
    /// The index; unpriced.
    pub index: Hypothetical,
    /// Its table.
    pub relation: Relation,
    /// The predicate in SQL; None without one.
    pub predicate: Option<String>,
}

/// Reads one element of the argument `indexes`.
pub fn read(statement: &str) -> Result<Described, Error> {
    let text = ident::until_nul(statement);
    // SAFETY: the parser returns a list of RawStmt, each with a statement node whose tag is checked before the cast.
    unsafe {
        let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr()));
        let node = parsed.get_ptr(0).map(|raw| (*raw).stmt);
        match node {
            Some(node) if parsed.len() == 1 && is_a(node, pg_sys::NodeTag::T_IndexStmt) => describe(node.cast(), &text),
            _ => Err(Error::InvalidArgument {
                argument: "indexes",
                value: statement.to_owned(),
                accepted: "Each element is one CREATE INDEX statement.".to_owned(),
            }),
        }
    }
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported {
        message: format!("{what} cannot be planned hypothetically"),
        hint: "Use access method btree, hash, brin or gin, and no parameters but fillfactor, deduplicate_items and \
               pages_per_range."
            .to_owned(),
    }
}

/// # Safety
/// `statement` is a parsed CREATE INDEX of `text`.
unsafe fn describe(statement: *mut pg_sys::IndexStmt, text: &CStr) -> Result<Described, Error> {
    // SAFETY: a parsed statement's members are NULL or valid; the relation stays locked until it is closed below.
    unsafe {
        let kind = kind_of(statement)?;
        let storage = storage_of(statement, kind)?;
        let oid = pg_sys::RangeVarGetRelidExtended(
            (*statement).relation,
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
            0,
            None,
            ptr::null_mut(),
        );
        let name = ident::relation(oid).unwrap_or_default();
        let relation = Relation::read(oid).map_err(|why| Error::Unsupported {
            message: format!("an index on {name} cannot be planned hypothetically: {}", why.describe()),
            hint: "Name a permanent table, partitioned table or materialized view.".to_owned(),
        })?;
        let described = Reader::new(&relation, text, kind).read(statement);
        pg_sys::UnlockRelationOid(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let (mut index, predicate) = described?;
        index.storage = storage;
        Ok(Described { index, relation, predicate })
    }
}

/// The access method, if it can do what the statement asks of it.
///
/// # Safety
/// `statement` is a parsed CREATE INDEX.
unsafe fn kind_of(statement: *mut pg_sys::IndexStmt) -> Result<Kind, Error> {
    // SAFETY: as promised; the routine is palloc'd and the element lists hold IndexElem nodes.
    unsafe {
        let method = CStr::from_ptr((*statement).accessMethod).to_string_lossy();
        let kind = [Kind::Btree, Kind::Hash, Kind::Brin, Kind::Gin]
            .into_iter()
            .find(|kind| kind.access_method() == method)
            .ok_or_else(|| unsupported(&format!("access method \"{method}\"")))?;
        let am = &*pg_sys::GetIndexAmRoutineByAmId(method_of(kind), false);
        let elements = PgList::<pg_sys::IndexElem>::from_pg((*statement).indexParams);
        let ordered = elements.iter_ptr().any(|element| {
            (*element).ordering != pg_sys::SortByDir::SORTBY_DEFAULT
                || (*element).nulls_ordering != pg_sys::SortByNulls::SORTBY_NULLS_DEFAULT
        });
        let refused = if (*statement).unique && !am.amcanunique {
            Some("UNIQUE")
        } else if !(*statement).indexIncludingParams.is_null() && !am.amcaninclude {
            Some("INCLUDE")
        } else if elements.len() > 1 && !am.amcanmulticol {
            Some("several columns")
        } else if ordered && !am.amcanorder {
            Some("ASC, DESC or NULLS FIRST, LAST")
        } else {
            None
        };
        match refused {
            Some(what) => Err(Error::Unsupported {
                message: format!("access method \"{method}\" does not support {what}"),
                hint: "CREATE INDEX would refuse this index too.".to_owned(),
            }),
            None => Ok(kind),
        }
    }
}

/// Storage parameters, checked as the server checks them.
///
/// # Safety
/// `statement` is a parsed CREATE INDEX.
unsafe fn storage_of(statement: *mut pg_sys::IndexStmt, kind: Kind) -> Result<Storage, Error> {
    let mut storage = Storage::default();
    // SAFETY: as promised; the option list holds DefElem nodes with NUL-terminated names.
    unsafe {
        for option in PgList::<pg_sys::DefElem>::from_pg((*statement).options).iter_ptr() {
            let name = CStr::from_ptr((*option).defname).to_string_lossy();
            match &*name {
                "fillfactor" => storage.fillfactor = Some(f64::from(pg_sys::defGetInt32(option))),
                "deduplicate_items" => storage.deduplicate = pg_sys::defGetBoolean(option),
                "pages_per_range" => storage.pages_per_range = f64::from(pg_sys::defGetInt32(option).max(1)),
                _ => return Err(unsupported(&format!("an index with storage parameter \"{name}\""))),
            }
        }
        let options = pg_sys::transformRelOptions(
            pg_sys::Datum::from(0),
            (*statement).options,
            ptr::null(),
            ptr::null_mut(),
            false,
            false,
        );
        let am = &*pg_sys::GetIndexAmRoutineByAmId(method_of(kind), false);
        pg_sys::index_reloptions(am.amoptions, options, true);
    }
    Ok(storage)
}

struct Reader<'a> {
    relation: &'a Relation,
    state: *mut pg_sys::ParseState,
    kind: Kind,
}

impl<'a> Reader<'a> {
    /// # Safety
    /// The relation is locked.
    unsafe fn new(relation: &'a Relation, text: &'a CStr, kind: Kind) -> Self {
        // SAFETY: the parse state lives in the current context; the relation is closed again but stays locked, as the
        // parser itself leaves it.
        unsafe {
            let state = pg_sys::make_parsestate(ptr::null_mut());
            (*state).p_sourcetext = text.as_ptr();
            let opened = pg_sys::relation_open(relation.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            let item = pg_sys::addRangeTableEntryForRelation(
                state,
                opened,
                pg_sys::AccessShareLock as i32,
                ptr::null_mut(),
                false,
                true,
            );
            pg_sys::addNSItemToQuery(state, item, false, true, true);
            pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
            Reader { relation, state, kind }
        }
    }

    /// # Safety
    /// `statement` is a parsed CREATE INDEX on the relation.
    unsafe fn read(&self, statement: *mut pg_sys::IndexStmt) -> Result<(Hypothetical, Option<String>), Error> {
        // SAFETY: element lists of a CREATE INDEX hold IndexElem nodes.
        unsafe {
            let (mut keys, mut names) = (Vec::new(), Vec::new());
            for element in PgList::<pg_sys::IndexElem>::from_pg((*statement).indexParams).iter_ptr() {
                let (key, name) = self.key(element)?;
                keys.push(key);
                names.push(name);
            }
            let mut include = Vec::new();
            for element in PgList::<pg_sys::IndexElem>::from_pg((*statement).indexIncludingParams).iter_ptr() {
                let column = self.column(element)?.ok_or_else(|| unsupported("an expression in INCLUDE"))?;
                include.push(column);
            }
            let name = if (*statement).idxname.is_null() {
                name::index_name(&self.relation.name, &names, |_| false)
            } else {
                ident::from_server(CStr::from_ptr((*statement).idxname))
            };
            let mut index = Hypothetical::new(&name, self.relation.oid, self.kind, keys);
            index.include = include;
            index.unique = (*statement).unique;
            index.nulls_not_distinct = (*statement).nulls_not_distinct;
            let predicate = self.predicate((*statement).whereClause, &mut index)?;
            Ok((index, predicate))
        }
    }

    /// The attribute number of a plain column; None for an expression.
    ///
    /// # Safety
    /// `element` is valid.
    unsafe fn column(&self, element: *mut pg_sys::IndexElem) -> Result<Option<i16>, Error> {
        // SAFETY: names are NUL-terminated.
        unsafe {
            if (*element).name.is_null() {
                return Ok(None);
            }
            let name = ident::from_server(CStr::from_ptr((*element).name));
            match self.relation.column_named(&name) {
                Some(column) if column.is_virtual => Err(unsupported("an index on a virtual generated column")),
                Some(column) => Ok(Some(column.number)),
                None => Err(Error::UndefinedColumn {
                    message: format!("column \"{name}\" of {} does not exist", self.relation.qualified()),
                    hint: "Each element of \"indexes\" names columns of its table.".to_owned(),
                }),
            }
        }
    }

    /// # Safety
    /// `element` is valid.
    unsafe fn key(&self, element: *mut pg_sys::IndexElem) -> Result<(KeyPart, String), Error> {
        // SAFETY: as promised; analysed expressions live in the current context.
        unsafe {
            if !(*element).opclassopts.is_null() {
                return Err(unsupported("an operator class with parameters"));
            }
            let (mut key, name) = match self.column(element)?.and_then(|at| self.relation.column(at)) {
                Some(column) => {
                    (KeyPart::of_column(column.number, column.type_oid, column.collation), column.name.clone())
                }
                None => {
                    let kind = pg_sys::ParseExprKind::EXPR_KIND_INDEX_EXPRESSION;
                    let node = self.settled(pg_sys::transformExpr(self.state, (*element).expr, kind))?;
                    (KeyPart::of_expression(node), "expr".to_owned())
                }
            };
            if !(*element).collation.is_null() {
                key.collation = pg_sys::get_collation_oid((*element).collation, false);
            }
            let method = ident::until_nul(self.kind.access_method());
            let class = pg_sys::ResolveOpClass((*element).opclass, key.type_oid, method.as_ptr(), method_of(self.kind));
            key.set_class(class).ok_or_else(|| unsupported("an operator class that is being dropped"))?;
            key.descending = (*element).ordering == pg_sys::SortByDir::SORTBY_DESC;
            key.nulls_first = match (*element).nulls_ordering {
                pg_sys::SortByNulls::SORTBY_NULLS_FIRST => true,
                pg_sys::SortByNulls::SORTBY_NULLS_LAST => false,
                _ => key.descending,
            };
            Ok((key, name))
        }
    }

    /// Collations assigned, constants folded, functions known: as the relation cache would hand it to the planner.
    ///
    /// # Safety
    /// `node` is an analysed expression.
    unsafe fn settled(&self, node: *mut pg_sys::Node) -> Result<*mut pg_sys::Node, Error> {
        // SAFETY: as promised.
        unsafe {
            pg_sys::assign_expr_collations(self.state, node);
            if pg_sys::contain_mutable_functions(node) {
                return Err(Error::Unsupported {
                    message: "functions in an index must be marked IMMUTABLE".to_owned(),
                    hint: "CREATE INDEX would refuse this index too.".to_owned(),
                });
            }
            let folded = pg_sys::eval_const_expressions(ptr::null_mut(), node);
            pg_sys::fix_opfuncids(folded);
            Ok(folded)
        }
    }

    /// Sets the predicate and returns it in SQL.
    ///
    /// # Safety
    /// `clause` is NULL or a parsed expression.
    unsafe fn predicate(&self, clause: *mut pg_sys::Node, index: &mut Hypothetical) -> Result<Option<String>, Error> {
        if clause.is_null() {
            return Ok(None);
        }
        // SAFETY: the deparse context is made for the one relation the expression is over.
        unsafe {
            let kind = pg_sys::ParseExprKind::EXPR_KIND_INDEX_PREDICATE;
            let node = pg_sys::transformExpr(self.state, clause, kind);
            let node = pg_sys::coerce_to_boolean(self.state, node, c"WHERE".as_ptr());
            let node = self.settled(node)?;
            let name = ident::until_nul(&self.relation.name);
            let context = pg_sys::deparse_context_for(name.as_ptr(), self.relation.oid);
            let printed = ident::owned(pg_sys::deparse_expression(node, context, false, false)).unwrap_or_default();
            index.predicate = pg_sys::make_ands_implicit(pg_sys::canonicalize_qual(node.cast(), false).cast());
            Ok(Some(printed))
        }
    }
}
