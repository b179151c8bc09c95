//! The kubelet API: what the status socket answers, and a pod's ports, over TLS to those whom the cluster lets in. Off unless configured.
//! - `tls`: our certificate and whose we believe; `http`: connections and their limits
//! - `forward`: ports of pods; `enter`: sessions of those who come without a WebSocket; `wire`: the SPDY under both
//! - `authenticate`: who asks (pure); `authorize`: what he needs for it (pure); `cache`: what the API server said of both, for a while
//!
//! Never decides who may do what: certificates of the client CA, TokenReviews and SubjectAccessReviews do, through [`Judge`].
//! A request that waits for the API server holds up nobody else.

pub mod authenticate;
pub mod authorize;
mod cache;
mod enter;
pub mod forward;
pub mod http;
pub mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::clock;
use crate::settings::{Api, Settings};
use crate::socket::Backend;
use authenticate::User;
use authorize::Wanted;
use cache::Cache;

pub use http::serve;

/// The API server, as far as it is asked about others. Errors say in words why there is no answer.
pub trait Judge {
    /// Shows a token; answers the status of the TokenReview.
    fn review(&self, token: String) -> LocalBoxFuture<'static, Result<Value, String>>;
    /// Asks by this spec of a SubjectAccessReview whether it is allowed.
    fn allows(&self, spec: Value) -> LocalBoxFuture<'static, Result<bool, String>>;
}

/// Reviews at once: a flood of strangers is no flood at the API server.
const REVIEWS: usize = 4;
/// A token longer than that is no token; those with many claims have some thousand bytes.
const TOKEN_BYTES: usize = 16 << 10;

type Refusal = (StatusCode, String);

/// Whom it lets in, and to what.
pub struct Door {
    api: Api,
    node: String,
    backend: Rc<dyn Backend>,
    judge: Rc<dyn Judge>,
    tokens: RefCell<Cache<Option<User>>>,
    access: RefCell<Cache<bool>>,
    reviews: Semaphore,
}

impl Door {
    /// By the settings.
    pub fn new(settings: &Settings, backend: Rc<dyn Backend>, judge: Rc<dyn Judge>) -> Door {
        Door {
            api: settings.api.clone(),
            node: settings.node_name.clone(),
            backend,
            judge,
            tokens: RefCell::default(),
            access: RefCell::default(),
            reviews: Semaphore::new(REVIEWS),
        }
    }

    /// Who asks: by his certificate, else by his token.
    async fn who(&self, by_certificate: Option<&User>, headers: &HeaderMap) -> Result<User, Refusal> {
        if let Some(user) = by_certificate {
            return Ok(user.clone());
        }
        let nobody = || (StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let bearer = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok()).and_then(|h| h.split_once(' '));
        let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let token = token.filter(|t| self.api.tokens && !t.is_empty() && t.len() <= TOKEN_BYTES).ok_or_else(nobody)?;
        // Not the token itself: memory is no place for it.
        let key = Sha256::digest(token).into();
        if let Some(known) = self.tokens.borrow().get(&key, clock::now().mono) {
            return known.ok_or_else(nobody);
        }
        let _turn = self.reviews.acquire().await;
        let status = self.judge.review(token.to_owned()).await.map_err(|why| {
            log::warn!("kubelet API: review a token: {why}");
            nobody()
        })?;
        let user = authenticate::by_review(&status);
        self.tokens.borrow_mut().put(key, user.clone(), self.api.token_ttl, clock::now().mono);
        user.ok_or_else(nobody)
    }

    /// Whether he may.
    async fn may(&self, user: &User, method: &Method, path: &[&str]) -> Result<(), Refusal> {
        // Every API server says yes to them, and one that is away says nothing.
        if self.api.always_allow || user.is_master() {
            return Ok(());
        }
        let Wanted { verb, subresources } = authorize::wanted(method, path);
        for subresource in &subresources {
            let why = match self.is_allowed(user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => continue,
                Err(why) => why,
            };
            log::warn!("kubelet API: ask whether {} may {verb} nodes/{subresource}: {why}", user.name);
            let text = format!("Authorization error (user={}, verb={verb}, resource=nodes, subresource={subresource})", user.name);
            return Err((StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let text = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n", user.name, subresources.join(" "));
        Err((StatusCode::FORBIDDEN, text))
    }

    async fn is_allowed(&self, user: &User, verb: &str, subresource: &str) -> Result<bool, String> {
        let mut spec = serde_json::to_value(user).map_err(|e| e.to_string())?;
        let asked = json!({ "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node });
        spec.as_object_mut().map(|spec| spec.insert("resourceAttributes".into(), asked));
        let key = Sha256::digest(spec.to_string()).into();
        if let Some(known) = self.access.borrow().get(&key, clock::now().mono) {
            return Ok(known);
        }
        let _turn = self.reviews.acquire().await;
        let allowed = self.judge.allows(spec).await?;
        let good = if allowed { self.api.allowed_ttl } else { self.api.denied_ttl };
        self.access.borrow_mut().put(key, allowed, good, clock::now().mono);
        Ok(allowed)
    }
}
