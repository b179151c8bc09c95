//! A server's name to addresses without a thread: an address itself, the hosts file, then one question to each name server.
//!
//! hickory-resolver would do it at 0.8 MB of the binary, more than all of TLS; what is asked here is A and AAAA of one name.
//! Keeps nothing: it is asked once for each connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, TYPE};
use tokio::net::UdpSocket;

/// A name server that does not answer within this is passed over; the next connection asks it again.
const ANSWER: Duration = Duration::from_millis(1500);
/// As the resolver of libc: no more name servers are asked.
const SERVERS: usize = 3;

/// Every address of a host, in the order they are to be tried.
pub async fn lookup(host: &str, resolv_conf: &Path) -> io::Result<Vec<IpAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(vec![ip]);
    }
    let hosts = hosts_entries(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), bare);
    if !hosts.is_empty() {
        return Ok(hosts);
    }
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let conf = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    ask(bare, &conf, &servers(&conf)).await
}

fn hosts_entries(text: &str, host: &str) -> Vec<IpAddr> {
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|w| w.eq_ignore_ascii_case(host)).then_some(ip)
    };
    text.lines().filter_map(entry).collect()
}

/// `nameserver` and `search` of a resolv.conf.
fn servers(conf: &str) -> Vec<SocketAddr> {
    let named = conf.lines().filter_map(|l| l.split_whitespace().nth(1).filter(|_| l.trim_start().starts_with("nameserver")));
    named.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| (ip, 53).into()).take(SERVERS).collect()
}

/// The name itself if it has a dot, then with each search domain, as `ndots:1` has it.
fn candidates(host: &str, conf: &str) -> Vec<String> {
    let search = conf.lines().rev().find_map(|l| l.trim_start().strip_prefix("search")).unwrap_or_default();
    let longer = search.split_whitespace().map(|domain| format!("{host}.{}", domain.trim_end_matches('.')));
    let itself = host.trim_end_matches('.').to_owned();
    if host.ends_with('.') {
        vec![itself]
    } else if host.contains('.') {
        std::iter::once(itself).chain(longer).collect()
    } else {
        longer.chain(std::iter::once(itself.clone())).collect()
    }
}

async fn ask(host: &str, conf: &str, servers: &[SocketAddr]) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::other(format!("look up {host}: no name server is configured; put the name into /etc/hosts"));
    for name in candidates(host, conf) {
        for server in servers {
            match tokio::time::timeout(ANSWER, ask_one(&name, *server)).await {
                Ok(Ok(ips)) if !ips.is_empty() => return Ok(ips),
                Ok(Ok(_)) => {
                    last = io::Error::other(format!("look up {name}: {server} knows no address of it"));
                    break;
                }
                Ok(Err(e)) => last = io::Error::other(format!("look up {name}: {server}: {e}")),
                Err(_) => last = io::Error::other(format!("look up {name}: {server} does not answer")),
            }
        }
    }
    Err(last)
}

async fn ask_one(name: &str, server: SocketAddr) -> io::Result<Vec<IpAddr>> {
    let local: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    // Only datagrams from this server come in, on a port the kernel picked at random.
    socket.connect(server).await?;
    let mut found = Vec::new();
    for kind in [TYPE::A, TYPE::AAAA] {
        // The kernel's random port and this number are what a forger would have to guess.
        let mut id = [0u8; 2];
        let _ = rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::NONBLOCK);
        let id = u16::from_ne_bytes(id);
        socket.send(&question(name, kind, id)?).await?;
        let mut buffer = [0u8; 1500];
        loop {
            let n = socket.recv(&mut buffer).await?;
            if let Some(ips) = answer(buffer.get(..n).unwrap_or_default(), id) {
                found.extend(ips);
                break;
            }
        }
    }
    Ok(found)
}

