//! Who may do what, in the words of a kube-apiserver with the Node and RBAC authorizers, NodeRestriction, ServiceAccount, Priority
//! and NamespaceLifecycle: every text here was recorded from 1.36.2 (`rules.jsonl`).

use serde_json::{Value, json};

use super::store::Store;

/// A `v1.Status` that refuses.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Value,
}

/// A request, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub user: String,
    /// get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    pub group: String,
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub sub: String,
    pub selector: String,
}

impl Request {
    pub fn refuse(&self, code: u16, reason: &'static str, message: String) -> Refusal {
        let mut details = json!({"name": self.name});
        if !self.group.is_empty() {
            details["group"] = json!(self.group);
        }
        details["kind"] = json!(self.resource);
        Refusal { code, reason, message, details }
    }

    /// `pods`, or `leases.coordination.k8s.io`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }

    pub fn not_found(&self) -> Refusal {
        self.refuse(404, "NotFound", format!("{} \"{}\" not found", self.qualified(), self.name))
    }

    fn forbid(&self, why: &str) -> Refusal {
        self.refuse(403, "Forbidden", format!("{} \"{}\" is forbidden: {why}", self.qualified(), self.name))
    }

    /// The node's name, of a node's identity.
    pub fn node(&self) -> Option<&str> {
        self.user.strip_prefix("system:node:")
    }
}

/// The authorizers. Anybody who is neither a node nor about to be one (ClusterRole system:node-bootstrapper) may do anything.
pub fn authorize(r: &Request) -> Result<(), Refusal> {
    let bootstrapper = r.user.starts_with("system:bootstrap:");
    let node = match r.node() {
        Some(node) => node,
        None if bootstrapper => "",
        None => return Ok(()),
    };
    let scope = if r.namespace.is_empty() { "at the cluster scope".into() } else { format!("in the namespace \"{}\"", r.namespace) };
    let cannot = |more: &str| {
        let sub = if r.sub.is_empty() { String::new() } else { format!("/{}", r.sub) };
        let what =
            format!("User \"{}\" cannot {} resource \"{}{sub}\" in API group \"{}\" {scope}{more}", r.user, r.verb, r.resource, r.group);
        if r.name.is_empty() {
            Refusal {
                code: 403,
                reason: "Forbidden",
                message: format!("{} is forbidden: {what}", r.qualified()),
                details: json!({"kind": r.resource}),
            }
        } else {
            r.forbid(&what)
        }
    };
    let own = |field: &str| r.selector == format!("{field}={node}");
    let request = r.resource == super::csr::RESOURCE && r.sub.is_empty() && matches!(r.verb, "create" | "get" | "list" | "watch");
    let allowed = match (r.resource.as_str(), r.sub.as_str(), r.verb) {
        ("nodes", "", "create" | "get" | "patch" | "update") | ("nodes", "status", "patch" | "update") => true,
        ("nodes", "", "list" | "watch") => own("metadata.name"),
        ("pods", "", "create" | "get" | "delete") | ("pods", "status", "patch" | "update") => true,
        ("pods", "", "list" | "watch") => own("spec.nodeName"),
        ("leases", "", "get" | "create" | "update" | "patch" | "delete") => r.namespace == "kube-node-lease",
        ("events", "", "create" | "patch" | "update") => true,
        ("tokenreviews" | "subjectaccessreviews", "", "create") => true,
        ("secrets" | "configmaps", "", "get") => {
            return Err(cannot(&format!(": no relationship found between node '{node}' and this object")));
        }
        _ => false,
    };
    if request || allowed && !bootstrapper { Ok(()) } else { Err(cannot("")) }
}

const MIRROR: &str = "kubernetes.io/config.mirror";

