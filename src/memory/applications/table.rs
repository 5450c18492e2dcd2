//! The table of the applications of all backends that have left, or that count under another name now. The one who holds the
//! lock of [`super`] exclusively writes it; when it is full, the application with least to show moves to the others of its
//! database.

use perf_core::fnv::fnv1a;

use super::{Counts, Identity};

/// Applications that are kept apart once their backends have left.
pub const ENTRIES: usize = 512;
/// Databases whose other applications are kept apart; those of further ones share the last row.
pub(super) const OTHERS: usize = 32;

#[repr(C)]
pub(super) struct Kept {
    pub(super) identity: Identity,
    pub(super) counts: Counts,
}

/// Where counts go; all-zero bytes are an empty one.
#[repr(C)]
pub(super) struct Table {
    /// Hash of each row's identity, apart from the rows to be searched fast; 0: free.
    hashes: [u64; ENTRIES],
    weights: [u64; ENTRIES],
    pub(super) used: u32,
    /// Applications that gave their place to another.
    pub(super) moved: u64,
    rows: [Kept; ENTRIES],
    others: [Kept; OTHERS],
    others_used: u32,
}

/// FNV-1a; never 0, which stands for "free".
fn hash_of(identity: &Identity) -> u64 {
    let (dbid, userid) = (identity.dbid.to_le_bytes(), identity.userid.to_le_bytes());
    let bytes = dbid.iter().chain(&userid).chain(identity.name.iter().take_while(|&&byte| byte != 0));
    fnv1a(bytes.copied()).max(1)
}

impl Table {
    pub(super) fn add(&mut self, identity: &Identity, counts: &Counts) {
        let hash = hash_of(identity);
        let known = (0..ENTRIES).find(|&index| self.hashes[index] == hash && self.rows[index].identity == *identity);
        let index = known.unwrap_or_else(|| self.take_row(identity, hash));
        let row = &mut self.rows[index];
        row.counts.merge(counts);
        self.weights[index] = row.counts.weight();
    }

    /// An empty row for a newcomer: a free one, or that of the application with least to show, which moves to the other
    /// applications of its database.
    fn take_row(&mut self, identity: &Identity, hash: u64) -> usize {
        let index = match self.hashes.iter().position(|&hash| hash == 0) {
            Some(free) => {
                self.used += 1;
                free
            }
            None => {
                let least = (0..ENTRIES).min_by_key(|&index| self.weights[index]).unwrap_or(0);
                let (dbid, counts) = (self.rows[least].identity.dbid, self.rows[least].counts.clone());
                self.add_to_others(dbid, &counts);
                self.moved += 1;
                least
            }
        };
        self.hashes[index] = hash;
        self.rows[index].identity = *identity;
        self.rows[index].counts = Counts::default();
        index
    }

    fn add_to_others(&mut self, dbid: u32, counts: &Counts) {
        let used = self.others_used as usize;
        let index = match self.others[..used].iter().position(|row| row.identity.dbid == dbid) {
            Some(index) => index,
            None => {
                let index = used.min(OTHERS - 1);
                if used < OTHERS {
                    self.others_used += 1;
                    // The last row is everybody's.
                    self.others[index].identity = Identity::other(if index == OTHERS - 1 { 0 } else { dbid });
                    self.others[index].counts = Counts::default();
                }
                index
            }
        };
        self.others[index].counts.merge(counts);
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Kept> {
        let kept = self.rows.iter().zip(&self.hashes).filter(|(_, hash)| **hash != 0).map(|(row, _)| row);
        kept.chain(&self.others[..self.others_used as usize])
    }

    pub(super) fn forget(&mut self, dbid: Option<u32>) {
        for index in 0..ENTRIES {
            if self.hashes[index] != 0 && dbid.is_none_or(|dbid| self.rows[index].identity.dbid == dbid) {
                self.hashes[index] = 0;
                self.used -= 1;
            }
        }
        // The row stays taken: the last one belongs to several databases.
        for row in &mut self.others[..self.others_used as usize] {
            if dbid.is_none_or(|dbid| row.identity.dbid == dbid) {
                row.counts = Counts::default();
            }
        }
        if dbid.is_none() {
            self.moved = 0;
        }
    }
}
