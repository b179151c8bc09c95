//! What a request needs to be allowed, as the kubelet asks it (`server/auth.go`): a verb on a subresource of this Node. Pure.

use hyper::Method;

/// What is asked of the authorizer: one of the subresources is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `get`, `create`, …; empty for methods that have no verb.
    pub verb: &'static str,
    /// Subresources of nodes; the finer one comes first.
    pub subresources: Vec<&'static str>,
}

/// By method and the path's segments, decoded.
pub fn wanted(method: &Method, path: &[&str]) -> Wanted {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let first = path.first().copied().unwrap_or_default();
    let mut subresources = Vec::new();
    match first {
        "pods" | "runningpods" => subresources.push("pods"),
        "healthz" => subresources.push("healthz"),
        "configz" => subresources.push("configz"),
        "statusz" => subresources.push("statusz"),
        _ => {}
    }
    subresources.push(match first {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        "checkpoint" => "checkpoint",
        _ => "proxy",
    });
    Wanted { verb, subresources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_needs_what_it_needs_at_a_kubelet() {
        for (path, needs) in [
            ("pods", vec!["pods", "proxy"]),
            ("runningpods/", vec!["pods", "proxy"]),
            ("healthz", vec!["healthz", "proxy"]),
            ("stats/summary", vec!["stats"]),
            ("metrics", vec!["metrics"]),
            ("metrics/resource", vec!["metrics"]),
            ("logs/", vec!["log"]),
            ("containerLogs/a/b/c", vec!["proxy"]),
            ("exec/a/b/c", vec!["proxy"]),
            ("metricsx", vec!["proxy"]),
            ("", vec!["proxy"]),
            ("/pods", vec!["proxy"]),
        ] {
            let segments: Vec<&str> = path.split('/').collect();
            assert_eq!(wanted(&Method::GET, &segments), Wanted { verb: "get", subresources: needs }, "{path}");
        }
        assert_eq!(wanted(&Method::POST, &["exec"]).verb, "create");
        assert_eq!(wanted(&Method::HEAD, &["pods"]).verb, "");
    }
}
