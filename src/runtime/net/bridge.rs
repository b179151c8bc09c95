//! What CNI's `bridge` does with `host-local` for its addresses, done here: no program to start, which is most of what a pod's network costs.
//! The interfaces, addresses, routes, settings, files and result are the plugin's, so that either undoes what the other did.
//!
//! Only where every word of the configuration is known here; one that is not (masquerading, VLANs, IPv6, an address asked for) makes it the
//! plugin's, which is then called as any other.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::INTERFACE;
use super::cache::Attachment;
use super::host_local::{self, AddressError, HostLocal, Lease, RouteConf, subnet};
use crate::sys::mounts;
use crate::sys::netlink::{self, Mac, Pair, Refused, Script};

/// What the plugin reads, of which some may only be off.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Conf {
    r#type: String,
    name: String,
    cni_version: String,
    #[serde(default = "cni0")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    mtu: u32,
    ipam: host_local::Conf,
    #[serde(default)]
    dns: Value,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: u32,
    #[serde(default)]
    preserve_default_vlan: bool,
    #[serde(default)]
    macspoofchk: bool,
    #[serde(default)]
    enabledad: bool,
    #[serde(default)]
    disable_container_interface: bool,
    #[serde(default)]
    port_isolation: bool,
    // Known, and of no concern to it.
    #[serde(default, rename = "capabilities")]
    _capabilities: IgnoredAny,
    #[serde(default, rename = "prevResult")]
    _prev_result: IgnoredAny,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    _valid_attachments: IgnoredAny,
    #[serde(default, rename = "cni.dev/attachments")]
    _attachments: IgnoredAny,
}

fn cni0() -> String {
    "cni0".into()
}

/// A network that is made here.
#[derive(Debug)]
pub struct Bridge {
    conf: Conf,
    book: HostLocal,
    routes: Vec<Route>,
}

#[derive(Clone, Copy, Debug)]
struct Route {
    to: (Ipv4Addr, u8),
    gateway: Option<Ipv4Addr>,
}

/// Why the pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The interfaces.
    #[error("{doing}: {source}")]
    Refused {
        /// What was asked of the kernel.
        doing: String,
        /// Its answer.
        source: std::io::Error,
    },
}

impl From<Refused> for BridgeError {
    fn from(Refused { doing, source }: Refused) -> BridgeError {
        BridgeError::Refused { doing, source }
    }
}

fn failed(doing: String) -> impl FnOnce(std::io::Error) -> BridgeError {
    move |source| BridgeError::Refused { doing, source }
}

impl Bridge {
    /// Understands what a plugin would read, or leaves it to the plugin.
    pub fn read(conf: &Value) -> Option<Bridge> {
        let conf = Conf::deserialize(conf).ok().filter(|c| c.r#type == "bridge")?;
        let asks_more = conf.force_address
            || conf.ip_masq
            || conf.promisc_mode
            || conf.preserve_default_vlan
            || conf.macspoofchk
            || conf.enabledad
            || conf.disable_container_interface
            || conf.port_isolation
            || conf.vlan != 0
            || !(conf.dns.is_null() || conf.dns.is_object());
        let speaks = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&&*conf.cni_version);
        let route = |r: &RouteConf| Some(Route { to: subnet(&r.dst)?, gateway: r.gw });
        let routes = conf.ipam.routes.iter().map(route).collect::<Option<Vec<_>>>()?;
        let book = HostLocal::read(&conf.ipam, &conf.name)?;
        (speaks && !asks_more).then_some(Bridge { conf, book, routes })
    }

