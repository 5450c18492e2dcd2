//! A cache that keeps no values: which reads it would have answered, for several sizes and times to live at once. Fed with
//! the reads and writes that happened, in their order; keys and values come as hashes.
//!
//! Each pair of a size and a time to live is a cache of its own: least recently used entries give way, entries die at their
//! age, and a write takes out what it may have changed. Memory is bounded: when there are too many keys, half of them are
//! left out, by their hash, and the rest counts double (Waldspurger et al., SHARDS, FAST 2015). The few keys that are read
//! most are kept whatever their hash, and count once: one of them alone could be a tenth of all reads.

use std::collections::HashMap;

/// Keys that are kept because they are read most, at most.
const HOT_MAX: usize = 64;
/// Share of all reads that such a key has at least.
const HOT_SHARE: f64 = 0.002;
/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

/// What is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Bytes of values that a cache holds.
    pub sizes: Vec<u64>,
    /// Microseconds after which an entry is dead; `i64::MAX` for never.
    pub ttls_us: Vec<i64>,
    /// Keys that are kept in memory, at most.
    pub keys_max: usize,
}

/// One use of a relation by a statement: rows of it are read whose columns have the statement's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The relation.
    pub relation: u32,
    /// Columns that are held equal to one value each.
    pub columns: Vec<i16>,
}

/// One read that was executed.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// When, in microseconds.
    pub at: i64,
    /// Number of the statement, as `add_statement` gave it.
    pub statement: usize,
    /// Hash of the statement and its values.
    pub key: u64,
    /// Size of what it gave.
    pub bytes: u64,
    /// Hashes of the values of its uses' columns, one after the other; `None` where one is not known.
    pub values: &'a [Option<u32>],
}

/// What one cache would have done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Its size.
    pub size_bytes: u64,
    /// Its entries' time to live.
    pub ttl_us: i64,
    /// Reads, and those of them that it would have answered.
    pub gets: f64,
    /// See `gets`.
    pub hits: f64,
    /// Entries that it would have now.
    pub entries: f64,
    /// And their bytes.
    pub bytes: f64,
    /// Entries that gave way to others.
    pub evicted: f64,
    /// Entries that died of age.
    pub expired: f64,
    /// Entries that a write took out.
    pub invalidated: f64,
}

/// A doubly linked list of numbers below the length of its arrays.
#[derive(Default)]
struct List {
    before: Vec<u32>,
    after: Vec<u32>,
    ends: Option<(u32, u32)>,
}

impl List {
    fn grow(&mut self, len: usize) {
        self.before.resize(len, NONE);
        self.after.resize(len, NONE);
    }

    fn first(&self) -> Option<u32> {
        self.ends.map(|(first, _)| first)
    }

    fn append(&mut self, number: u32) {
        let (first, last) = self.ends.map_or((number, NONE), |ends| ends);
        self.before[number as usize] = last;
        self.after[number as usize] = NONE;
        if last != NONE {
            self.after[last as usize] = number;
        }
        self.ends = Some((first, number));
    }

    fn remove(&mut self, number: u32) {
        let Some((first, last)) = self.ends else { return };
        let (before, after) = (self.before[number as usize], self.after[number as usize]);
        if before != NONE {
            self.after[before as usize] = after;
        }
        if after != NONE {
            self.before[after as usize] = before;
        }
        let first = if first == number { after } else { first };
        let last = if last == number { before } else { last };
        self.ends = (first != NONE && last != NONE).then_some((first, last));
    }
}

/// One cache. Entries go by the numbers of their keys.
struct Cache {
    size: u64,
    ttl_us: i64,
    stored_at: Vec<i64>,
    /// Bytes that each entry stands for; 0 and not `live` for none.
    charge: Vec<f64>,
    live: Vec<bool>,
    /// Least recently used first.
    by_use: List,
    /// Oldest first.
    by_age: List,
    used: f64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    hits: f64,
    evicted: f64,
    expired: f64,
    invalidated: f64,
}

impl Cache {
    fn new(size: u64, ttl_us: i64) -> Cache {
        Cache {
            size,
            ttl_us,
            stored_at: Vec::new(),
            charge: Vec::new(),
            live: Vec::new(),
            by_use: List::default(),
            by_age: List::default(),
            used: 0.0,
            counts: Counts::default(),
        }
    }

