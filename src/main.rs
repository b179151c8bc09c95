//! argv, settings, runtime, exit code, error chain.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((verb, rest)) if verb == "check" => plinth::cli::check::run(rest).into(),
        Some((verb, rest)) if verb == "render" => plinth::cli::render::run(rest).into(),
        _ => ExitCode::from(2),
    }
}