    /// ADD: the pod's interface, and the result that says so.
    pub async fn add(&self, made: &Attachment, patience: Duration) -> Result<Value, BridgeError> {
        let pinned = namespace(made)?.ok_or_else(|| {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            failed(format!("open network namespace {}: it is not pinned there any more", made.netns))(gone)
        })?;
        let lease = self.book.take(&made.id, patience).await?;
        let routes = self.routes(lease);
        let near = format!("veth{:08x}", u32::from_ne_bytes(random()?));
        let (near_mac, far_mac) = (own_mac(random()?), own_mac(random()?));
        let bridge = &*self.conf.bridge;
        let pair = Pair { near: &near, near_mac, far: INTERFACE, far_mac, bridge, namespace: pinned.as_fd(), mtu: self.mtu() };
        self.script(&pair, lease, &routes).run(patience).await?;
        let bridge_mac = netlink::mac(bridge).map_err(failed(format!("read the address of `{bridge}`")))?;
        Ok(self.result(made, [(bridge, bridge_mac), (&near, near_mac), (INTERFACE, far_mac)], lease, &routes))
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.conf.mtu).filter(|m| *m > 0)
    }

    /// What concerns the bridge comes first: one that is a gateway has a hardware address of its own before it could take its first port's.
    fn script<'a>(&self, pair: &Pair<'a>, lease: Lease, routes: &[Route]) -> Script<'a> {
        let bridge = &*self.conf.bridge;
        let accept_ra = |name: &str| format!("ipv6/conf/{name}/accept_ra");
        let mut script = Script::default().bridge(bridge, self.mtu()).set(&accept_ra(bridge), 0).up(bridge);
        if self.conf.is_gateway || self.conf.is_default_gateway {
            script = script.own_address(bridge, lease.gateway, lease.prefix).require("ipv4/ip_forward", 1);
        }
        script = script.pair(pair).set(&accept_ra(pair.near), 0);
        if self.conf.hairpin_mode {
            script = script.hairpin(pair.near);
        }
        script = script.enter(pair.namespace).set(&format!("ipv6/conf/{INTERFACE}/accept_dad"), 0);
        // Neighbours that knew the address of an earlier pod are told.
        script = script.set(&format!("ipv4/conf/{INTERFACE}/arp_notify"), 1);
        script = script.address(INTERFACE, lease.addr, lease.prefix).up(INTERFACE);
        for route in routes {
            script = script.route(INTERFACE, route.to, route.gateway.unwrap_or(lease.gateway));
        }
        script.carried(pair.near)
    }

    /// Those of the configuration, and the default one if the bridge is to be it and none with a gateway is there.
    fn routes(&self, lease: Lease) -> Vec<Route> {
        let everywhere = (Ipv4Addr::UNSPECIFIED, 0);
        let has_default = self.routes.iter().any(|r| r.to == everywhere && r.gateway.is_some());
        let default = (self.conf.is_default_gateway && !has_default).then_some(Route { to: everywhere, gateway: Some(lease.gateway) });
        self.routes.iter().copied().chain(default).collect()
    }

    fn result(&self, made: &Attachment, interfaces: [(&str, Mac); 3], lease: Lease, routes: &[Route]) -> Value {
        let mut interfaces = interfaces.map(|(name, mac)| json!({ "name": name, "mac": mac_text(mac) }));
        if let Some(pods) = interfaces.last_mut().and_then(Value::as_object_mut) {
            pods.insert("sandbox".into(), made.netns.as_str().into());
        }
        let mut ip = json!({ "interface": 2, "address": format!("{}/{}", lease.addr, lease.prefix), "gateway": lease.gateway });
        // A word that version 1.0.0 dropped.
        if let Some(ip) = ip.as_object_mut().filter(|_| self.conf.cni_version.starts_with("0.")) {
            ip.insert("version".into(), "4".into());
        }
        let route = |r: &Route| match r.gateway {
            Some(gateway) => json!({ "dst": format!("{}/{}", r.to.0, r.to.1), "gw": gateway }),
            None => json!({ "dst": format!("{}/{}", r.to.0, r.to.1) }),
        };
        let dns = if self.conf.dns.is_object() { self.conf.dns.clone() } else { json!({}) };
        let routes: Vec<Value> = routes.iter().map(route).collect();
        let mut result =
            json!({ "cniVersion": self.conf.cni_version, "interfaces": interfaces, "ips": [ip], "routes": routes, "dns": dns });
        if let Some(result) = result.as_object_mut() {
            result.retain(|_, part| part.as_array().is_none_or(|list| !list.is_empty()));
        }
        result
    }

    /// DEL: the interface, then the address; what is not there any more is gone.
    pub async fn delete(&self, made: &Attachment, patience: Duration) -> Result<(), BridgeError> {
        if let Some(pinned) = namespace(made)? {
            Script::default().enter(pinned.as_fd()).remove(INTERFACE).run(patience).await?;
        }
        Ok(self.book.give_back(&made.id, patience).await?)
    }
}

/// The pod's; `None`: it is gone.
fn namespace(made: &Attachment) -> Result<Option<OwnedFd>, BridgeError> {
    let path = Path::new(&made.netns);
    let opened = mounts::is_pin(path).then(|| netlink::namespace(path)).transpose();
    opened.map_err(failed(format!("open network namespace {}", made.netns)))
}

fn random<const N: usize>() -> Result<[u8; N], BridgeError> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| failed("make up an address".into())(e.into()))?;
    Ok(bytes)
}

/// Of one interface, given by nobody: the two bits that say so.
fn own_mac([first, rest @ ..]: Mac) -> Mac {
    let [b, c, d, e, f] = rest;
    [first & 0xfe | 2, b, c, d, e, f]
}

fn mac_text(mac: Mac) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_configuration_that_is_understood_word_for_word_is_ours() {
        let fine = json!({ "type": "bridge", "name": "n", "cniVersion": "1.0.0", "capabilities": { "x": true }, "prevResult": {},
            "ipMasq": false, "ipam": { "type": "host-local", "subnet": "10.0.0.0/24", "routes": [{ "dst": "0.0.0.0/0" }] } });
        assert!(Bridge::read(&fine).is_some());
        let changes = [
            ("type", json!("macvlan")),
            ("cniVersion", json!("0.2.0")),
            ("ipMasq", json!(true)),
            ("vlan", json!(2)),
            ("mtu", json!(-1)),
            ("runtimeConfig", json!({ "ips": ["10.0.0.5"] })),
            ("args", json!({})),
            ("ipam", json!({})),
        ];
        for (key, value) in changes {
            let mut conf = fine.clone();
            conf.as_object_mut().unwrap().insert(key.into(), value.clone());
            assert!(Bridge::read(&conf).is_none(), "{key}: {value}");
        }
    }

    #[test]
    fn a_made_up_hardware_address_is_one_interfaces_and_local() {
        assert_eq!(mac_text(own_mac([0xff, 1, 2, 3, 4, 0xab])), "fe:01:02:03:04:ab");
        assert_eq!(mac_text(own_mac([0; 6])), "02:00:00:00:00:00");
    }
}
