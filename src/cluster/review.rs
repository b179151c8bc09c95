//! Asks the API server about others: whose a token is, and what somebody may do. For the kubelet API.

use hyper::Method;
use serde_json::{Value, json};

use super::Cluster;
use super::error::{Error, Result};

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

impl Cluster {
    /// The status of a TokenReview.
    pub async fn review_token(&self, token: &str) -> Result<Value> {
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
        let mut answer: Value = self.link.ask(Method::POST, TOKENS, "application/json", Some(&review)).await?;
        Ok(answer.get_mut("status").map(Value::take).unwrap_or_default())
    }

    /// Whether a SubjectAccessReview of this spec is answered with yes.
    pub async fn review_access(&self, spec: Value) -> Result<bool> {
        let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
        let answer: Value = self.link.ask(Method::POST, ACCESS, "application/json", Some(&review)).await?;
        let said = |key: &str| answer.pointer(&format!("/status/{key}")).and_then(Value::as_bool).unwrap_or(false);
        if !said("allowed") && answer.pointer("/status").is_none() {
            return Err(Error::Unread { what: format!("POST {ACCESS}"), why: "it has no status".into() });
        }
        Ok(said("allowed") && !said("denied"))
    }
}
