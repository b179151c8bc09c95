//! The files of the usual places to settings: a bad one costs itself alone, where the vendor's stand without it.
//!
//! Nobody logs in to an appliance to mend a file of its overlay, and whoever can put one there must not stop every pod by it. Where no
//! vendor says what the machine is, a bad file ends the start instead: what it says of layers and names is then said nowhere else, and by
//! the defaults alone pods that run would be unwanted. Keeps no state; what was named explicitly never comes here.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use super::{Settings, SettingsError, fragments};

/// The vendor's place and the machine's, in this order: the later wins.
pub const PLACES: [&str; 2] = ["/usr/lib/plinth", "/etc/plinth"];

/// Folds the files of both places; `finish` puts over them what was named explicitly, completes and validates.
pub fn load(
    vendor: &Path,
    machine: &Path,
    finish: impl Fn(Settings) -> Result<Settings, SettingsError>,
) -> Result<Settings, SettingsError> {
    let (mut files, mut bad) = fragments::files_below(&[vendor, machine]);
    let mut done = finish(fold(&mut files, &mut bad));
    while let Err(SettingsError::Invalid(wrong)) = &done {
        let Some((at, message)) = to_blame(&files, wrong, &finish) else { break };
        bad.push(SettingsError::Wrong { place: files.remove(at).display().to_string(), message });
        done = finish(fold(&mut files, &mut bad));
    }
    let mut settings = done?;
    if !bad.is_empty() && !files.iter().any(|f| f.starts_with(vendor)) {
        return Err(bad.swap_remove(0));
    }
    settings.left_out = bad.iter().map(left_out).collect();
    Ok(settings)
}

/// Each file is right by itself and together they are not: that without which the rest is right, the latest first; else the first that is
/// not right with those before it. With what is wrong; `None`: it is no file.
fn to_blame(files: &[PathBuf], wrong: &str, finish: impl Fn(Settings) -> Result<Settings, SettingsError>) -> Option<(usize, String)> {
    let of = |wanted: &dyn Fn(usize) -> bool| {
        let mut some = files.iter().enumerate().filter(|(i, _)| wanted(*i)).map(|(_, file)| file.clone()).collect();
        finish(fold(&mut some, &mut Vec::new()))
    };
    let alone = (0..files.len()).rev().find(|at| of(&|i| i != *at).is_ok());
    alone.map(|at| (at, wrong.to_owned())).or_else(|| {
        (0..files.len()).find_map(|at| match of(&|i| i <= at) {
            Err(SettingsError::Invalid(wrong)) => Some((at, wrong)),
            _ => None,
        })
    })
}

/// The good ones of the files in one; of a bad one nothing counts, and it is dropped from the list.
fn fold(files: &mut Vec<PathBuf>, bad: &mut Vec<SettingsError>) -> Settings {
    let mut settings = Settings::default();
    files.retain(|file| {
        let mut with = settings.clone();
        match fragments::file(file, &mut with) {
            Ok(()) => settings = with,
            Err(e) => {
                bad.push(e);
                return false;
            }
        }
        true
    });
    settings
}

fn left_out(error: &SettingsError) -> String {
    let why = error.source().map_or_else(String::new, |why| format!(": {why}"));
    format!("{error}{why}: nothing of it counts; correct it, then restart plinth")
}
