use super::*;
use proptest::prelude::*;

fn check(source: &str, expected: &str) {
    assert_eq!(normalize(source, false), expected, "of {source}");
}

#[test]
fn literals_become_parameters() {
    check("SELECT 1", "SELECT $1");
    check("select * from t where a = 'x''y' and b = 1.5e-3", "select * from t where a = $1 and b = $2");
    check("SELECT E'a\\'b', B'01', x'ff', N'n', U&'\\0061'", "SELECT $1, $2, $3, $4, $5");
    check("SELECT $$it's$$, $a$ $$ $a$", "SELECT $1, $2");
    check("SELECT 0xFF, 1_000, .5, 5.", "SELECT $1, $2, $3, $4");
    check("SELECT interval '1 hour'", "SELECT interval $1");
}

#[test]
fn names_and_structure_stay() {
    check("SELECT t1.c2, \"a'1\"\"b\" FROM s3.t1", "SELECT t1.c2, \"a'1\"\"b\" FROM s3.t1");
    check("SELECT a[1:2], b::numeric(10,2)", "SELECT a[$1:$2], b::numeric($3,$4)");
    check("SELECT /* 'kept' /* 1 */ */ 2 -- 3\n", "SELECT /* 'kept' /* 1 */ */ $1 -- 3");
    check("SELECT U&\"d\\0061t\" , a$1 FROM t", "SELECT U&\"d\\0061t\" , a$1 FROM t");
}

#[test]
fn a_string_goes_on_in_the_next_line() {
    check("SELECT 'a'\n'b', 'c' 'd'", "SELECT $1, $2 $3");
    check("SELECT E'a' -- c'\n 'b\\' geheim '", "SELECT $1");
    check("SELECT 'a'\n-- b\n, 'c'", "SELECT $1\n-- b\n, $2");
}

#[test]
fn ambiguous_text_is_what_two_readings_end_apart() {
    let check = |source: &str, expected: &str| assert_eq!(unambiguous(source.as_bytes()), expected.as_bytes());
    check(r"SELECT 'a', E'\'', 'b\\'", r"SELECT 'a', E'\'', 'b\\'");
    check(r"SELECT 'a', 'b\', ' geheim ', '\'", "SELECT 'a', ");
    check("SELECT $$ ' $$, \"a\\\", 1 -- '", "SELECT $$ ' $$, \"a\\\", 1 -- '");
}

#[test]
fn blank_is_space_and_comments() {
    for text in ["", "  ", "/* a 'b */ -- c\n ", "/* /* */ */"] {
        assert!(is_blank(text.as_bytes()), "{text}");
    }
    for text in ["a", ";", "/* a */ 1", "- -", "'"] {
        assert!(!is_blank(text.as_bytes()), "{text}");
    }
}

#[test]
fn numbering_starts_behind_given_parameters() {
    check("SELECT $2 + 7, 'x'", "SELECT $2 + $3, $4");
}

#[test]
fn signs_belong_to_literals_where_nothing_is_subtracted_from() {
    check(
        "WHERE a = -5 AND b - 5 > (-3) AND c IN (-1,-2) AND a[1]-1",
        "WHERE a = $1 AND b - $2 > ($3) AND c IN ($4,$5) AND a[$6]-$7",
    );
}

#[test]
fn secrets_do_not_survive() {
    check("CREATE ROLE x PASSWORD 'geheim'", "CREATE ROLE x PASSWORD $1");
    assert!(!normalize(r"SELECT 'a\' geheim'", true).contains("geheim"));
    check("SELECT 'never closed geheim", "SELECT $1");
    check("SELECT $x$ never closed", "SELECT $1");
}

#[test]
fn what_does_not_fit_is_cut() {
    let mut out = [0; 10];
    assert_eq!(normalize_into(b"SELECT aaaaaaaa, 1", &mut out, false), 10);
    assert_eq!(&out, b"SELECT aaa");
}

#[test]
fn of_a_huge_text_the_beginning_is_read() {
    let secret = "geheim ".repeat(400_000);
    let mut out = [0; 64];
    let len = normalize_into(format!("SELECT '{secret}', ä FROM t").as_bytes(), &mut out, false);
    assert_eq!(&out[..len], b"SELECT $1");
    let names = format!("SELECT a{}", "ä".repeat(1 << 20));
    let whole = normalize_bytes(names.as_bytes(), false);
    assert!(whole.len() < 1 << 20 && std::str::from_utf8(&whole).is_ok());
}

#[test]
fn plan_figures_stay() {
    let plan = "Seq Scan on t  (cost=0.00..1.01 rows=1 width=4)\n  Filter: (a = 5)\n";
    assert_eq!(normalize_plan(plan), "Seq Scan on t  (cost=0.00..1.01 rows=1 width=4)\n  Filter: (a = $1)\n");
    let trap = "  Filter: (a = '  (cost=geheim)'::text)\n";
    assert!(!normalize_plan(trap).contains("geheim"));
}

#[test]
fn literals_of_several_lines_leave_a_plan() {
    let plan = "Seq Scan on t  (cost=0.00..1.01 rows=1 width=4)\n  Filter: (a = 'one\n it''s geheim\nthree'::text)\n";
    let clean = "Seq Scan on t  (cost=0.00..1.01 rows=1 width=4)\n  Filter: (a = $1::text)\n";
    assert_eq!(normalize_plan(plan), clean);
    let plan = "  CTE it's\n    ->  Seq Scan on t\n          Filter: (a = 'geheim'::text)\n";
    assert!(!normalize_plan(plan).contains("geheim"));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(source in prop::collection::vec(any::<u8>(), 0..200), size in 0usize..64, escapes: bool) {
        let mut out = vec![0; size];
        let len = normalize_into(&source, &mut out, escapes);
        prop_assert!(len <= size);
    }

    #[test]
    fn quoted_text_never_survives(secret in "[a-z]{8}", quotes in 0usize..3) {
        let body = format!("{}{secret}", "''".repeat(quotes));
        let source = format!("SELECT x FROM t WHERE y = '{body}' AND z = $tag${secret}$tag$ AND w = e'\\'{secret}'");
        prop_assert!(!normalize(&source, false).contains(&secret));
    }

    #[test]
    fn normalising_again_changes_nothing(source in "[ a-z0-9_=<>(),.*/-]{0,60}") {
        let once = normalize(&source, false);
        prop_assert_eq!(normalize(&once, false), once);
    }
}
