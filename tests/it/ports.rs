//! Ports of the host that lead into a pod.

use crate::node::{FOREVER, IMAGE, Node, can_run};

#[test]
fn host_ports_of_init_containers_and_sidecars_lead_in_too_and_are_given_back() {
    if !can_run() {
        return;
    }
    let mut n = Node::up();
    let container = |name: &str, port: u16, more: &str, script: &str| {
        format!(
            "  - {{name: {name}, image: '{IMAGE}', {more}ports: [{{containerPort: {port}, hostPort: 1{port}}}], volumeMounts: [{{name: w, mountPath: /w}}],\n     command: [sh, -c, \"mkdir /tmp/www; echo {name} >/tmp/www/index.html; httpd -p {port} -h /tmp/www; {script}\"]}}\n"
        )
    };
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  terminationGracePeriodSeconds: 1\n  volumes: [{{name: w, hostPath: {{path: {}}}}}]\n  initContainers:\n{}{}  containers:\n{}",
        n.path("work"),
        container("side", 8081, "restartPolicy: Always, ", FOREVER),
        container("first", 8082, "", "until [ -e /w/go ]; do sleep 0.1; done"),
        container("main", 8083, "", FOREVER),
    );
    n.put("p.yaml", &text);
    n.start();
    // By the bridge's own address, which is one of the node's.
    let said =
        |n: &Node, port: u16| n.exec(&["sh", "-c", &format!("timeout 5 busybox wget -qO- http://10.88.0.1:{port}/ 2>/dev/null || true")]);
    n.until("the sidecar and the init container answer", 20, |n| said(n, 18081) == "side\n" && said(n, 18082) == "first\n");
    std::fs::write(n.dir.join("work/go"), "").unwrap();
    n.until_ready("p");
    n.until("the main container answers", 10, |n| said(n, 18083) == "main\n");
    assert_eq!(said(&n, 18081), "side\n");
    n.remove("p.yaml");
    n.until("it is gone", 10, |n| n.gone("p"));
    assert_eq!([18081, 18082, 18083].map(|port| said(&n, port)), ["", "", ""]);
    let left = n.exec(&["sh", "-c", "iptables-save -t nat 2>/dev/null | grep -c 'dport 1808' || true"]);
    assert_eq!(left.trim(), "0");
    n.assert_clean();
    n.shutdown();
}
