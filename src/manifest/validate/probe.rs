//! Probes and lifecycle hooks: numbers, and exactly one handler.

use k8s_openapi::api::core::v1::{ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Wrong, each, names};

/// Checks a probe.
pub fn check(at: &str, p: &Probe, wrong: &mut Wrong) {
    let parts = Parts { exec: p.exec.as_ref(), http: p.http_get.as_ref(), tcp: p.tcp_socket.as_ref() };
    let mut handlers = parts.check(at, wrong);
    if let Some(grpc) = &p.grpc {
        handlers.push("grpc");
        wrong.within(format!("{at}.grpc.port"), grpc.port.into(), 1, 65535);
    }
    exactly_one(at, &handlers, wrong);
    let numbers = [
        ("initialDelaySeconds", p.initial_delay_seconds),
        ("timeoutSeconds", p.timeout_seconds),
        ("periodSeconds", p.period_seconds),
        ("successThreshold", p.success_threshold),
        ("failureThreshold", p.failure_threshold),
    ];
    for (field, number) in numbers {
        wrong.at_least(format!("{at}.{field}"), number.map(i64::from), 0);
    }
    wrong.at_least(format!("{at}.terminationGracePeriodSeconds"), p.termination_grace_period_seconds, 1);
}

/// Checks a lifecycle hook.
pub fn hook(at: &str, h: &LifecycleHandler, grace_s: i64, wrong: &mut Wrong) {
    let parts = Parts { exec: h.exec.as_ref(), http: h.http_get.as_ref(), tcp: h.tcp_socket.as_ref() };
    let mut handlers = parts.check(at, wrong);
    if let Some(sleep) = &h.sleep {
        handlers.push("sleep");
        if !(0..=grace_s).contains(&sleep.seconds) {
            let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
            wrong.invalid(format!("{at}.sleep"), sleep.seconds, why);
        }
    }
    exactly_one(at, &handlers, wrong);
}

fn exactly_one(at: &str, handlers: &[&str], wrong: &mut Wrong) {
    if handlers.is_empty() {
        wrong.required(at, "must specify a handler type");
    }
    for extra in handlers.iter().skip(1) {
        wrong.forbidden(format!("{at}.{extra}"), "may not specify more than 1 handler type");
    }
}

/// The handlers that probes and hooks share.
struct Parts<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
}

impl Parts<'_> {
    /// Checks them and names those there are.
    fn check(&self, at: &str, wrong: &mut Wrong) -> Vec<&'static str> {
        let mut handlers = Vec::new();
        if let Some(exec) = self.exec {
            handlers.push("exec");
            if exec.command.as_ref().is_none_or(Vec::is_empty) {
                wrong.required(format!("{at}.exec.command"), "");
            }
        }
        if let Some(http) = self.http {
            handlers.push("httpGet");
            http_get(&format!("{at}.httpGet"), http, wrong);
        }
        if let Some(tcp) = self.tcp {
            handlers.push("tcpSocket");
            port(&format!("{at}.tcpSocket.port"), &tcp.port, wrong);
        }
        handlers
    }
}

fn http_get(at: &str, http: &HTTPGetAction, wrong: &mut Wrong) {
    if http.path.as_deref().unwrap_or_default().is_empty() {
        wrong.required(format!("{at}.path"), "");
    }
    port(&format!("{at}.port"), &http.port, wrong);
    wrong.one_of(format!("{at}.scheme"), http.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"]);
    for (at, header) in each(at, "httpHeaders", http.http_headers.as_ref()) {
        let fine = !header.name.is_empty() && header.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !fine {
            let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            wrong.invalid(format!("{at}.name"), &header.name, why);
        }
    }
}

/// A number or the shape of a name. That a name exists among the container's ports is not asked by the API server either: the probe
/// then fails at run time.
fn port(at: &str, port: &IntOrString, wrong: &mut Wrong) {
    match port {
        IntOrString::Int(n) => wrong.within(at, (*n).into(), 1, 65535),
        IntOrString::String(name) => wrong.shape(at, name, names::port(name)),
    }
}
