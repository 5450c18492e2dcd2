//! Who may see what others do. Called by the SQL surface inside a transaction. Locks nothing.

use pgrx::pg_sys;

/// The role that asks, and whether it may see everybody's statements.
#[derive(Clone, Copy, Debug)]
pub struct Viewer {
    role: u32,
    sees_all: bool,
}

impl Viewer {
    /// The current role: of the session, or of the SECURITY DEFINER function it is in.
    pub fn current() -> Viewer {
        // SAFETY: catalog lookups inside a transaction.
        unsafe {
            let role = pg_sys::GetUserId();
            let sees_all =
                pg_sys::has_privs_of_role(role, pg_sys::Oid::from(pg_sys::ROLE_PG_READ_ALL_STATS));
            Viewer { role: role.to_u32(), sees_all }
        }
    }

    /// Whether what `owner` did is to be shown.
    pub fn may_see(&self, owner: u32) -> bool {
        self.sees_all || self.role == owner
    }
}