/// The admission plugins; `new` is what would be stored, `old` what is.
pub fn admit(store: &Store, r: &Request, old: Option<&Value>, new: Option<&Value>) -> Result<(), Refusal> {
    if r.verb == "create" && !r.namespace.is_empty() && store.get("namespaces", "", &r.namespace).is_none() {
        let message = format!("namespaces \"{}\" not found", r.namespace);
        return Err(Refusal { code: 404, reason: "NotFound", message, details: json!({"name": r.namespace, "kind": "namespaces"}) });
    }
    if r.resource == "pods" && r.verb == "create" {
        service_account(r, new.unwrap())?;
    }
    if let Some(node) = r.node() {
        restrict(store, r, node, old, new)?;
    }
    if r.resource == "pods" && r.verb == "create" {
        let spec = &new.unwrap()["spec"];
        priority(r, spec)?;
        if spec["ephemeralContainers"].as_array().is_some_and(|a| !a.is_empty()) {
            return Err(invalid(r, "spec.ephemeralContainers", "FieldValueForbidden", "Forbidden: cannot be set on create", 1));
        }
    }
    Ok(())
}

pub fn invalid(r: &Request, field: &str, reason: &str, message: &str, times: usize) -> Refusal {
    let cause = json!({"reason": reason, "message": message, "field": field});
    let kind = super::http::kind(&r.resource);
    Refusal {
        code: 422,
        reason: "Invalid",
        message: format!("{kind} \"{}\" is invalid: {field}: {message}", r.name),
        details: json!({"name": r.name, "kind": kind, "causes": vec![cause; times]}),
    }
}

fn service_account(r: &Request, pod: &Value) -> Result<(), Refusal> {
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Ok(());
    }
    if !pod["spec"]["serviceAccountName"].is_null() {
        return Err(r.forbid("a mirror pod may not reference service accounts"));
    }
    if volumes(pod, "secret") {
        return Err(r.forbid("a mirror pod may not reference secrets"));
    }
    Ok(())
}

fn volumes(pod: &Value, kind: &str) -> bool {
    pod["spec"]["volumes"].as_array().is_some_and(|v| v.iter().any(|v| !v[kind].is_null()))
}

fn priority(r: &Request, spec: &Value) -> Result<(), Refusal> {
    let class = spec["priorityClassName"].as_str().unwrap_or_default();
    let computed = match priority_of(class) {
        Some(value) => value,
        None => return Err(r.forbid(&format!("no PriorityClass with name {class} was found"))),
    };
    match spec["priority"].as_i64() {
        Some(given) if given != computed => Err(r.forbid(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        ))),
        _ => Ok(()),
    }
}

