//! What a standby that was asked is, and how far it is behind. Pure: answers in, a status out.

/// How a standby is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It follows this server.
    Ok,
    /// No connection could be made.
    Unreachable,
    /// It takes connections or did, but does not answer in time.
    Hanging,
    /// It follows nobody any more: it takes writes itself.
    Promoted,
    /// It is this very server.
    Itself,
    /// It belongs to another cluster.
    OtherCluster,
    /// It answered with an error, or may not be asked.
    Failed,
}

impl Status {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Unreachable => "unreachable",
            Status::Hanging => "hanging",
            Status::Promoted => "promoted",
            Status::Itself => "itself",
            Status::OtherCluster => "other_cluster",
            Status::Failed => "failed",
        }
    }
}

/// What tells servers apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Of the cluster: a standby has its primary's.
    pub system: String,
    /// When the server started.
    pub started: String,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Timeline of its latest checkpoint.
    pub timeline: u32,
    /// Where it is in WAL, in bytes.
    pub position: f64,
}

/// What a server is to the one that asks, whose position is of a moment after the other's answer: what has replayed more
/// than was written here, or is past this timeline, was made of the same cluster and follows another server now.
pub fn status(asking: &Identity, asked: &Identity) -> Status {
    let is_ahead = asked.position > asking.position || asked.timeline > asking.timeline;
    match () {
        () if asking.system != asked.system => Status::OtherCluster,
        () if asked.in_recovery && is_ahead => Status::OtherCluster,
        () if asked.in_recovery => Status::Ok,
        () if asking.started == asked.started => Status::Itself,
        () => Status::Promoted,
    }
}

/// A position in WAL, in bytes, and when it was the latest one of the primary, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Position.
    pub position: f64,
    /// Time.
    pub at_s: f64,
}

/// Marks that are remembered: more than an hour of one a minute.
const MARKS_MAX: usize = 64;

/// How far a standby is behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Lag {
    /// WAL that it has not replayed.
    pub bytes: f64,
    /// Age of the oldest change that it does not show. None: not known.
    pub seconds: Option<f64>,
    /// What to compare with next time, oldest first.
    pub marks: Vec<Mark>,
}

/// The lag of a standby that has replayed up to `replayed`, asked after the primary was at `now`.
///
/// `replayed_at_s` is when the last transaction that it has replayed was committed: on a server that writes seldom that is
/// long ago although nothing is missing. `earlier` are the primary's positions when it was asked before: whatever was
/// written up to one of them is not missing when the standby is past it.
pub fn lag(now: Mark, replayed: f64, replayed_at_s: Option<f64>, earlier: &[Mark]) -> Lag {
    let bytes = (now.position - replayed).max(0.0);
    // A clock that was set back, or a primary that has changed, makes a mark worthless.
    let is_sound = |mark: &&Mark| mark.at_s < now.at_s && mark.position <= now.position;
    let sound: Vec<Mark> = earlier.iter().filter(is_sound).copied().collect();
    let passed =
        sound.iter().filter(|mark| mark.position <= replayed).max_by(|a, b| a.at_s.total_cmp(&b.at_s)).copied();
    let mut marks: Vec<Mark> = passed.into_iter().collect();
    marks.extend(sound.iter().filter(|mark| mark.position > replayed));
    marks.push(now);
    while marks.len() > MARKS_MAX {
        // Far behind it may be told less precisely.
        let mut nth = 0;
        marks.retain(|mark| {
            nth += 1;
            nth % 2 == 1 || mark.at_s == now.at_s
        });
    }
    if bytes == 0.0 {
        return Lag { bytes, seconds: Some(0.0), marks: vec![now] };
    }
    let since = |at_s: f64| (now.at_s - at_s).max(0.0);
    let known = replayed_at_s.map(since).into_iter().chain(passed.map(|mark| since(mark.at_s)));
    Lag { bytes, seconds: known.min_by(f64::total_cmp), marks }
}

/// A counter as it was read: growth needs two readings of the same life.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Its value.
    pub value: f64,
    /// When, in seconds.
    pub at_s: f64,
    /// Which counter of which life: when the server started, when statistics were reset.
    pub life: String,
}

