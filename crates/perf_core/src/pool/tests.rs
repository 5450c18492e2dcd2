use super::*;
use proptest::prelude::*;

fn hour(start_us: i64, counts: &[(usize, u64)]) -> Hour {
    let mut seconds_busy = vec![0; 1 + counts.iter().map(|c| c.0).max().unwrap_or(0)];
    counts.iter().for_each(|(n, s)| seconds_busy[*n] += s);
    Hour { start_us, seconds_busy }
}

fn group(database: &str, role: &str, hours: Vec<Hour>) -> Group {
    Group { database: database.to_owned(), role: role.to_owned(), hours, connected_max: 40, features: vec![] }
}

const MACHINE: Machine = Machine { cores: 16, max_connections: 200, waiting_share: Some(0.05) };

#[test]
fn a_size_is_what_was_enough_in_the_busiest_hour_and_a_fifth() {
    let quiet = hour(0, &[(1, 3600)]);
    // 36 seconds of 3600 are the last hundredth: 10 were enough for 99 %.
    let busy = hour(1, &[(4, 3000), (10, 564), (30, 36)]);
    let short = hour(2, &[(100, 599)]);
    let advice = advise(&[group("app", "web", vec![quiet, busy, short])], &MACHINE);
    let pool = &advice.pools[0];
    assert_eq!((pool.busy_p99, pool.size, pool.busiest_hour_us), (Some(10), 12, Some(1)));
    assert_eq!((pool.basis, pool.capped, pool.seconds), (Basis::Measured, false, 3600));
    assert_eq!((advice.cap, advice.cap_reason.as_str()), (32, "2 x 16 cores"));
}

#[test]
fn without_samples_there_is_only_policy() {
    let advice = advise(&[group("app", "web", vec![])], &MACHINE);
    assert_eq!((advice.pools[0].basis, advice.pools[0].size), (Basis::Policy, 20));
    let text = sqlalchemy(&advice.pools[0], 4);
    assert!(text.contains("policy, not measured") && text.contains("4 processes x (20 + 10) = 120"), "{text}");
}

#[test]
fn the_cap_is_of_all_pools_together_and_grows_with_waiting() {
    let groups = [group("a", "x", vec![hour(0, &[(40, 3600)])]), group("b", "y", vec![hour(0, &[(20, 3600)])])];
    let sizes = |machine: &Machine| advise(&groups, machine).pools.iter().map(|p| p.size).collect::<Vec<_>>();
    assert_eq!(sizes(&MACHINE), [21, 10], "48 + 24 in 32");
    assert_eq!(sizes(&Machine { waiting_share: Some(0.5), ..MACHINE }), [42, 21], "in 64");
    assert_eq!(sizes(&Machine { waiting_share: Some(0.9), ..MACHINE }), [48, 24], "as wished");
    assert_eq!(sizes(&Machine { waiting_share: Some(0.9), max_connections: 20, ..MACHINE }), [12, 6], "in 18");
    assert_eq!(advise(&groups, &Machine::default()).pools.len(), 2, "nothing is known of the machine");
}

#[test]
fn what_needs_sessions_gets_one_for_each_client() {
    let mut listener = group("app", "listener", vec![hour(0, &[(2, 3600)])]);
    listener.features = vec![Feature::Listen, Feature::Listen];
    let advice = advise(&[listener], &MACHINE);
    assert_eq!((advice.pools[0].size, advice.pools[0].session_features.len()), (40, 1));
    let ini = pgbouncer_ini(&advice, &Server::default());
    assert!(ini.contains("listener = pool_mode=session max_user_connections=40"), "{ini}");
    assert!(ini.contains("session pooling because of LISTEN"), "{ini}");
}

#[test]
fn what_stands_for_many_has_no_line_of_its_own() {
    let groups = [
        group("app", "(other)", vec![hour(0, &[(5, 3600)])]),
        group("app", "web", vec![hour(0, &[(10, 3600)])]),
        group("*", "web", vec![hour(0, &[(1, 3600)])]),
    ];
    let ini = pgbouncer_ini(&advise(&groups, &MACHINE), &Server::default());
    assert!(!ini.contains("\"(other)\" =") && !ini.contains("\"*\" ="), "{ini}");
    // Room for them is in the database's.
    assert!(ini.contains("pool_size=12 max_db_connections=18"), "{ini}");
    assert!(ini.contains("; app, (other): 6") && ini.contains("; left out: 1"), "{ini}");
}