    fn grow(&mut self, len: usize) {
        self.stored_at.resize(len, 0);
        self.charge.resize(len, 0.0);
        self.live.resize(len, false);
        self.by_use.grow(len);
        self.by_age.grow(len);
    }

    fn is_live(&self, number: u32) -> bool {
        self.live[number as usize]
    }

    fn drop_entry(&mut self, number: u32) {
        self.by_use.remove(number);
        self.by_age.remove(number);
        self.live[number as usize] = false;
        self.used -= core::mem::take(&mut self.charge[number as usize]);
        if self.by_use.ends.is_none() {
            // What rounding left.
            self.used = 0.0;
        }
    }

    /// Reads an entry, and puts it there where it is not. `weight` is how many keys this one stands for.
    fn read(&mut self, number: u32, at: i64, bytes: u64, weight: f64, weight_of: impl Fn(u32) -> f64) {
        while let Some(oldest) = self.by_age.first() {
            if self.stored_at[oldest as usize].saturating_add(self.ttl_us) > at {
                break;
            }
            self.drop_entry(oldest);
            self.counts.expired += weight_of(oldest);
        }
        if self.is_live(number) {
            self.counts.hits += weight;
            self.by_use.remove(number);
            self.by_use.append(number);
            return;
        }
        let charge = bytes as f64 * weight;
        if bytes > self.size {
            return;
        }
        while self.used + charge > self.size as f64 {
            let Some(oldest) = self.by_use.first() else { break };
            self.drop_entry(oldest);
            self.counts.evicted += weight_of(oldest);
        }
        self.stored_at[number as usize] = at;
        self.charge[number as usize] = charge;
        self.live[number as usize] = true;
        self.used += charge;
        self.by_use.append(number);
        self.by_age.append(number);
    }
}

/// A key that is kept.
struct Known {
    key: u64,
    statement: usize,
    /// It is among those of its statement that may have an entry.
    stored: bool,
    /// One of those that are read most: it counts once.
    hot: bool,
    reads: f64,
    bytes: u64,
}

/// A use of a statement, one of its columns, and a value of it; `None` for one that is not known.
type Place = (u32, i16, Option<u32>);

struct Statement {
    uses: Vec<Use>,
    /// Number of the first of its uses among those of all statements.
    first_use: u32,
    /// Its keys that were read since all of its entries were last taken out: a write looks at no others.
    stored: Vec<u32>,
}

fn take_stored(stored: &mut Vec<u32>, known: &mut [Option<Known>]) -> Vec<u32> {
    let taken = std::mem::take(stored);
    for number in &taken {
        if let Some(known) = &mut known[*number as usize] {
            known.stored = false;
        }
    }
    taken
}

/// Caches of all sizes and times to live of one strategy.
pub struct Shadow {
    grid: Grid,
    statements: Vec<Statement>,
    uses: u32,
    numbers: HashMap<u64, u32>,
    known: Vec<Option<Known>>,
    free: Vec<u32>,
    by_value: HashMap<Place, Vec<u32>>,
    caches: Vec<Cache>,
    gets: f64,
    /// Of the keys that are not hot, one of two to this power is kept.
    shift: u32,
}

/// Whether a key is one of those kept where one of two to the power of `shift` is.
#[inline]
pub fn is_sampled(key: u64, shift: u32) -> bool {
    shift == 0 || shift < 64 && key >> (64 - shift) == 0
}

impl Shadow {
    /// Caches with nothing in them.
    pub fn new(grid: Grid) -> Shadow {
        let pairs = grid.sizes.iter().flat_map(|size| grid.ttls_us.iter().map(|ttl| (*size, *ttl)));
        let caches = pairs.map(|(size, ttl)| Cache::new(size, ttl)).collect();
        Shadow {
            grid,
            statements: Vec::new(),
            uses: 0,
            numbers: HashMap::new(),
            known: Vec::new(),
            free: Vec::new(),
            by_value: HashMap::new(),
            caches,
            gets: 0.0,
            shift: 0,
        }
    }

