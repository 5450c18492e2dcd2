//! What is read as a schedule, and what is refused with which words.

use super::*;

#[test]
fn intervals_have_one_spelling() {
    for (given, canonical) in [
        ("5 min", "5 min"),
        ("5min", "5 min"),
        ("  5 \t MINUTES ", "5 min"),
        ("1 hour", "1 hour"),
        ("60 mins", "1 hour"),
        ("90 s", "1 min 30 s"),
        ("30 seconds", "30 s"),
        ("2 hours 30 min", "2 hours 30 min"),
        ("2h30m", "2 hours 30 min"),
        ("1 h 2 min 3 s", "1 hour 2 min 3 s"),
        ("0 hours 1 sec", "1 s"),
        ("24 hours", "24 hours"),
        ("1 day", "1 day"),
        ("2 weeks 1 d", "15 days"),
        ("365 days", "365 days"),
        ("8760 hours", "8760 hours"),
    ] {
        assert_eq!(schedule(given).to_string(), canonical, "{given}");
        assert_eq!(schedule(given), schedule(canonical), "{given}");
    }
}

#[test]
fn names_and_cron_are_kept() {
    for (given, canonical) in [
        ("Hourly", "hourly"),
        ("@daily", "daily"),
        (" WEEKLY ", "weekly"),
        ("monthly", "monthly"),
        ("*/5  * *\t* *", "*/5 * * * *"),
        ("0 9-17 * jan-mar mon-fri", "0 9-17 * JAN-MAR MON-FRI"),
        ("05 07 * * sun,7,fril", "05 07 * * SUN,7,FRIL"),
        ("0 0 l,lw,15w * 5#2", "0 0 L,LW,15W * 5#2"),
        ("0 0 * jul *", "0 0 * JUL *"),
    ] {
        assert_eq!(schedule(given).to_string(), canonical, "{given}");
        assert_eq!(schedule(given), schedule(canonical), "{given}");
    }
}

fn refused(text: &str) -> (String, String) {
    let Err(error) = Schedule::parse(text) else { panic!("{text:?} was accepted") };
    assert!(!error.hint.is_empty());
    assert_eq!(error.to_string(), error.message);
    (error.message, error.hint)
}

#[test]
fn the_wrong_field_is_named_with_its_value() {
    for (text, expected) in [
        ("61 * * * *", "minute \"61\""),
        ("0 24 * * *", "hour \"24\""),
        ("0 0 0 * *", "day of month \"0\""),
        ("0 0 32 * *", "day of month \"32\""),
        ("0 0 * 13 *", "month \"13\""),
        ("0 0 * * 8", "day of week \"8\""),
        ("0 0 * foo *", "month \"foo\""),
        ("0 0 * * fre", "day of week \"fre\""),
        ("JAN * * * *", "minute \"JAN\""),
        ("0 MON * * *", "hour \"MON\""),
        ("0 0 * 1MON *", "month \"1MON\""),
        (", * * * *", "minute \",\""),
        ("0, * * * *", "minute \"0,\""),
        ("*/0 * * * *", "minute \"*/0\""),
        ("5/10 * * * *", "minute \"5/10\""),
        ("20-10 * * * *", "minute \"20-10\""),
        ("* */ * * *", "hour \"*/\""),
        ("* ? * * *", "hour \"?\""),
        ("0 0 ? * 1", "day of month \"?\""),
        ("0 0 15W3 * *", "day of month \"15W3\""),
        ("0 0 1 * L", "day of week \"L\""),
        ("0 0 1 * +1", "day of week \"+1\""),
        ("0 0 * * 5#6", "day of week \"5#6\""),
        ("0 0 * * 5#2L", "day of week \"5#2L\""),
        ("1-99999 * * * *", "minute \"1-99999\""),
        ("é * * * *", "minute \"é\""),
        ("@ * * * *", "minute \"@\""),
    ] {
        let (message, hint) = refused(text);
        assert_eq!(message, format!("invalid schedule \"{text}\": {expected} is not valid"));
        let field = expected.split(" \"").next().unwrap();
        assert!(hint.starts_with(&format!("A {field} is ")), "{hint}");
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_a_reason() {
    for (text, reason) in [
        ("", "it is empty"),
        (" \n ", "it is empty"),
        ("0 0 30 2 *", "it never comes"),
        ("0 0 31 4,6,9,11 *", "it never comes"),
        ("0 0 30 2 */2", "it never comes"),
        ("0 0 0 2 * *", "6 fields, where cron has five"),
        ("0 0 0 2 * * 2030", "7 fields, where cron has five"),
        ("0 s", "shorter than a second"),
        ("0 days", "shorter than a second"),
        ("366 days", "longer than a year"),
        ("8761 hours", "longer than a year"),
        ("99999999999999999999 s", "longer than a year"),
        ("9223372036854775807 s 1 s", "longer than a year"),
        ("1 day 2 hours", "days and hours do not mix"),
        ("1 month", "unit \"month\" is not known"),
        ("5 min and", "\"and\" is not a number and a unit"),
        ("5 min 3", "\"3\" is not a number and a unit"),
        ("1 hour -5 min", "\"-5 min\" is not a number and a unit"),
    ] {
        let shown = if text.trim().is_empty() { String::new() } else { format!(" \"{text}\"") };
        assert_eq!(refused(text).0, format!("invalid schedule{shown}: {reason}"), "{text}");
    }
    for text in ["yearly", "@reboot", "5", "-5 min", "1.5 hours", "02:30", "* * * *", "now", "\u{0}", "1 2 3 4 5 6 7 8"]
    {
        let (message, hint) = refused(text);
        assert_eq!(message, format!("invalid schedule \"{text}\""));
        assert!(hint.contains("hourly") && hint.contains("five fields"));
    }
    let (message, _) = refused(&"1 s ".repeat(51));
    assert_eq!(message, "invalid schedule: 204 bytes are too many, at most 200 are read");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof![
        any::<String>(),
        "[0-9*,/#LW?+@ a-z-]{0,40}",
        "([0-9]{1,2}|\\*|\\*/[0-9]{1,5}|[0-9]{1,2}-[0-9]{1,6}/[0-9]{1,5}|[A-Z0-9#LW,-]{1,4}|[0-9]{1,2}[LW])( \
         ([0-9]{1,2}|\\*|\\*/[0-9]|MON|JAN|[0-9]{1,2}-[0-9]{1,2}|[0-9]#[0-9]|[0-9]L|[0-9]{1,2}W|L)){4}",
        "([0-9]{1,4} ?(s|sec|min|minutes|h|hours|d|days|weeks|m) ?){1,3}",
    ]) {
        match Schedule::parse(&text) {
            Ok(schedule) => {
                let again = Schedule::parse(&schedule.to_string());
                prop_assert_eq!(again.as_ref(), Ok(&schedule));
                // Whatever is accepted comes, and goes on coming.
                let anchor = at("2024-02-29 12:34Z");
                let first = schedule.next_after(anchor, &Utc, anchor);
                prop_assert!(first.is_some_and(|first| first > anchor));
                prop_assert!(schedule.next_after(first.unwrap(), &Utc, anchor) > first);
            }
            Err(error) => prop_assert!(!error.message.is_empty() && !error.hint.is_empty()),
        }
    }
}
