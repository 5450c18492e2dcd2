//! Operator classes that an index needs for a condition, looked up in the syscache; locks nothing.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::ident;
use super::relation::{self, default_opclass};

/// Members of one cache list looked at, at most.
const MEMBERS_MAX: usize = 1_000;

/// What is compared with patterns as plain text.
pub fn is_text(type_oid: pg_sys::Oid) -> bool {
    matches!(type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID)
}

/// The B-tree operator class that orders a text type by bytes, whatever the collation.
pub fn pattern_ops(type_oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let name = match type_oid {
        pg_sys::TEXTOID => c"text_pattern_ops",
        pg_sys::VARCHAROID => c"varchar_pattern_ops",
        pg_sys::BPCHAROID => c"bpchar_pattern_ops",
        _ => return None,
    };
    // SAFETY: three keys of the right types for this cache; the name outlives the call.
    let oid = unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::CLAAMNAMENSP as i32,
            pg_sys::Anum_pg_opclass_oid as i16,
            pg_sys::Datum::from(pg_sys::BTREE_AM_OID),
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)),
            pg_sys::Datum::null(),
        )
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Whether `class` does what the default operator class of a type does: it is that one, or another name for it.
pub fn is_default(class: pg_sys::Oid, type_oid: pg_sys::Oid, method: pg_sys::Oid) -> bool {
    let Some(default) = default_opclass(type_oid, method) else { return false };
    let same = |one: relation::Opclass, other: relation::Opclass| {
        (one.family, one.input, one.stored) == (other.family, other.input, other.stored)
    };
    class == default || relation::opclass(class).zip(relation::opclass(default)).is_some_and(|(a, b)| same(a, b))
}

/// GIN operator classes for values of `type_oid` that can search with `operator`: 0 for the type's default, which comes
/// first, else the OID. And whether each takes text apart, so that a short pattern finds nothing in it.
pub fn gin_classes(operator: pg_sys::Oid, type_oid: pg_sys::Oid) -> Vec<(u32, bool)> {
    let mut families = Vec::new();
    each_member::<pg_sys::FormData_pg_amop>(pg_sys::SysCacheIdentifier::AMOPOPID as i32, operator, |member| {
        if member.amopmethod == pg_sys::GIN_AM_OID && member.amoppurpose as u8 == pg_sys::AMOP_SEARCH {
            families.push(member.amopfamily);
        }
    });
    let mut classes = Vec::new();
    if families.is_empty() {
        return classes;
    }
    let default = default_opclass(type_oid, pg_sys::GIN_AM_OID);
    let by_name = pg_sys::SysCacheIdentifier::CLAAMNAMENSP as i32;
    each_member::<pg_sys::FormData_pg_opclass>(by_name, pg_sys::GIN_AM_OID, |class| {
        // SAFETY: a look-up.
        let fits = unsafe { pg_sys::IsBinaryCoercible(type_oid, class.opcintype) };
        if fits && families.contains(&class.opcfamily) {
            let oid = if default == Some(class.oid) { 0 } else { class.oid.to_u32() };
            classes.push((oid, is_text(class.opcintype)));
        }
    });
    classes.sort_unstable();
    classes
}

/// Calls `read` for the members of a syscache list by its first key.
fn each_member<T>(cache: i32, key: pg_sys::Oid, mut read: impl FnMut(&T)) {
    // SAFETY: the list is released once; its members are tuples of the catalog whose fixed part `T` is, alive until then.
    unsafe {
        let null = pg_sys::Datum::null();
        let list = pg_sys::SearchSysCacheList(cache, 1, pg_sys::Datum::from(key), null, null);
        let count = ((*list).n_members.max(0) as usize).min(MEMBERS_MAX);
        let members = (*list).members.as_slice(count);
        for member in members {
            let tuple = &raw mut (**member).tuple;
            read(&*pg_sys::GETSTRUCT(tuple).cast::<T>());
        }
        pg_sys::ReleaseCatCacheList(list);
    }
}

/// The name as an index definition has it: qualified unless it is the system's. None when it is gone.
pub fn name(opclass: pg_sys::Oid) -> Option<String> {
    // SAFETY: the tuple is released after its fixed part was read; the namespace's name is copied and freed.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::CLAOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(opclass));
        if tuple.is_null() {
            return None;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_opclass>();
        let name = CStr::from_ptr((*class).opcname.data.as_ptr()).to_string_lossy().into_owned();
        let namespace = (*class).opcnamespace;
        pg_sys::ReleaseSysCache(tuple);
        if namespace == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE) {
            return Some(ident::quote(&name));
        }
        let schema = ident::owned(pg_sys::get_namespace_name(namespace))?;
        Some(ident::qualified(&schema, &name))
    }
}

/// Whether a collation orders text by bytes, so that the default operator class serves prefixes.
pub fn orders_by_bytes(collation: pg_sys::Oid) -> bool {
    let (cache, key, provider, name) = if collation == pg_sys::DEFAULT_COLLATION_OID {
        // SAFETY: a process global that is set once when the backend connects.
        let database = unsafe { pg_sys::MyDatabaseId };
        (
            pg_sys::SysCacheIdentifier::DATABASEOID,
            database,
            pg_sys::Anum_pg_database_datlocprovider,
            pg_sys::Anum_pg_database_datcollate,
        )
    } else {
        (
            pg_sys::SysCacheIdentifier::COLLOID,
            collation,
            pg_sys::Anum_pg_collation_collprovider,
            pg_sys::Anum_pg_collation_collcollate,
        )
    };
    // SAFETY: the tuple is released after its attributes were read; a text attribute is copied before.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache as i32, pg_sys::Datum::from(key));
        if tuple.is_null() {
            return false;
        }
        let mut is_null = false;
        let provider = pg_sys::SysCacheGetAttr(cache as i32, tuple, provider as i16, &mut is_null).value() as u8;
        let by_bytes = match provider {
            pg_sys::COLLPROVIDER_LIBC => {
                let name = pg_sys::SysCacheGetAttr(cache as i32, tuple, name as i16, &mut is_null);
                let name = (!is_null).then(|| ident::owned(pg_sys::text_to_cstring(name.cast_mut_ptr()))).flatten();
                matches!(name.as_deref(), Some("C" | "POSIX"))
            }
            pg_sys::COLLPROVIDER_ICU | pg_sys::COLLPROVIDER_DEFAULT => false,
            // The server's own provider, from 17 on.
            _ => true,
        };
        pg_sys::ReleaseSysCache(tuple);
        by_bytes
    }
}
