//! The completions in the shells they are for: bash and zsh on a terminal with a TAB key, fish by its own word for that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod skip;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Stands for plinth once the script is made: tells its arguments, and of a pod when asked for names.
const PLINTH: &str = "#!/bin/sh\ncase \"$*\" in\n'status -o name') echo default/web-n1 ;;\n*) echo \"RAN:$*.\" ;;\nesac\n";
const PROMPT: &str = "what now> ";

/// A place with the shell's script and a `plinth` of the test's own; `None`: no such shell here.
struct Place(PathBuf);

impl Place {
    fn of(shell: &str, script: &str) -> Option<Place> {
        if Command::new(shell).arg("--version").output().is_err() {
            skip::skip(&format!("tests/completions.rs: {shell} is not here"));
            return None;
        }
        let dir = std::env::temp_dir().join(format!("plinth-completions-{}-{shell}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let made = Command::new(env!("CARGO_BIN_EXE_plinth")).args(["completions", shell]).output().unwrap();
        assert!(made.status.success());
        fs::write(dir.join(script), made.stdout).unwrap();
        fs::write(dir.join("plinth"), PLINTH).unwrap();
        fs::set_permissions(dir.join("plinth"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(Place(dir))
    }

    fn command(&self, program: &str) -> Command {
        let mut c = Command::new(program);
        let path = format!("{}:{}", self.0.display(), std::env::var("PATH").unwrap());
        c.env_clear().env("PATH", path).env("HOME", &self.0).env("TERM", "dumb").env("LC_ALL", "C").current_dir(&self.0);
        c
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A shell on a terminal of its own.
struct Terminal {
    shell: Child,
    screen: File,
    shown: String,
}

impl Terminal {
    fn of(mut command: Command) -> Terminal {
        let size = nix::pty::Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let shell = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        rustix::fs::fcntl_setfl(&pty.master, rustix::fs::OFlags::NONBLOCK).unwrap();
        Terminal { shell, screen: File::from(pty.master), shown: String::new() }
    }

    /// Types it, and waits until that is shown of what comes then.
    fn types(&mut self, keys: &str, awaited: &str) {
        self.shown.clear();
        self.screen.write_all(keys.as_bytes()).unwrap();
        self.shows(awaited);
    }

    fn shows(&mut self, awaited: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.shown.contains(awaited) {
            assert!(Instant::now() < end, "{awaited:?} is not in {:?}", self.shown);
            let mut bytes = [0; 4096];
            match self.screen.read(&mut bytes) {
                Ok(n) => self.shown.push_str(&String::from_utf8_lossy(bytes.get(..n).unwrap_or_default())),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A verb, a pod, a flag and a word it takes are all completed.
fn completes(terminal: &mut Terminal) {
    for (keys, ran) in [
        ("plinth sta\t\r", "RAN:status."),
        ("plinth why def\t\r", "RAN:why default/web-n1."),
        ("plinth logs --foll\t\r", "RAN:logs --follow."),
        ("plinth status -o na\t\r", "RAN:status -o name."),
    ] {
        // The stub says names, not what ran, to the last.
        let awaited = if ran.ends_with("name.") { "default/web-n1" } else { ran };
        terminal.types(keys, awaited);
        terminal.shows(PROMPT);
    }
}

#[test]
fn bash_completes_on_tab() {
    let Some(place) = Place::of("bash", "plinth.bash") else { return };
    let mut bash = place.command("bash");
    bash.args(["--norc", "--noprofile", "-i"]).env("PS1", PROMPT);
    let mut terminal = Terminal::of(bash);
    terminal.shows(PROMPT);
    terminal.types(". ./plinth.bash\r", PROMPT);
    completes(&mut terminal);
}

#[test]
fn zsh_completes_on_tab() {
    let Some(place) = Place::of("zsh", "_plinth") else { return };
    let mut zsh = place.command("zsh");
    zsh.args(["-f", "-i"]).env("PS1", PROMPT);
    let mut terminal = Terminal::of(zsh);
    terminal.shows(PROMPT);
    terminal.types("fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; echo fit\"\"ted\r", "fitted");
    terminal.shows(PROMPT);
    completes(&mut terminal);
}

#[test]
fn fish_completes() {
    let Some(place) = Place::of("fish", "plinth.fish") else { return };
    let offered = |line: &str| {
        let ask = format!("source plinth.fish; complete -C '{line}'");
        let out = place.command("fish").args(["--no-config", "-c", &ask]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        text.lines().map(|l| l.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(offered("plinth sta"), ["status"]);
    assert_eq!(offered("plinth why def"), ["default/web-n1"]);
    assert_eq!(offered("plinth logs --foll"), ["--follow"]);
    assert_eq!(offered("plinth status -o na"), ["name"]);
    assert!(offered("plinth ").contains(&"shutdown".to_owned()));
}
