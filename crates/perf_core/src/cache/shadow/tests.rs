use super::*;
use proptest::prelude::*;

/// A cache as one would write it first: a list of entries, least recently used first.
struct Plain {
    size: u64,
    ttl_us: i64,
    entries: Vec<(u64, i64, u64, u32)>,
    hits: u64,
}

impl Plain {
    fn read(&mut self, at: i64, key: u64, bytes: u64, value: u32) {
        let ttl = self.ttl_us;
        self.entries.retain(|entry| entry.1.saturating_add(ttl) > at);
        if let Some(place) = self.entries.iter().position(|entry| entry.0 == key) {
            self.hits += 1;
            let entry = self.entries.remove(place);
            self.entries.push(entry);
            return;
        }
        if bytes > self.size {
            return;
        }
        while self.entries.iter().map(|entry| entry.2).sum::<u64>() + bytes > self.size {
            self.entries.remove(0);
        }
        self.entries.push((key, at, bytes, value));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64),
    WriteValue(u32),
    WriteAll,
    Elsewhere,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u64..40).prop_map(Step::Read),
        2 => (0u32..10).prop_map(Step::WriteValue),
        1 => Just(Step::WriteAll),
        1 => Just(Step::Elsewhere),
    ]
}

fn mixed(key: u64) -> u64 {
    (key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

fn grid(sizes: &[u64], ttls: &[i64], keys_max: usize) -> Grid {
    Grid { sizes: sizes.to_vec(), ttls_us: ttls.to_vec(), keys_max }
}

fn one_use() -> Vec<Use> {
    vec![Use { relation: 7, columns: vec![3] }]
}

proptest! {
    #[test]
    fn does_what_plain_caches_do(steps in prop::collection::vec((step(), 0i64..20), 1..400)) {
        let (sizes, ttls) = ([60, 200, 5_000], [15, 90, i64::MAX]);
        let mut shadow = Shadow::new(grid(&sizes, &ttls, 1_000));
        let statement = shadow.add_statement(one_use());
        let mut plain: Vec<Plain> = sizes.iter().flat_map(|&size| ttls.iter().map(move |&ttl_us| Plain {
            size, ttl_us, entries: Vec::new(), hits: 0 })).collect();
        let (mut at, mut gets) = (0, 0.0);
        for (step, pause) in steps {
            at += pause;
            match step {
                Step::Read(key) => {
                    let bytes = 10 + key % 4 * 10;
                    let value = (key % 10) as u32;
                    shadow.read(&Read { at, statement, key: mixed(key), bytes, values: &[Some(value)] });
                    plain.iter_mut().for_each(|cache| cache.read(at, key, bytes, value));
                    gets += 1.0;
                }
                Step::WriteValue(value) => {
                    shadow.write(7, &[(3, vec![value])]);
                    plain.iter_mut().for_each(|cache| cache.entries.retain(|entry| entry.3 != value));
                }
                Step::WriteAll => {
                    shadow.write(7, &[(4, vec![1])]);
                    plain.iter_mut().for_each(|cache| cache.entries.clear());
                }
                Step::Elsewhere => shadow.write(8, &[]),
            }
        }
        for (outcome, plain) in shadow.outcomes().iter().zip(&plain) {
            prop_assert_eq!(outcome.gets, gets);
            prop_assert_eq!(outcome.hits, plain.hits as f64);
            prop_assert!(outcome.bytes <= outcome.size_bytes as f64);
        }
    }

    #[test]
    fn memory_is_bounded(keys in prop::collection::vec(any::<u64>(), 1..3_000)) {
        let mut shadow = Shadow::new(grid(&[1 << 20], &[i64::MAX], 64));
        let statement = shadow.add_statement(one_use());
        for (at, key) in keys.into_iter().enumerate() {
            shadow.read(&Read { at: at as i64, statement, key, bytes: 10, values: &[Some(key as u32)] });
            prop_assert!(shadow.keys() <= 64);
            prop_assert!(shadow.by_value.len() <= 64);
            prop_assert!(shadow.known.len() <= 65);
        }
    }
}

/// Zipf by inversion of the sum, with a generator of its own.
struct Zipf {
    sums: Vec<f64>,
    state: u64,
}

impl Zipf {
    fn new(keys: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=keys).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Zipf { sums: sums.collect(), state: 88_172_645_463_325_252 }
    }

    fn random(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        let wanted = self.random() * self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum < wanted) as u64
    }
}

