//! The hours of the day in which autopilot begins changes. Reads the setting and the server's time zones; locks nothing.

use perf_core::autopilot::Window;
use perf_core::schedule::Zone;

use crate::act::jobs::to_unix;
use crate::error::Error;
use crate::guc;
use crate::pg::background;
use crate::pg::zone::ServerZone;

const MINUTE_US: i64 = 60_000_000;

/// Whether now is a time for changes.
pub fn is_open() -> Result<bool, Error> {
    let text = guc::autopilot_window();
    let wrong = || Error::WrongState {
        message: format!("perf_opt.autopilot_window is \"{text}\""),
        hint: "Such as 22:00-05:00 Europe/Berlin, or nothing for any time.".to_owned(),
    };
    let window = Window::parse(&text).ok_or_else(wrong)?;
    let at = to_unix(background::now());
    let offset_s = match window.zone.as_str() {
        "" => 0,
        zone => ServerZone::named("perf_opt.autopilot_window", zone)?.offset_s(at),
    };
    let local = at + i64::from(offset_s) * 1_000_000;
    let minute = local.div_euclid(MINUTE_US).rem_euclid(24 * 60);
    Ok(window.contains(u32::try_from(minute).unwrap_or(0)))
}
