//! The kernel command line's `plinth.*` words, read purely. A word that is wrong costs no boot: it is a complaint, and its default holds.

use std::net::IpAddr;
use std::time::Duration;

/// How a file system is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// GPT partition name.
    Label(String),
    /// GPT partition GUID, as written: lower case, with dashes.
    Uuid(String),
    /// A block device.
    Device(String),
    /// None: memory.
    Tmpfs,
}

/// How the first Ethernet port gets its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip {
    /// By the DHCP client.
    Dhcp,
    /// As written.
    Fixed {
        /// The port's.
        addr: IpAddr,
        /// Bits of the network in it.
        prefix: u8,
        /// Default route.
        gateway: Option<IpAddr>,
        /// Name server.
        dns: Option<IpAddr>,
    },
}

/// What a failure before PID 1 ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// busybox on the console.
    Shell,
    /// Try again, after a pause to read by.
    Reboot,
    /// Off.
    PowerOff,
    /// Stop, with the message on the screen.
    Halt,
}

/// All of it, with defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The root file system.
    pub root: Where,
    /// Its dm-verity root hash.
    pub root_hash: Option<String>,
    /// The read-only manifests.
    pub manifests: Where,
    /// Their dm-verity root hash.
    pub manifests_hash: Option<String>,
    /// What is kept.
    pub state: Where,
    /// Address of the first Ethernet port.
    pub ip: Option<Ip>,
    /// Host name.
    pub hostname: Option<String>,
    /// What a failure ends in.
    pub fallback: Fallback,
    /// How long a partition may take to appear.
    pub wait: Duration,
    /// Say more.
    pub debug: bool,
    /// A hash was given that cannot be one. Kept apart: to boot unverified because of a typing error would be wrong.
    pub bad_hash: Option<String>,
}

impl Default for Words {
    fn default() -> Words {
        Words {
            root: Where::Label("plinth-root".into()),
            root_hash: None,
            manifests: Where::Label("plinth-manifests".into()),
            manifests_hash: None,
            state: Where::Label("plinth-state".into()),
            ip: None,
            hostname: None,
            fallback: Fallback::Reboot,
            wait: Duration::from_secs(10),
            debug: false,
            bad_hash: None,
        }
    }
}

/// Reads the command line; the second list says what was not understood. The last of two equal words wins, as in the kernel.
/// Words that are not about booting are the supervisor's.
pub fn parse(text: &str) -> (Words, Vec<String>) {
    let (mut words, mut complaints) = (Words::default(), Vec::new());
    for word in split(text) {
        let Some(word) = word.strip_prefix("plinth.") else { continue };
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        if let Err(why) = words.take(name, value) {
            complaints.push(format!("kernel command line: plinth.{word}: {why}"));
        }
    }
    (words, complaints)
}

impl Words {
    fn take(&mut self, name: &str, value: Option<&str>) -> Result<(), &'static str> {
        let given = value.filter(|v| !v.is_empty()).ok_or("needs a value");
        match name {
            "root" => self.root = place(given?).ok_or("a root cannot be tmpfs")?,
            "manifests" => self.manifests = place(given?).ok_or("manifests cannot be tmpfs")?,
            "state" => self.state = place(given?).unwrap_or(Where::Tmpfs),
            "roothash" => self.root_hash = self.hash(name, value)?,
            "manifestshash" => self.manifests_hash = self.hash(name, value)?,
            "ip" => self.ip = Some(ip(given?).ok_or("is neither dhcp nor ADDR/PREFIX[,GATEWAY[,DNS]]")?),
            "hostname" => self.hostname = Some(host_name(given?).ok_or("is no host name")?),
            "fallback" => self.fallback = fallback(given?).ok_or("is none of shell, reboot, poweroff, halt")?,
            "wait" => self.wait = given?.parse().map(Duration::from_secs).map_err(|_| "is no number of seconds")?,
            "debug" => self.debug = !matches!(value, Some("0" | "no" | "false")),
            _ => {}
        }
        Ok(())
    }

    fn hash(&mut self, name: &str, value: Option<&str>) -> Result<Option<String>, &'static str> {
        let text = value.unwrap_or_default();
        if text.len() >= 32 && text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Some(text.to_ascii_lowercase()));
        }
        self.bad_hash = Some(format!("plinth.{name}={text}"));
        Err("is no hash in hexadecimal")
    }
}

