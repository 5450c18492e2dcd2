//! What people have ticked off by hand: items of the checklist and tasks of the roadmap that no server can look at. Owns
//! perf.manual_tick, which is written with the rights of its owner and read by everybody. Locks the row it writes.
//!
//! A tick is for what the item said then: when somebody rewrites the item, the tick no longer counts.

use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::{run_with, text, Row};
use crate::pg::text::Text;

const TABLE: &std::ffi::CStr = c"manual_tick";
const NOTE_CHARS_MAX: usize = 2_000;

/// Where ticks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Checklist,
    Roadmap,
}

impl List {
    fn name(self) -> &'static str {
        match self {
            List::Checklist => "checklist",
            List::Roadmap => "roadmap",
        }
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Tick {
    pub phase: String,
    pub item_no: i32,
    /// What was ticked.
    pub item: String,
    pub note: Option<String>,
    /// Name of the role.
    pub ticked_by: String,
    /// As the server prints it in the session's time zone, to the minute.
    pub ticked_at: String,
}

impl Tick {
    /// `ticked by anna at 2026-01-31 12:00 +00: the note`.
    pub fn told(&self) -> String {
        let note = self.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("ticked by {} at {}{note}", self.ticked_by, self.ticked_at)
    }
}

fn read(row: &Row) -> Tick {
    Tick {
        phase: row.string(1),
        item_no: row.get::<i32>(2).unwrap_or(0),
        item: row.string(3),
        note: row.get::<Text>(4).map(|note| note.0),
        ticked_by: row.string(5),
        ticked_at: row.string(6),
    }
}

/// All ticks of a list.
pub fn all(list: List) -> Vec<Tick> {
    let found = privilege::with_own_path(|| {
        run_with(
            c"SELECT phase, item_no, item, note, ticked_by, to_char(ticked_at, 'YYYY-MM-DD HH24:MI TZH')
                FROM perf.manual_tick WHERE list = $1",
            &[text(list.name())],
            read,
        )
    });
    found.1
}

/// The tick of an item as it is worded now.
pub fn of<'a>(ticks: &'a [Tick], phase: &str, item_no: i32, item: &str) -> Option<&'a Tick> {
    ticks.iter().find(|tick| tick.phase == phase && tick.item_no == item_no && tick.item == item)
}

/// Ticks an item, once.
pub fn tick(list: List, phase: &str, item_no: i32, item: &str, note: Option<&str>) -> Result<(), Error> {
    if note.is_some_and(|note| note.chars().count() > NOTE_CHARS_MAX) {
        return Err(Error::InvalidArgument {
            argument: "note",
            value: format!("text of more than {NOTE_CHARS_MAX} characters"),
            accepted: format!("A note of {NOTE_CHARS_MAX} characters at most."),
        });
    }
    let role = privilege::current_role();
    let written = privilege::as_owner(TABLE, || {
        let note = note.map(|note| Text(note.to_owned()));
        Ok(run_with(
            c"INSERT INTO perf.manual_tick AS t (list, phase, item_no, item, note, ticked_by)
              VALUES ($1, $2, $3, $4, $5, pg_get_userbyid($6))
              ON CONFLICT (list, phase, item_no) DO UPDATE
                 SET item = excluded.item, note = excluded.note, ticked_by = excluded.ticked_by,
                     ticked_at = excluded.ticked_at
               WHERE t.item <> excluded.item",
            &[text(list.name()), text(phase), item_no.into(), text(item), note.into(), role.into()],
            |_| (),
        )
        .0)
    })?;
    if written > 0 {
        return Ok(());
    }
    let known = all(list);
    let by = of(&known, phase, item_no, item).map_or_else(|| "ticked".to_owned(), Tick::told);
    Err(Error::DuplicateObject {
        message: format!("item {item_no} of phase \"{phase}\" is {by}"),
        hint: format!("perf.{}_untick() takes a tick away.", list.name()),
    })
}

/// Takes a tick away; whether there was one. Whoever ticked may, who has that role's rights, and anybody when it is gone.
pub fn untick(list: List, phase: &str, item_no: i32) -> Result<bool, Error> {
    let key = [text(list.name()), text(phase), item_no.into()];
    let owner = privilege::with_own_path(|| {
        run_with(
            c"SELECT t.ticked_by, r.oid FROM perf.manual_tick AS t LEFT JOIN pg_roles AS r ON r.rolname = t.ticked_by
               WHERE list = $1 AND phase = $2 AND item_no = $3",
            &key,
            |row| (row.string(1), row.get::<pgrx::pg_sys::Oid>(2)),
        )
    });
    let Some((name, role)) = owner.1.into_iter().next() else { return Ok(false) };
    if role.is_some_and(|role| !privilege::has_rights_of(role)) {
        return Err(Error::Denied {
            message: format!("item {item_no} of phase \"{phase}\" was ticked by role \"{name}\""),
            hint: "That role can take its tick away, and members of it.".to_owned(),
        });
    }
    privilege::as_owner(TABLE, || {
        let gone = c"DELETE FROM perf.manual_tick WHERE list = $1 AND phase = $2 AND item_no = $3";
        Ok(run_with(gone, &key, |_| ()).0 > 0)
    })
}