    /// Adds a statement; its number.
    pub fn add_statement(&mut self, uses: Vec<Use>) -> usize {
        let first_use = self.uses;
        self.uses += uses.len() as u32;
        self.statements.push(Statement { uses, first_use, stored: Vec::new() });
        self.statements.len() - 1
    }

    /// Keys in memory.
    pub fn keys(&self) -> usize {
        self.numbers.len()
    }

    /// Of so many keys, as a power of two, one is kept.
    pub fn shift(&self) -> u32 {
        self.shift
    }

    fn weight(&self, number: u32) -> f64 {
        let hot = self.known[number as usize].as_ref().is_none_or(|known| known.hot);
        if hot {
            1.0
        } else {
            2f64.powi(self.shift as i32)
        }
    }

    /// A read was executed.
    pub fn read(&mut self, read: &Read) {
        let number = match self.numbers.get(&read.key) {
            Some(number) => *number,
            None if !is_sampled(read.key, self.shift) || read.statement >= self.statements.len() => return,
            None => self.remember(read),
        };
        let weight = self.weight(number);
        if let Some(known) = &mut self.known[number as usize] {
            known.reads += 1.0;
            known.bytes = read.bytes;
            if !std::mem::replace(&mut known.stored, true) {
                self.statements[known.statement].stored.push(number);
            }
        }
        self.gets += weight;
        let (known, shift) = (&self.known, self.shift);
        let weight_of = |number: u32| {
            let hot = known[number as usize].as_ref().is_none_or(|known| known.hot);
            if hot {
                1.0
            } else {
                2f64.powi(shift as i32)
            }
        };
        for cache in &mut self.caches {
            cache.read(number, read.at, read.bytes, weight, weight_of);
        }
        if self.numbers.len() > self.grid.keys_max {
            self.forget_dead();
            while self.numbers.len() > self.grid.keys_max - self.grid.keys_max / 8 {
                self.thin(self.shift + 1, true);
            }
        }
    }

    fn remember(&mut self, read: &Read) -> u32 {
        let number = self.free.pop().unwrap_or(self.known.len() as u32);
        let statement = &mut self.statements[read.statement];
        let mut values = read.values.iter();
        for (at, one) in statement.uses.iter().enumerate() {
            for column in &one.columns {
                let place = (statement.first_use + at as u32, *column, values.next().copied().flatten());
                self.by_value.entry(place).or_default().push(number);
            }
        }
        let known = Known {
            key: read.key,
            statement: read.statement,
            stored: false,
            hot: false,
            reads: 0.0,
            bytes: read.bytes,
        };
        self.numbers.insert(read.key, number);
        match self.known.get_mut(number as usize) {
            Some(slot) => *slot = Some(known),
            None => {
                self.known.push(Some(known));
                let len = self.known.len();
                self.caches.iter_mut().for_each(|cache| cache.grow(len));
            }
        }
        number
    }

    /// Forgets a key that no list of keys has any more.
    fn forget(&mut self, number: u32) {
        let Some(known) = self.known[number as usize].take() else { return };
        for cache in &mut self.caches {
            if cache.is_live(number) {
                cache.drop_entry(number);
            }
        }
        self.numbers.remove(&known.key);
        self.free.push(number);
    }

    fn forget_dead(&mut self) {
        let is_dead = |number: &u32| !self.caches.iter().any(|cache| cache.is_live(*number));
        let dead: Vec<u32> = self.numbers.values().copied().filter(is_dead).collect();
        self.forget_all(dead);
    }

    /// Forgets many keys at once.
    fn forget_all(&mut self, mut numbers: Vec<u32>) {
        numbers.sort_unstable();
        // Lists of many keys are cleaned once.
        let gone = |number: &u32| numbers.binary_search(number).is_ok();
        for statement in &mut self.statements {
            statement.stored.retain(|number| !gone(number));
        }
        self.by_value.retain(|_, of_value| {
            of_value.retain(|number| !gone(number));
            !of_value.is_empty()
        });
        for number in numbers {
            self.forget(number);
        }
    }