fn question(name: &str, kind: TYPE, id: u16) -> io::Result<Vec<u8>> {
    let wrong = |e: simple_dns::SimpleDnsError| io::Error::other(e.to_string());
    let mut packet = Packet::new_query(id);
    packet.set_flags(simple_dns::PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new(name).map_err(wrong)?, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(wrong)
}

/// The addresses in an answer; `None`: it is none to this question.
fn answer(bytes: &[u8], id: u16) -> Option<Vec<IpAddr>> {
    let packet = Packet::parse(bytes).ok().filter(|p| p.id() == id)?;
    let address = |data: &RData<'_>| match data {
        RData::A(a) => Some(IpAddr::V4(a.address.into())),
        RData::AAAA(a) => Some(IpAddr::V6(a.address.into())),
        _ => None,
    };
    Some(packet.answers.iter().filter_map(|r| address(&r.rdata)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_libc_reads_it() {
        let text = "127.0.0.1 localhost\n10.0.0.1 api.test API # api.other\n::1 api\nnonsense api\n";
        let ips: Vec<String> = hosts_entries(text, "api").iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.1", "::1"]);
        assert!(hosts_entries(text, "api.other").is_empty());
    }

    #[test]
    fn search_domains_are_tried_first_for_a_short_name() {
        let conf = "nameserver 192.0.2.1\nnameserver nonsense\nsearch a.test b.test.\n";
        assert_eq!(servers(conf), ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!(candidates("api", conf), ["api.a.test", "api.b.test", "api"]);
        assert_eq!(candidates("api.x", conf), ["api.x", "api.x.a.test", "api.x.b.test"]);
        assert_eq!(candidates("api.x.", conf), ["api.x"]);
    }

    /// A name server on loopback: `api.b.test` has one address of each kind, by way of another name; no other name has any. Before it
    /// answers, it sends what a forger would.
    fn serve() -> SocketAddr {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                let query = Packet::parse(&buffer[..n]).unwrap();
                let (asked, kind) = (query.questions[0].qname.to_string(), query.questions[0].qtype);
                let reply = |id: u16, last: u8| {
                    let mut packet = Packet::new_reply(id);
                    packet.questions.push(query.questions[0].clone());
                    let real = Name::new("real.test").unwrap();
                    let record = |name: Name<'static>, data| simple_dns::ResourceRecord::new(name, CLASS::IN, 60, data);
                    if asked == "api.b.test" {
                        packet.answers.push(record(Name::new("api.b.test").unwrap(), RData::CNAME(real.clone().into())));
                        packet.answers.push(match kind {
                            QTYPE::TYPE(TYPE::A) => record(real, RData::A(Ipv4Addr::new(10, 0, 0, last).into())),
                            _ => record(real, RData::AAAA(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into())),
                        });
                    } else {
                        *packet.rcode_mut() = simple_dns::RCODE::NameError;
                    }
                    packet.build_bytes_vec().unwrap()
                };
                for bytes in [b"nonsense".to_vec(), reply(query.id().wrapping_add(1), 66), reply(query.id(), 1)] {
                    socket.send_to(&bytes, from).unwrap();
                }
            }
        });
        addr
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_name_server_is_asked_after_one_that_is_silent_and_forgeries_are_passed_over() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = [silent.local_addr().unwrap(), serve()];
        // By the search list: the first domain does not know it.
        let found = run(ask("api", "search a.test b.test", &servers)).unwrap();
        assert_eq!(found, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    }

    #[test]
    fn a_name_that_nobody_knows_and_servers_that_are_away_are_told_apart() {
        let told = |servers: &[SocketAddr]| run(ask("nope.test", "", servers)).unwrap_err().to_string();
        let server = serve();
        assert_eq!(told(&[server]), format!("look up nope.test: {server} knows no address of it"));
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(told(&[silent.local_addr().unwrap()]).ends_with("does not answer"));
        // Where nothing listens, the kernel says so at once.
        let gone = silent.local_addr().unwrap();
        drop(silent);
        assert!(told(&[gone]).contains("refused"));
        assert!(told(&[]).contains("put the name into /etc/hosts"));
    }

    #[test]
    fn an_answer_to_another_question_and_nonsense_are_none() {
        let query = question("api.test", TYPE::A, 7).unwrap();
        let mut reply = Packet::parse(&query).unwrap().into_reply();
        let name = Name::new("api.test").unwrap();
        let a = RData::A(simple_dns::rdata::A { address: 0x0a00_0001 });
        reply.answers.push(simple_dns::ResourceRecord::new(name, CLASS::IN, 60, a));
        let bytes = reply.build_bytes_vec().unwrap();
        assert_eq!(answer(&bytes, 7), Some(vec!["10.0.0.1".parse().unwrap()]));
        assert_eq!(answer(&bytes, 8), None);
        for n in 0..bytes.len() {
            drop(answer(&bytes[..n], 7));
        }
    }
}