#[test]
fn a_sample_of_the_keys_tells_the_same() {
    for exponent in [0.6, 0.8, 1.0, 1.2] {
        let sizes = [200_000, 800_000, 3_200_000];
        let ttls = [400_000, 4_000_000, i64::MAX];
        let mut whole = Shadow::new(grid(&sizes, &ttls, usize::MAX));
        let mut sample = Shadow::new(grid(&sizes, &ttls, 4_096));
        let statement = whole.add_statement(one_use());
        sample.add_statement(one_use());
        let mut zipf = Zipf::new(40_000, exponent);
        for at in 0..120_000 {
            let key = zipf.next();
            if zipf.random() < 0.05 {
                let pins = [(3, vec![key as u32])];
                whole.write(7, &pins);
                sample.write(7, &pins);
            } else {
                let bytes = 60 + key % 7 * 20;
                let read = Read { at: at * 50, statement, key: mixed(key), bytes, values: &[Some(key as u32)] };
                whole.read(&read);
                sample.read(&read);
            }
        }
        assert!(sample.shift() >= 2, "{}", sample.shift());
        for (whole, sample) in whole.outcomes().iter().zip(sample.outcomes()) {
            let points = |outcome: &Outcome| 100.0 * outcome.hits / outcome.gets;
            let off = (points(whole) - points(&sample)).abs();
            assert!(off < 3.0, "Zipf {exponent}, {whole:?}: {} instead of {}", points(&sample), points(whole));
        }
    }
}

#[test]
fn a_use_of_rows_that_are_not_known_is_taken_out_by_any_write() {
    let mut shadow = Shadow::new(grid(&[1_000], &[i64::MAX], 100));
    let uses = vec![Use { relation: 7, columns: vec![3] }, Use { relation: 9, columns: vec![] }];
    let statement = shadow.add_statement(uses);
    let read = |shadow: &mut Shadow, key, value| {
        let before = shadow.outcomes()[0].hits;
        shadow.read(&Read { at: 1, statement, key, bytes: 1, values: &[value] });
        shadow.outcomes()[0].hits > before
    };
    assert!(!read(&mut shadow, 1, Some(5)));
    assert!(!read(&mut shadow, 2, None));
    shadow.write(7, &[(3, vec![6])]);
    assert!(read(&mut shadow, 1, Some(5)));
    assert!(!read(&mut shadow, 2, None));
    shadow.write(7, &[(3, vec![6, 5])]);
    assert!(!read(&mut shadow, 1, Some(5)));
    shadow.write(9, &[(3, vec![6])]);
    assert!(!read(&mut shadow, 1, Some(5)));
    assert_eq!(shadow.outcomes()[0].invalidated, 4.0);
}

#[test]
fn an_emptied_shadow_has_no_hits_and_counts_on() {
    let mut shadow = Shadow::new(grid(&[1 << 20], &[i64::MAX], 1_000));
    let statement = shadow.add_statement(one_use());
    let read = |shadow: &mut Shadow, key| {
        shadow.read(&Read { at: 1, statement, key: mixed(key), bytes: 10, values: &[Some(1)] });
    };
    read(&mut shadow, 1);
    read(&mut shadow, 1);
    shadow.empty();
    read(&mut shadow, 1);
    read(&mut shadow, 1);
    let found = shadow.outcomes()[0];
    assert_eq!((found.gets, found.hits, found.invalidated, found.entries), (4.0, 2.0, 0.0, 1.0));
}

#[test]
fn writes_without_reads_between_them_look_at_no_key() {
    let mut shadow = Shadow::new(grid(&[1 << 30], &[i64::MAX], 10_000));
    let statement = shadow.add_statement(one_use());
    for key in 0..8_000 {
        shadow.read(&Read { at: 1, statement, key: mixed(key), bytes: 10, values: &[Some(1)] });
    }
    assert_eq!(shadow.statements[0].stored.len(), 8_000);
    shadow.write(7, &[]);
    assert_eq!(shadow.statements[0].stored.len(), 0);
    shadow.read(&Read { at: 1, statement, key: mixed(3), bytes: 10, values: &[Some(1)] });
    assert_eq!(shadow.statements[0].stored.len(), 1);
    assert_eq!(shadow.outcomes()[0].invalidated, 8_000.0);
}
