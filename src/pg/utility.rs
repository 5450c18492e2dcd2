//! Recognises the utility statements that a resident worker would hold up, or that change which databases have the
//! extension. Called by the utility hook before the statement runs. Locks nothing.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use pgrx::PgList;

/// A statement the collector has to know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UtilityKind {
    /// CREATE DATABASE: the template, which must have no connections.
    CreateDatabase { template: String },
    /// DROP DATABASE, ALTER DATABASE RENAME or SET TABLESPACE: the database, which must have no connections.
    ExclusiveDatabase { name: String },
    /// CREATE EXTENSION perf_opt.
    CreateExtension,
    /// DROP EXTENSION perf_opt.
    DropExtension,
}

const EXTENSION: &CStr = c"perf_opt";

/// Whether [`classify`] has to look closer; one comparison for nearly every statement.
///
/// # Safety
/// As for [`classify`].
#[inline]
pub unsafe fn may_concern(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as Tag;
    // SAFETY: see the function's contract.
    !node.is_null()
        && matches!(
            unsafe { (*node).type_ },
            Tag::T_CreatedbStmt
                | Tag::T_DropdbStmt
                | Tag::T_AlterDatabaseStmt
                | Tag::T_RenameStmt
                | Tag::T_CreateExtensionStmt
                | Tag::T_DropStmt
        )
}

/// Classifies a utility statement.
///
/// # Safety
/// `node` is null or a valid parse node, as the server hands it to ProcessUtility.
pub unsafe fn classify(node: *mut pg_sys::Node) -> Option<UtilityKind> {
    if node.is_null() {
        return None;
    }
    // SAFETY: the tag says which struct the node is; strings in parse nodes are NUL-terminated or null.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_CreatedbStmt => {
                let statement = &*node.cast::<pg_sys::CreatedbStmt>();
                let template = string_option(statement.options, c"template").unwrap_or_else(|| "template1".to_owned());
                Some(UtilityKind::CreateDatabase { template })
            }
            pg_sys::NodeTag::T_DropdbStmt => named((*node.cast::<pg_sys::DropdbStmt>()).dbname),
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let statement = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                string_option(statement.options, c"tablespace").and_then(|_| named(statement.dbname))
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                if statement.renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                named(statement.subname)
            }
            pg_sys::NodeTag::T_CreateExtensionStmt => {
                let name = (*node.cast::<pg_sys::CreateExtensionStmt>()).extname;
                (!name.is_null() && CStr::from_ptr(name) == EXTENSION).then_some(UtilityKind::CreateExtension)
            }
            pg_sys::NodeTag::T_DropStmt => {
                let statement = &*node.cast::<pg_sys::DropStmt>();
                if statement.removeType != pg_sys::ObjectType::OBJECT_EXTENSION {
                    return None;
                }
                let names = PgList::<pg_sys::Node>::from_pg(statement.objects);
                let ours = names.iter_ptr().any(|name| string_value(name).is_some_and(|name| name == EXTENSION));
                ours.then_some(UtilityKind::DropExtension)
            }
            _ => None,
        }
    }
}

/// # Safety
/// `name` is null or a NUL-terminated string.
unsafe fn named(name: *const core::ffi::c_char) -> Option<UtilityKind> {
    if name.is_null() {
        return None;
    }
    // SAFETY: see the function's contract.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    Some(UtilityKind::ExclusiveDatabase { name })
}

/// # Safety
/// `node` is null or a valid node.
unsafe fn string_value<'a>(node: *mut pg_sys::Node) -> Option<&'a CStr> {
    // SAFETY: the tag is checked before the cast.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_String {
            return None;
        }
        Some(CStr::from_ptr((*node.cast::<pg_sys::String>()).sval))
    }
}

/// # Safety
/// `options` is null or a list of DefElem.
unsafe fn string_option(options: *mut pg_sys::List, wanted: &CStr) -> Option<String> {
    // SAFETY: see the function's contract; the value is checked for its tag.
    unsafe {
        let options = PgList::<pg_sys::DefElem>::from_pg(options);
        let option = options.iter_ptr().find(|&option| CStr::from_ptr((*option).defname) == wanted)?;
        let argument = (*option).arg;
        if let Some(text) = string_value(argument) {
            return Some(text.to_string_lossy().into_owned());
        }
        if !argument.is_null() && (*argument).type_ == pg_sys::NodeTag::T_TypeName {
            // An unquoted word is parsed as a type name.
            let names = PgList::<pg_sys::Node>::from_pg((*argument.cast::<pg_sys::TypeName>()).names);
            return names
                .iter_ptr()
                .last()
                .and_then(|name| string_value(name))
                .map(|name| name.to_string_lossy().into_owned());
        }
        None
    }
}

/// A database by name, if the current role could carry out such a statement on it: its owner, a superuser, or (as a
/// template) anyone who may create databases. Anybody else's statement will fail and must not disturb the worker.
/// Needs an open transaction.
pub fn database_for(name: &str, as_template: bool) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: catalog lookups inside a transaction, by NUL-terminated name or by OID; the tuples are released.
    unsafe {
        let dbid = pg_sys::get_database_oid(name.as_ptr(), true);
        if dbid == pg_sys::InvalidOid {
            return None;
        }
        let role = pg_sys::GetUserId();
        if pg_sys::superuser_arg(role) {
            return Some(dbid.to_u32());
        }
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::DATABASEOID as i32, pg_sys::Datum::from(dbid));
        if tuple.is_null() {
            return None;
        }
        let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
        let (owner, is_template) = (row.datdba, row.datistemplate);
        pg_sys::ReleaseSysCache(tuple);
        let owns = pg_sys::has_privs_of_role(role, owner);
        let allowed = if as_template { (owns || is_template) && may_create_databases(role) } else { owns };
        allowed.then_some(dbid.to_u32())
    }
}

/// Whether the current role could drop the extension: its owner or a superuser. Needs an open transaction.
pub fn may_drop_extension() -> bool {
    // SAFETY: catalog lookups inside a transaction.
    unsafe {
        let extension = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        if extension == pg_sys::InvalidOid {
            return false;
        }
        let role = pg_sys::GetUserId();
        if pg_sys::superuser_arg(role) {
            return true;
        }
        #[cfg(feature = "pg15")]
        return pg_sys::pg_extension_ownercheck(extension, role);
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::ExtensionRelationId, extension, role)
    }
}

fn may_create_databases(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog lookup inside a transaction; the tuple is released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::AUTHOID as i32, pg_sys::Datum::from(role));
        if tuple.is_null() {
            return false;
        }
        let allowed = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_authid>()).rolcreatedb;
        pg_sys::ReleaseSysCache(tuple);
        allowed
    }
}