/// Growth a second between two readings; None when they are not of the same life, or no time lies between them.
pub fn rate(before: Option<&Reading>, now: &Reading) -> Option<f64> {
    let before = before.filter(|before| before.life == now.life && before.value <= now.value)?;
    let seconds = now.at_s - before.at_s;
    (seconds > 0.0).then(|| (now.value - before.value) / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_are_told_apart() {
        let server = |system: &str, started: &str, in_recovery| Identity {
            system: system.to_owned(),
            started: started.to_owned(),
            in_recovery,
            timeline: 2,
            position: 100.0,
        };
        let here = server("1", "a", false);
        for (asked, want) in [
            (server("1", "b", true), Status::Ok),
            (server("1", "b", false), Status::Promoted),
            (server("1", "a", false), Status::Itself),
            (server("2", "b", true), Status::OtherCluster),
            (server("2", "b", false), Status::OtherCluster),
        ] {
            assert_eq!(status(&here, &asked), want, "{asked:?}");
        }
        let standby = server("1", "b", true);
        for (timeline, position, want) in [
            (1, 90.0, Status::Ok),
            (2, 100.0, Status::Ok),
            (3, 90.0, Status::OtherCluster),
            (2, 101.0, Status::OtherCluster),
        ] {
            let asked = Identity { timeline, position, ..standby.clone() };
            assert_eq!(status(&here, &asked), want, "{asked:?}");
        }
        assert_eq!(
            status(&here, &Identity { timeline: 3, position: 200.0, ..server("1", "b", false) }),
            Status::Promoted
        );
    }

    #[test]
    fn lag_on_a_quiet_server_is_not_the_age_of_its_last_commit() {
        let mark = |position, at_s| Mark { position, at_s };
        let caught_up = lag(mark(100.0, 5_000.0), 100.0, Some(1_000.0), &[]);
        assert_eq!((caught_up.bytes, caught_up.seconds), (0.0, Some(0.0)));
        let one_commit = lag(mark(150.0, 5_060.0), 100.0, Some(1_000.0), &caught_up.marks);
        assert_eq!((one_commit.bytes, one_commit.seconds), (50.0, Some(60.0)));
        let stuck = lag(mark(200.0, 5_120.0), 100.0, Some(1_000.0), &one_commit.marks);
        assert_eq!((stuck.bytes, stuck.seconds), (100.0, Some(120.0)));
        let moving = lag(mark(300.0, 5_180.0), 170.0, Some(5_070.0), &stuck.marks);
        assert_eq!((moving.bytes, moving.seconds), (130.0, Some(110.0)));
        let set_back = lag(mark(310.0, 4_000.0), 170.0, None, &moving.marks);
        assert_eq!((set_back.seconds, set_back.marks.len()), (None, 1));
    }

    #[test]
    fn a_rate_needs_the_same_life() {
        let reading = |value, at_s, life: &str| Reading { value, at_s, life: life.to_owned() };
        let first = reading(100.0, 10.0, "a");
        assert_eq!(rate(Some(&first), &reading(160.0, 70.0, "a")), Some(1.0));
        assert_eq!(rate(Some(&first), &reading(160.0, 70.0, "b")), None);
        assert_eq!(rate(Some(&first), &reading(50.0, 70.0, "a")), None);
        assert_eq!(rate(Some(&first), &reading(160.0, 10.0, "a")), None);
        assert_eq!(rate(None, &first), None);
    }

    proptest! {
        #[test]
        fn lag_is_never_negative_and_marks_are_bounded(
            position in 0.0..1e12f64, at_s in 0.0..1e10f64, replayed in 0.0..1e12f64,
            commit in proptest::option::of(0.0..1e10f64),
            earlier in proptest::collection::vec((0.0..1e12f64, 0.0..1e10f64), 0..200)
        ) {
            let earlier: Vec<Mark> = earlier.into_iter().map(|(position, at_s)| Mark { position, at_s }).collect();
            let now = Mark { position, at_s };
            let lag = lag(now, replayed, commit, &earlier);
            prop_assert!(lag.bytes >= 0.0 && lag.seconds.is_none_or(|s| s >= 0.0));
            prop_assert!(lag.marks.len() <= MARKS_MAX && lag.marks.contains(&now));
        }
    }
}
