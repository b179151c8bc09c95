//! What is new about the files since the last reading, for the log: each fact once. `status` always shows all of it.

use std::collections::BTreeSet;
use std::path::Path;

use log::Level;

use crate::pod::{FileReport, Finding, Verdict};

/// Logs what `now` says that `before` did not.
pub fn tell(before: &[FileReport], now: &[FileReport]) {
    let old: BTreeSet<(Level, String)> = before.iter().flat_map(facts).collect();
    for (level, text) in now.iter().flat_map(facts).collect::<BTreeSet<_>>() {
        if !old.contains(&(level, text.clone())) {
            log::log!(level, "{text}");
        }
    }
    for path in mended(before, now) {
        log::info!("{}: nothing is wrong with it any more", path.display());
    }
}

/// Files that were refused, in whole or in part, and no longer are: whoever mended one wants to read so.
fn mended<'a>(before: &[FileReport], now: &'a [FileReport]) -> Vec<&'a Path> {
    let broken: BTreeSet<&Path> = before.iter().filter(|r| !r.errors.is_empty()).map(|r| &*r.path).collect();
    let good = now.iter().filter(|r| r.verdict == Verdict::Accepted && r.errors.is_empty() && !r.stale);
    good.map(|r| &*r.path).filter(|path| broken.contains(path)).collect()
}

fn facts(report: &FileReport) -> Vec<(Level, String)> {
    let path = report.path.display();
    let mut facts = Vec::new();
    match report.verdict {
        Verdict::Ignored => facts.push((Level::Info, format!("{path}: not a manifest by its name (*.yaml, *.yml, *.json): ignored"))),
        Verdict::Mask => facts.push((Level::Info, format!("{path}: masks this name in lower layers"))),
        Verdict::Overridden => {
            let by = report.by.as_ref().map(|by| by.display().to_string()).unwrap_or_default();
            facts.push((Level::Info, format!("{path}: overridden by {by}")));
        }
        Verdict::Accepted | Verdict::Rejected | Verdict::Masked => {}
    }
    let stands = if report.stale && !report.pods.is_empty() { "; its last good revision stays" } else { "" };
    // Refused findings need a person, who edits the file; warnings are plinth's to cope with.
    facts.extend(report.errors.iter().map(|f| (Level::Error, format!("{}{stands}", line(report, f)))));
    facts.extend(report.warnings.iter().map(|f| (Level::Warn, line(report, f))));
    facts
}

fn line(report: &FileReport, f: &Finding) -> String {
    let place = if f.line > 0 { format!(":{}:{}", f.line, f.column) } else { String::new() };
    let field = if f.field.is_empty() { String::new() } else { format!("{}: ", f.field) };
    format!("{}{place}: {field}{}", report.path.display(), f.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errors: usize, verdict: Verdict) -> FileReport {
        FileReport {
            path: "/etc/m/web.yaml".into(),
            layer: "/etc/m".into(),
            verdict,
            by: None,
            pods: Vec::new(),
            stale: false,
            errors: vec![Finding::default(); errors],
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_mended_file_is_told_once() {
        let (bad, good) = ([report(1, Verdict::Rejected)], [report(0, Verdict::Accepted)]);
        assert_eq!(mended(&bad, &good), [Path::new("/etc/m/web.yaml")]);
        assert!(mended(&good, &good).is_empty() && mended(&good, &bad).is_empty() && mended(&bad, &bad).is_empty());
        assert!(mended(&bad, &[report(0, Verdict::Mask)]).is_empty());
    }
}
