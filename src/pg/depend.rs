//! What goes with the extension although it is not of it. Called inside a transaction. Locks nothing.

use std::ffi::CString;

use pgrx::pg_sys;

/// Lets a trigger be dropped with the extension, as ALTER TRIGGER ... DEPENDS ON EXTENSION does for a relation's owner.
pub fn trigger_on_extension(relation: pg_sys::Oid, trigger: &str) {
    let Ok(name) = CString::new(trigger) else { return };
    // SAFETY: catalog look-ups by NUL-terminated names inside a transaction; both addresses live through the call.
    unsafe {
        pg_sys::CommandCounterIncrement();
        let trigger = pg_sys::get_trigger_oid(relation, name.as_ptr(), true);
        let extension = pg_sys::get_extension_oid(c"perf_opt".as_ptr(), true);
        if trigger == pg_sys::InvalidOid || extension == pg_sys::InvalidOid {
            return;
        }
        let class = |id| pg_sys::ObjectAddress { classId: id, objectId: pg_sys::InvalidOid, objectSubId: 0 };
        let depender = pg_sys::ObjectAddress { objectId: trigger, ..class(pg_sys::TriggerRelationId) };
        let depended = pg_sys::ObjectAddress { objectId: extension, ..class(pg_sys::ExtensionRelationId) };
        let kind = pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION;
        pg_sys::deleteDependencyRecordsForSpecific(
            pg_sys::TriggerRelationId,
            trigger,
            kind as core::ffi::c_char,
            pg_sys::ExtensionRelationId,
            extension,
        );
        pg_sys::recordDependencyOn(&raw const depender, &raw const depended, kind);
    }
}