/// The words of a kernel command line; double quotes hold one together.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in text.trim().chars() {
        match (c, words.last_mut()) {
            ('"', _) => quoted = !quoted,
            (c, _) if c.is_whitespace() && !quoted => words.push(String::new()),
            (c, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}

/// `None`: tmpfs.
fn place(text: &str) -> Option<Where> {
    if text == "tmpfs" {
        return None;
    }
    if text.starts_with("/dev/") {
        return Some(Where::Device(text.into()));
    }
    match text.split_once('=') {
        Some(("UUID" | "PARTUUID", id)) => Some(Where::Uuid(id.to_ascii_lowercase())),
        Some(("LABEL" | "PARTLABEL", name)) => Some(Where::Label(name.into())),
        _ => Some(Where::Label(text.into())),
    }
}

fn ip(text: &str) -> Option<Ip> {
    if text == "dhcp" {
        return Some(Ip::Dhcp);
    }
    let mut parts = text.split(',');
    let (addr, prefix) = parts.next()?.split_once('/')?;
    let (addr, prefix) = (addr.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
    let mut optional = || match parts.next() {
        None | Some("") => Some(None),
        Some(text) => text.parse::<IpAddr>().ok().map(Some),
    };
    let (gateway, dns) = (optional()?, optional()?);
    let fits = prefix <= if addr.is_ipv4() { 32 } else { 128 } && gateway.is_none_or(|g| g.is_ipv4() == addr.is_ipv4());
    (fits && parts.next().is_none()).then_some(Ip::Fixed { addr, prefix, gateway, dns })
}

/// RFC 1123 labels, 63 bytes in all: what sethostname(2) takes and Kubernetes calls a node.
fn host_name(text: &str) -> Option<String> {
    let label = |l: &str| {
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(good)
    };
    let text = text.to_ascii_lowercase();
    (text.len() <= 63 && text.split('.').all(label)).then_some(text)
}

fn fallback(text: &str) -> Option<Fallback> {
    Some(match text {
        "shell" => Fallback::Shell,
        "reboot" => Fallback::Reboot,
        "poweroff" => Fallback::PowerOff,
        "halt" => Fallback::Halt,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_are_read_and_others_are_left_alone() {
        let line = "quiet console=ttyS0 plinth.root=UUID=ABCD-12 plinth.roothash=AB00AB00AB00AB00AB00AB00AB00AB00 \
                    plinth.manifests=PARTLABEL=m plinth.state=/dev/vdb plinth.ip=10.0.2.15/24,10.0.2.2,10.0.2.3 plinth.hostname=Edge-1 \
                    plinth.fallback=halt plinth.wait=3 plinth.debug plinth.snapshotter=native";
        let (words, complaints) = parse(line);
        assert_eq!(complaints, Vec::<String>::new());
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let expected = Words {
            root: Where::Uuid("abcd-12".into()),
            root_hash: Some("ab00".repeat(8)),
            manifests: Where::Label("m".into()),
            manifests_hash: None,
            state: Where::Device("/dev/vdb".into()),
            ip: Some(Ip::Fixed { addr: ip("10.0.2.15"), prefix: 24, gateway: Some(ip("10.0.2.2")), dns: Some(ip("10.0.2.3")) }),
            hostname: Some("edge-1".into()),
            fallback: Fallback::Halt,
            wait: Duration::from_secs(3),
            debug: true,
            bad_hash: None,
        };
        assert_eq!(words, expected);
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        assert_eq!(parse("ro panic=1\n"), (Words::default(), Vec::new()));
        assert_eq!(parse("plinth.state=tmpfs").0.state, Where::Tmpfs);
    }

    #[test]
    fn a_wrong_word_is_named_and_its_default_holds() {
        for word in [
            "plinth.ip=10.0.0.1",
            "plinth.ip=10.0.0.1/33",
            "plinth.ip=10.0.0.1/8,fe80::1",
            "plinth.ip=10.0.0.1/8,10.0.0.2,10.0.0.3,x",
            "plinth.hostname=a_b",
            "plinth.hostname=a..b",
            "plinth.fallback=panic",
            "plinth.wait=soon",
            "plinth.root",
            "plinth.root=tmpfs",
        ] {
            let (words, complaints) = parse(word);
            assert_eq!(words, Words::default(), "{word}");
            assert!(complaints.iter().any(|c| c.contains(word)), "{word}: {complaints:?}");
        }
    }

    #[test]
    fn a_hash_that_is_none_is_not_the_same_as_no_hash() {
        for text in ["", "xyz", "abc", "aé"] {
            let (words, complaints) = parse(&format!("plinth.roothash={text}"));
            assert!(words.bad_hash.is_some() && words.root_hash.is_none() && complaints.len() == 1, "{text}");
        }
    }

    #[test]
    fn an_address_may_come_without_gateway_or_with_a_name_server_alone() {
        let fixed = |gateway, dns| Some(Ip::Fixed { addr: "fd00::2".parse().unwrap(), prefix: 64, gateway, dns });
        assert_eq!(parse("plinth.ip=fd00::2/64").0.ip, fixed(None, None));
        assert_eq!(parse("plinth.ip=fd00::2/64,,10.0.0.3").0.ip, fixed(None, "10.0.0.3".parse().ok()));
        assert_eq!(parse("plinth.ip=\"dhcp\"").0.ip, Some(Ip::Dhcp));
    }
}