pub fn priority_of(class: &str) -> Option<i64> {
    match class {
        "" => Some(0),
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}

/// NodeRestriction.
fn restrict(store: &Store, r: &Request, node: &str, old: Option<&Value>, new: Option<&Value>) -> Result<(), Refusal> {
    match (r.resource.as_str(), r.sub.as_str(), r.verb) {
        ("pods", "", "create") => mirror(store, r, node, new.unwrap()),
        ("pods", "", "delete") => match old {
            Some(pod) if pod["spec"]["nodeName"] != node => {
                Err(r.forbid(&format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")))
            }
            _ => Ok(()),
        },
        ("pods", "status", _) => {
            let (old, new) = (old.unwrap(), new.unwrap());
            if old["spec"]["nodeName"] != node {
                return Err(r.forbid(&format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself")));
            }
            if old["metadata"]["labels"] != new["metadata"]["labels"] {
                return Err(r.forbid(&format!("node \"{node}\" cannot update labels through pod status")));
            }
            Ok(())
        }
        ("nodes", _, "create" | "patch" | "update") => {
            if r.name != node {
                return Err(r.forbid(&format!("node \"{node}\" is not allowed to modify node \"{}\"", r.name)));
            }
            let new = new.unwrap();
            if r.verb == "create" {
                let labels = new["metadata"]["labels"].as_object().into_iter().flatten();
                let barred: Vec<&str> = labels.map(|(k, _)| k.as_str()).filter(|k| k.contains("node-restriction.kubernetes.io/")).collect();
                if !barred.is_empty() {
                    return Err(r.forbid(&format!("node \"{node}\" is not allowed to set the following labels: {}", barred.join(", "))));
                }
            } else if let Some(label) = barred(old.unwrap(), new) {
                return Err(r.forbid(&format!("is not allowed to modify labels: {label}")));
            } else if old.unwrap()["spec"]["taints"] != new["spec"]["taints"] {
                return Err(r.forbid(&format!("node \"{node}\" is not allowed to modify taints")));
            }
            Ok(())
        }
        ("leases", "", _) if r.name != node => Err(r.forbid("can only access node lease with the same name as the requesting node")),
        _ => Ok(()),
    }
}

/// A label that is not a node's to change, and is.
fn barred(old: &Value, new: &Value) -> Option<String> {
    let labels = [old, new].map(|o| o["metadata"]["labels"].as_object().cloned().unwrap_or_default());
    let [old, new] = &labels;
    let changed = |key: &&String| key.contains("node-restriction.kubernetes.io/") && old.get(*key) != new.get(*key);
    old.keys().chain(new.keys()).find(changed).cloned()
}

fn mirror(store: &Store, r: &Request, node: &str, pod: &Value) -> Result<(), Refusal> {
    let only = |what: &str| Err(r.forbid(&format!("node \"{node}\" can only create pods {what}")));
    let meta = &pod["metadata"];
    if meta["annotations"][MIRROR].is_null() {
        return Err(r.forbid(&format!("pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods")));
    }
    if pod["spec"]["nodeName"] != node {
        return only("with spec.nodeName set to itself");
    }
    let owners = meta["ownerReferences"].as_array().cloned().unwrap_or_default();
    let owner = match owners.as_slice() {
        [] => return only("with an owner reference set to itself"),
        [owner] => owner,
        _ => return only("with a single owner reference set to itself"),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return only("with an owner reference set to itself");
    }
    if owner["controller"] != true {
        return only("with a controller owner reference set to itself");
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(r.forbid(&format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference")));
    }
    let Some(known) = store.get("nodes", "", node) else {
        let details = json!({"name": node, "kind": "node"});
        return Err(Refusal { code: 404, reason: "NotFound", message: format!("node \"{node}\" not found"), details });
    };
    if known["metadata"]["uid"] != owner["uid"] {
        let (given, uid) = (owner["uid"].as_str().unwrap_or_default(), known["metadata"]["uid"].as_str().unwrap());
        return Err(r.forbid(&format!("node {node} UID mismatch: expected {given} got {uid}")));
    }
    for (volume, named) in [("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims")] {
        if volumes(pod, volume) {
            return Err(r.forbid(&format!("node \"{node}\" can not create pods that reference {named}")));
        }
    }
    Ok(())
}

/// What the API server fills into a new pod.
pub fn complete(pod: &mut Value) {
    let spec = pod["spec"].as_object_mut().unwrap();
    for list in ["containers", "initContainers"] {
        for c in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let image = c["image"].as_str().unwrap_or_default().to_owned();
            let latest = image.ends_with(":latest") || !image.rsplit('/').next().unwrap().contains([':', '@']);
            let c = c.as_object_mut().unwrap();
            for (key, value) in [
                ("resources", json!({})),
                ("terminationMessagePath", json!("/dev/termination-log")),
                ("terminationMessagePolicy", json!("File")),
                ("imagePullPolicy", json!(if latest { "Always" } else { "IfNotPresent" })),
            ] {
                c.entry(key).or_insert(value);
            }
        }
    }
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
    let priority = priority_of(class).unwrap_or(0);
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("priority", json!(priority)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        spec.entry(key).or_insert(value);
    }
    let tolerations = spec.entry("tolerations").or_insert(json!([])).as_array_mut().unwrap();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &&Value| (t["key"].is_null() || t["key"] == key) && (t["effect"].is_null() || t["effect"] == "NoExecute");
        if !tolerations.iter().any(|t| covers(&t)) {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    pod["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
}
