//! argv to exit status: everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    if plinth::sys::pause::is_asked() {
        plinth::sys::pause::run();
    }
    if plinth::shim::is_asked() {
        return plinth::shim::run();
    }
    let mut args = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => args.push(arg),
            Err(arg) => {
                eprintln!("plinth: argument {arg:?} is not UTF-8");
                return ExitCode::from(plinth::cli::USAGE);
            }
        }
    }
    ExitCode::from(plinth::cli::dispatch(&args))
}