    /// Keeps one of two to the power of `shift` keys from now on. With `with_hot`, those that are read most are kept anyway;
    /// without, for their reads do not come here any more.
    pub fn thin(&mut self, shift: u32, with_hot: bool) {
        if shift <= self.shift && with_hot {
            return;
        }
        let shift = shift.max(self.shift);
        let mut most: Vec<(f64, u32)> = Vec::new();
        if with_hot {
            let seen: f64 = self.known.iter().flatten().map(|known| known.reads).sum();
            let is_hot = |known: &&Known| known.reads >= HOT_SHARE * seen;
            most = (self.known.iter().flatten().filter(is_hot))
                .filter_map(|known| Some((known.reads, *self.numbers.get(&known.key)?)))
                .collect();
            most.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            most.truncate(HOT_MAX.min(self.grid.keys_max / 4));
        }
        for known in self.known.iter_mut().flatten() {
            known.hot = false;
        }
        for (_, number) in most {
            if let Some(known) = &mut self.known[number as usize] {
                known.hot = true;
            }
        }
        let leaves = |known: &&Known| !known.hot && !is_sampled(known.key, shift);
        let left: Vec<u32> = (self.known.iter().flatten().filter(leaves))
            .filter_map(|known| self.numbers.get(&known.key).copied())
            .collect();
        self.forget_all(left);
        self.shift = shift;
        self.weigh_again();
    }

    /// Entries weigh something else than when they were stored.
    fn weigh_again(&mut self) {
        let weights: Vec<(f64, u64)> = (self.known.iter().enumerate())
            .map(|(number, known)| (self.weight(number as u32), known.as_ref().map_or(0, |known| known.bytes)))
            .collect();
        for cache in &mut self.caches {
            cache.used = 0.0;
            for (number, (weight, bytes)) in weights.iter().enumerate() {
                if cache.live[number] {
                    cache.charge[number] = weight * *bytes as f64;
                    cache.used += cache.charge[number];
                }
            }
            while cache.used > cache.size as f64 {
                let Some(oldest) = cache.by_use.first() else { break };
                cache.drop_entry(oldest);
            }
        }
    }

    /// Rows of a relation were written: those whose columns have one of the values given; all, where none is given. An
    /// entry is taken out unless a column says that it is of other rows.
    pub fn write(&mut self, relation: u32, pins: &[(i16, Vec<u32>)]) {
        let mut changed: Vec<u32> = Vec::new();
        let (known, by_value) = (&mut self.known, &self.by_value);
        for statement in &mut self.statements {
            for (at, one) in statement.uses.iter().enumerate() {
                if one.relation != relation {
                    continue;
                }
                let number = statement.first_use + at as u32;
                match pins.iter().find(|(column, _)| one.columns.contains(column)) {
                    Some((column, values)) => {
                        let values = values.iter().copied().map(Some).chain([None]);
                        let places = values.filter_map(|value| by_value.get(&(number, *column, value)));
                        changed.extend(places.flatten());
                    }
                    None => changed.extend(take_stored(&mut statement.stored, known)),
                }
            }
        }
        changed.sort_unstable();
        changed.dedup();
        for number in changed {
            let weight = self.weight(number);
            for cache in &mut self.caches {
                if cache.is_live(number) {
                    cache.drop_entry(number);
                    cache.counts.invalidated += weight;
                }
            }
        }
    }

    /// Takes all entries out: what was written meanwhile is not known. None of them counts as invalidated.
    pub fn empty(&mut self) {
        for statement in &mut self.statements {
            for number in take_stored(&mut statement.stored, &mut self.known) {
                for cache in &mut self.caches {
                    if cache.is_live(number) {
                        cache.drop_entry(number);
                    }
                }
            }
        }
    }

    /// What each cache would have done, sizes in their order and for each the times to live in theirs.
    pub fn outcomes(&self) -> Vec<Outcome> {
        let outcome = |cache: &Cache| {
            let live = (0..self.known.len() as u32).filter(|number| cache.is_live(*number));
            Outcome {
                size_bytes: cache.size,
                ttl_us: cache.ttl_us,
                gets: self.gets,
                hits: cache.counts.hits,
                entries: live.map(|number| self.weight(number)).sum(),
                bytes: cache.used,
                evicted: cache.counts.evicted,
                expired: cache.counts.expired,
                invalidated: cache.counts.invalidated,
            }
        };
        self.caches.iter().map(outcome).collect()
    }
}

#[cfg(test)]
mod tests;
