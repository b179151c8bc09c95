//! `images/install.sh` into a directory of the test's own: what is put there works, and agrees with the binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plinth::settings::{Settings, names};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A directory that goes with the test.
struct Dest(PathBuf);

impl Dest {
    fn new(name: &str) -> Dest {
        let dir = std::env::temp_dir().join(format!("plinth-install-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dest(dir)
    }

    fn install(&self) -> String {
        said(Command::new(format!("{ROOT}/images/install.sh")).arg(env!("CARGO_BIN_EXE_plinth")).arg(&self.0).output().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

impl Drop for Dest {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(out: Output) -> String {
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The default configuration with the mark before every setting taken away.
fn unmarked() -> String {
    let marked = fs::read_to_string(format!("{ROOT}/images/install/config.yaml")).unwrap();
    marked
        .lines()
        .map(|l| l.strip_prefix('#').filter(|l| l.starts_with(|c: char| c.is_alphabetic())).unwrap_or(l).to_owned() + "\n")
        .collect()
}

fn load(file: &Path) -> Settings {
    let (settings, rest) = Settings::load(&["--config".into(), file.to_str().unwrap().into()], "").unwrap();
    assert!(rest.is_empty());
    settings
}

#[test]
fn installed_binary_completions_and_pages_work() {
    let dest = Dest::new("works");
    dest.install();
    let plinth = dest.at("usr/bin/plinth");
    assert!(said(Command::new(&plinth).arg("version").output().unwrap()).starts_with(concat!("plinth ", env!("CARGO_PKG_VERSION"))));
    let manifest = dest.at("etc/plinth/manifests/a.yaml");
    fs::write(
        &manifest,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: c, image: docker.io/library/busybox:1.35}]\n",
    )
    .unwrap();
    said(Command::new(&plinth).arg("check").arg(&manifest).output().unwrap());
    said(Command::new("bash").arg("-n").arg(dest.at("usr/share/bash-completion/completions/plinth")).output().unwrap());
    for path in
        ["usr/share/zsh/vendor-completions/_plinth", "usr/share/fish/vendor_completions.d/plinth.fish", "usr/share/man/man1/plinth-run.1"]
    {
        assert!(fs::metadata(dest.at(path)).unwrap().len() > 100, "{path}");
    }
    let page = fs::read_to_string(dest.at("usr/share/man/man5/plinth-config.5")).unwrap();
    for name in names() {
        assert_eq!(page.matches(&format!(".B {name}:")).count(), 1, "{name} in plinth-config(5)");
    }
}

#[test]
fn default_configuration_names_every_setting_once_with_its_default() {
    let dest = Dest::new("config");
    let (all, none) = (dest.at("all.yaml"), dest.at("none.yaml"));
    fs::write(&all, unmarked()).unwrap();
    fs::copy(format!("{ROOT}/images/install/config.yaml"), &none).unwrap();
    for name in names() {
        assert_eq!(unmarked().lines().filter(|l| l.starts_with(&format!("{name}:"))).count(), 1, "{name} in config.yaml");
    }
    assert_eq!(load(&all).warnings, Vec::<String>::new());
    assert_eq!(load(&all), load(&none), "what stands behind a mark is the default");
    let source = |name: &str| fs::read_to_string(format!("{ROOT}/src/settings/{name}.rs")).unwrap();
    let kubelets = source("kubelet") + &source("fragments");
    for name in unmarked().lines().filter_map(|l| l.strip_prefix("# kubelet: ")) {
        let plain = name.trim_start_matches("--").replace('-', "");
        assert!(plain.split('.').all(|part| kubelets.contains(&format!("\"{part}\""))), "config.yaml promises the kubelet's `{name}`");
    }
}

#[test]
fn second_install_keeps_an_edited_configuration() {
    let dest = Dest::new("twice");
    dest.install();
    let config = dest.at("etc/plinth/config.yaml");
    let edited = fs::read_to_string(&config).unwrap().replace("#maxPods: 110", "maxPods: 7");
    fs::write(&config, &edited).unwrap();
    let told = dest.install();
    assert!(told.contains("kept"), "{told}");
    assert_eq!(fs::read_to_string(&config).unwrap(), edited);
    assert_eq!(load(&config).max_pods, 7);
    assert!(dest.at("usr/share/doc/plinth/config.yaml").exists());
}

#[test]
fn unit_is_one_that_systemd_takes() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return skip::skip("tests/install.rs: check the unit: no systemd-analyze here");
    };
    let version = said(version);
    let major: u32 = version.split_whitespace().nth(1).unwrap().split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
    let dest = Dest::new("unit");
    dest.install();
    // The command must be there where the unit says; here it is below DESTDIR.
    let unit = fs::read_to_string(dest.at("usr/lib/systemd/system/plinth.service")).unwrap();
    let unit = unit.replace("/usr/bin/plinth", dest.at("usr/bin/plinth").to_str().unwrap());
    // What an older systemd does not know it names and passes over.
    let keep = |l: &&str| major >= 254 || !l.starts_with("FileDescriptorStorePreserve=");
    let file = dest.at("plinth.service");
    fs::write(&file, unit.lines().filter(keep).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    let complaints = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!complaints.contains("plinth.service"), "systemd-analyze verify: {complaints}");
    assert!(out.status.success(), "systemd-analyze verify: {complaints}");
}