#[test]
fn the_file_has_all_sections_and_quotes_names() {
    let groups = [
        group("app", "web", vec![hour(0, &[(10, 3600)])]),
        group("app", "jobs", vec![hour(0, &[(5, 3600)])]),
        group("odd \"name'", "a b", vec![hour(0, &[(1, 3600)])]),
        group("bad\nname", "web", vec![]),
    ];
    let ini = pgbouncer_ini(&advise(&groups[..3], &MACHINE), &Server::default());
    for line in [
        "app = host='127.0.0.1' port=5432 dbname='app' pool_size=12 max_db_connections=18",
        "\"odd \"\"name'\" = host='127.0.0.1' port=5432 dbname='odd \"name''' pool_size=2 max_db_connections=2",
        "web = max_user_connections=12",
        "\"a b\" = max_user_connections=2",
        "pool_mode = transaction",
        "max_client_conn = 400",
    ] {
        assert!(ini.lines().any(|l| l == line), "{line}\n{ini}");
    }
    let ini = pgbouncer_ini(&advise(&groups, &MACHINE), &Server::default());
    let new = pgbouncer_ini(&advise(&groups, &MACHINE), &Server { follows_prepared: true, ..Server::default() });
    let prepared = |ini: &str| ini.lines().any(|l| l == "max_prepared_statements = 200");
    assert!(!prepared(&ini) && prepared(&new));
    assert!(ini.contains("; left out: 1 whose name") && !ini.contains("bad"), "{ini}");
}

#[test]
fn arguments_are_per_process() {
    let pool = advise(&[group("app", "web", vec![hour(0, &[(10, 3600)])])], &MACHINE).pools.swap_remove(0);
    for (processes, want, more) in [
        (1, "1 processes x (8 + 4) = 12", false),
        (4, "4 processes x (2 + 1) = 12", false),
        (5, "5 processes x (2 + 0) = 10", false),
        (30, "30 processes x (1 + 0) = 30", true),
        (0, "1 processes x (8 + 4) = 12", false),
    ] {
        let text = sqlalchemy(&pool, processes);
        assert!(text.contains(want) && text.contains("More than") == more, "{text}");
    }
}

prop_compose! {
    fn any_group()(name in "[a-c\"' =;\n]{0,4}", role in "[a-c\\[=]{0,3}", connected_max in any::<u32>(),
                   session in any::<bool>(),
                   hours in proptest::collection::vec((any::<i64>(),
                       proptest::collection::vec(prop_oneof![0u64..2000, any::<u64>()], 0..50)), 0..4)) -> Group {
        Group {
            database: name, role, connected_max,
            hours: hours.into_iter().map(|(start_us, seconds_busy)| Hour { start_us, seconds_busy }).collect(),
            features: if session { vec![Feature::Load] } else { vec![] },
        }
    }
}

proptest! {
    #[test]
    fn shared_pools_stay_within_the_cap_and_none_is_empty(
        groups in proptest::collection::vec(any_group(), 0..6), cores in any::<u32>(), max_connections in any::<u32>(),
        waiting_share in proptest::option::of(any::<f64>()), processes in any::<u32>()
    ) {
        let advice = advise(&groups, &Machine { cores, max_connections, waiting_share });
        let shared: Vec<&Pool> = advice.pools.iter().filter(|p| !p.needs_session()).collect();
        let fixed: u64 = advice.pools.iter().filter(|p| p.needs_session()).map(|p| u64::from(p.size)).sum();
        let sum: u64 = shared.iter().map(|p| u64::from(p.size)).sum();
        prop_assert!(advice.pools.iter().all(|p| p.size >= 1));
        prop_assert!(sum <= u64::from(advice.cap).saturating_sub(fixed).max(shared.len() as u64)
            || shared.iter().all(|p| p.size == 1 || p.capped));
        let ini = pgbouncer_ini(&advice, &Server::default());
        // No name can begin a line of its own.
        prop_assert_eq!(ini.lines().filter(|l| l.starts_with('[')).count(), 3);
        advice.pools.iter().for_each(|p| drop(sqlalchemy(p, processes)));
    }

    #[test]
    fn busier_hours_never_make_smaller_pools(counts in proptest::collection::vec(0u64..500, 5..40)) {
        let size = |counts: Vec<u64>| {
            let mut hour = Hour { start_us: 0, seconds_busy: counts };
            hour.seconds_busy[0] += 600;
            let machine = Machine { cores: 1000, max_connections: 10_000, waiting_share: None };
            advise(&[group("a", "b", vec![hour])], &machine).pools[0].size
        };
        let mut busier = counts.clone();
        let least = std::mem::take(&mut busier[1]);
        busier[4] += least;
        prop_assert!(size(counts) <= size(busier));
    }
}
