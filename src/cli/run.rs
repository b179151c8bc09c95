//! `plinth run`: the supervisor. Reads the settings, starts the log, and hands over to the loop.

use super::{FAILED, USAGE};
use crate::runtime::error::chain;
use crate::settings::Settings;

/// Runs until told to end.
pub fn run(args: &[String]) -> u8 {
    // A kernel command line that cannot be read has nothing to say.
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (settings, rest) = match Settings::load(args, &cmdline) {
        Ok(loaded) => loaded,
        Err(e) => {
            eprintln!("plinth: {}", chain(&e));
            return USAGE;
        }
    };
    if let Some(odd) = rest.first() {
        eprintln!("plinth: unexpected argument `{odd}`; see `plinth run --help`");
        return USAGE;
    }
    crate::log::start(settings.log_target, settings.log_level);
    for file in &settings.left_out {
        log::error!("{file}");
    }
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    match crate::run::run(settings) {
        Ok(()) => 0,
        Err(e) => {
            log::error!("{}", chain(&e));
            FAILED
        }
    }
}
