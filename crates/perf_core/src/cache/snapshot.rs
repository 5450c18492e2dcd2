//! Which transactions a value was computed with, and whether it may still be served.
//!
//! The rule: an invalidation is a transaction that began to mark when it saw what had changed, so a snapshot that sees that
//! transaction was taken after the change was committed. A value is valid if its snapshot sees the last transaction that
//! has marked each thing it depends on. Nobody waits for anybody: who puts late an old value has an old snapshot.

use core::fmt;

/// What a statement sees: transactions below a number that are not among those that were running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Transactions from here on had not begun, or not ended.
    pub seen_below: u64,
    /// Those below that had not ended, in order.
    pub not_seen: Vec<u64>,
}

/// A text that is no snapshot as the server prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSnapshot;

impl Snapshot {
    /// Of transactions in any order.
    pub fn new(seen_below: u64, mut not_seen: Vec<u64>) -> Snapshot {
        not_seen.retain(|xid| *xid < seen_below);
        not_seen.sort_unstable();
        not_seen.dedup();
        Snapshot { seen_below, not_seen }
    }

    /// Reads what the server prints of a pg_snapshot: `xmin:xmax:running,running`.
    pub fn parse(text: &str) -> Result<Snapshot, NoSnapshot> {
        let mut parts = text.split(':');
        let (Some(_), Some(seen_below), Some(running), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NoSnapshot);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoSnapshot);
        let running = running.split(',').filter(|one| !one.is_empty()).map(number).collect::<Result<Vec<_>, _>>()?;
        Ok(Snapshot::new(number(seen_below)?, running))
    }

    /// The same for what others will see of the transaction that took it: not what it has done itself, for others see that
    /// only after it has ended, whatever its number.
    pub fn without(mut self, own: Option<u64>) -> Snapshot {
        if let Some(own) = own.filter(|own| *own < self.seen_below) {
            if let Err(at) = self.not_seen.binary_search(&own) {
                self.not_seen.insert(at, own);
            }
        }
        self
    }

    /// Whether it sees what a transaction that was committed has done.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.seen_below && self.not_seen.binary_search(&xid).is_err()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:", self.not_seen.first().unwrap_or(&self.seen_below), self.seen_below)?;
        for (n, xid) in self.not_seen.iter().enumerate() {
            write!(out, "{}{xid}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn printed_and_read() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        assert_eq!(snapshot, Snapshot::new(20, vec![14, 10]));
        assert_eq!(snapshot.to_string(), "10:20:10,14");
        assert_eq!(Snapshot::parse("7:7:").unwrap().to_string(), "7:7:");
        assert!(snapshot.sees(9) && snapshot.sees(19) && !snapshot.sees(14) && !snapshot.sees(20));
        for text in ["", "1", "1:2", "1:2:x", "1:x:", "1:2:3:4"] {
            assert_eq!(Snapshot::parse(text), Err(NoSnapshot), "{text}");
        }
    }

    #[test]
    fn own_changes_are_not_seen() {
        let snapshot = Snapshot::new(20, vec![10]).without(Some(15));
        assert!(!snapshot.sees(15));
        assert_eq!(snapshot.clone().without(Some(15)), snapshot);
        assert_eq!(snapshot.clone().without(Some(30)), snapshot);
        assert_eq!(snapshot.clone().without(None), snapshot);
    }

    /// A server with transactions, one datum, one mark and one entry.
    #[derive(Default)]
    struct Server {
        next: u64,
        running: BTreeSet<u64>,
        last_ended: u64,
        /// Committed writes of the datum, in order of commit.
        committed: Vec<u64>,
        /// Transactions whose change waits to be worked off.
        outbox: Vec<u64>,
        /// The worker's transaction, and the changes it has taken.
        marking: Option<(u64, Vec<u64>)>,
        mark: Option<u64>,
        /// Changes whose invalidation is committed.
        acknowledged: BTreeSet<u64>,
    }

    struct Entry {
        snapshot: Snapshot,
        /// Writes that its value was computed with.
        value: BTreeSet<u64>,
    }

    impl Server {
        fn begin(&mut self) -> u64 {
            let xid = self.next + 100;
            self.next += 1;
            self.running.insert(xid);
            xid
        }

        fn end(&mut self, xid: u64) {
            self.running.remove(&xid);
            self.last_ended = self.last_ended.max(xid);
        }

        fn snapshot(&self) -> Snapshot {
            // As the server takes it: below the last that has ended, but for those that run.
            let seen_below = self.last_ended.max(99) + 1;
            Snapshot::new(seen_below, self.running.iter().copied().filter(|xid| *xid < seen_below).collect())
        }

        fn is_valid(&self, snapshot: &Snapshot) -> bool {
            self.mark.is_none_or(|xid| snapshot.sees(xid))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
        #[test]
        fn no_entry_lacks_what_was_invalidated(steps in prop::collection::vec((0u8..9, 0usize..8), 1..120)) {
            let mut server = Server::default();
            let mut writers: Vec<u64> = Vec::new();
            // Values computed and not put yet; entries of transactions that are open, checked when they were put.
            let mut computed: Vec<Entry> = Vec::new();
            let mut open: Vec<(u64, Entry)> = Vec::new();
            let mut stored: Vec<Entry> = Vec::new();
            for (step, which) in steps {
                match step {
                    0 => writers.push(server.begin()),
                    1 if !writers.is_empty() => {
                        let xid = writers.remove(which % writers.len());
                        server.end(xid);
                        server.committed.push(xid);
                        server.outbox.push(xid);
                    }
                    2 if server.marking.is_none() && !server.outbox.is_empty() => {
                        let taken = std::mem::take(&mut server.outbox);
                        let xid = server.begin();
                        server.marking = Some((xid, taken));
                    }
                    3 => {
                        if let Some((xid, taken)) = server.marking.take() {
                            server.end(xid);
                            server.mark = Some(xid);
                            server.acknowledged.extend(taken);
                        }
                    }
                    4 | 5 => computed.push(Entry {
                        snapshot: server.snapshot(),
                        value: server.committed.iter().copied().collect(),
                    }),
                    6 if !computed.is_empty() => {
                        let entry = computed.remove(which % computed.len());
                        if server.is_valid(&entry.snapshot) {
                            let xid = server.begin();
                            open.push((xid, entry));
                        }
                    }
                    7 if !open.is_empty() => {
                        let (xid, entry) = open.remove(which % open.len());
                        server.end(xid);
                        stored.push(entry);
                    }
                    _ => {}
                }
                for entry in stored.iter().filter(|entry| server.is_valid(&entry.snapshot)) {
                    prop_assert!(server.acknowledged.is_subset(&entry.value));
                }
            }
            // What is computed when everything is quiet is kept.
            if let Some((xid, taken)) = server.marking.take() {
                server.end(xid);
                server.mark = Some(xid);
                server.acknowledged.extend(taken);
            }
            prop_assert!(server.is_valid(&server.snapshot()));
        }

        #[test]
        fn reads_what_it_prints(seen_below in 0u64..u64::MAX, running in prop::collection::vec(0u64..u64::MAX, 0..6)) {
            let snapshot = Snapshot::new(seen_below, running);
            prop_assert_eq!(Snapshot::parse(&snapshot.to_string()), Ok(snapshot));
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = Snapshot::parse(&text);
        }
    }
}
