//! Which entries of a cache make room when it is full. Pure.

/// An entry that may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its hash.
    pub id: i64,
    /// What it takes.
    pub bytes: u64,
    /// When it was put.
    pub put_at: i64,
    /// Nobody may be given it any more.
    pub is_dead: bool,
    /// It was read lately.
    pub is_used: bool,
}

/// The entries to remove, at most `count_max`, so that no more than `limit` bytes are left: all that are dead, then those not
/// read lately, oldest first, then the rest.
pub fn victims(mut entries: Vec<Entry>, limit: u64, count_max: usize) -> Vec<i64> {
    let mut left: u64 = entries.iter().map(|entry| entry.bytes).sum();
    entries.sort_unstable_by_key(|entry| (!entry.is_dead, entry.is_used, entry.put_at, entry.id));
    let mut chosen = Vec::new();
    for entry in entries {
        if chosen.len() >= count_max || !entry.is_dead && left <= limit {
            break;
        }
        left -= entry.bytes;
        chosen.push(entry.id);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(id: i64, bytes: u64, put_at: i64, is_dead: bool, is_used: bool) -> Entry {
        Entry { id, bytes, put_at, is_dead, is_used }
    }

    #[test]
    fn the_dead_go_first_then_the_unread_then_the_oldest() {
        let all = vec![
            entry(1, 10, 5, false, true),
            entry(2, 10, 1, false, true),
            entry(3, 10, 9, true, true),
            entry(4, 10, 8, false, false),
        ];
        assert_eq!(victims(all.clone(), 100, 10), [3]);
        assert_eq!(victims(all.clone(), 20, 10), [3, 4]);
        assert_eq!(victims(all.clone(), 10, 10), [3, 4, 2]);
        assert_eq!(victims(all.clone(), 0, 10), [3, 4, 2, 1]);
        assert_eq!(victims(all, 0, 2), [3, 4]);
    }

    proptest! {
        #[test]
        fn what_is_left_fits(sizes in prop::collection::vec((1u64..1000, any::<bool>(), any::<bool>()), 0..50), limit in 0u64..9000) {
            let all: Vec<Entry> = (0..).zip(sizes).map(|(id, (bytes, dead, used))| entry(id, bytes, id, dead, used)).collect();
            let gone = victims(all.clone(), limit, usize::MAX);
            let left: Vec<&Entry> = all.iter().filter(|entry| !gone.contains(&entry.id)).collect();
            prop_assert!(left.iter().map(|entry| entry.bytes).sum::<u64>() <= limit);
            prop_assert!(left.iter().all(|entry| !entry.is_dead));
        }
    }
}
