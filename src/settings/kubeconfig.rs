//! A kubeconfig: which API server, whom to believe and who we are. Read anew for each connection, so that what is rotated is used.
//!
//! Runs no credential plugin and asks no proxy: a kubeconfig that wants that is refused with words.

use std::path::{Path, PathBuf};

use crate::manifest::scalar::base64;
use crate::manifest::value::{Node, Value};
use crate::manifest::yaml;

/// What one context of a kubeconfig comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The server's URL, without a slash at its end.
    pub server: String,
    /// The name its certificate is checked against, if not the URL's host.
    pub server_name: Option<String>,
    /// Certificates of the authorities that may sign it, PEM; `None`: the system's.
    pub authority: Option<Vec<u8>>,
    /// `insecure-skip-tls-verify`: whoever answers there is believed.
    pub unverified: bool,
    /// Our certificate and its key, PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// Our bearer token.
    pub token: Token,
}

/// Where a bearer token is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Token {
    /// There is none.
    #[default]
    None,
    /// Here.
    Inline(String),
    /// In a file, which others may renew: it is read for each request.
    File(PathBuf),
}

/// What is wrong with a kubeconfig.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file of it cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something else than it should.
    #[error("read kubeconfig {}: {message}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
}

struct File<'a> {
    path: &'a Path,
}

/// Reads the current context of a kubeconfig and every file it names.
pub fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let file = File { path };
    let documents = yaml::read(&file.bytes(path)?);
    if let Some(e) = documents.errors.first() {
        return Err(file.wrong(format!("line {}: {}", e.line, e.message)));
    }
    let root = documents.roots.first().ok_or_else(|| file.wrong("it is empty".into()))?;
    let context = match text(root, "current-context") {
        Some(name) => file.named(root, "contexts", name, "context")?,
        None => file.only(root, "contexts", "context")?,
    };
    let name = |key| text(context, key).ok_or_else(|| file.wrong(format!("its context names no {key}")));
    file.context(file.named(root, "clusters", name("cluster")?, "cluster")?, file.named(root, "users", name("user")?, "user")?)
}

impl File<'_> {
    fn context(&self, cluster: &Node, user: &Node) -> Result<Kubeconfig, KubeconfigError> {
        for (node, key, instead) in [
            (cluster, "proxy-url", "proxies are not supported"),
            (user, "exec", "credential plugins are not run: use a client certificate or a tokenFile"),
            (user, "auth-provider", "credential plugins are not run: use a client certificate or a tokenFile"),
            (user, "username", "no API server takes passwords: use a client certificate or a tokenFile"),
        ] {
            let set = node.get(key).is_some_and(|n| !matches!(&n.value, Value::Bool(false, _) | Value::Null) && n.text() != Some(""));
            if set {
                return Err(self.wrong(format!("`{key}` is not used here: {instead}")));
            }
        }
        let authority = self.data(cluster, "certificate-authority")?;
        let unverified = self.flag(cluster, "insecure-skip-tls-verify")?;
        if unverified && authority.is_some() {
            return Err(self.wrong("certificate-authority and `insecure-skip-tls-verify` exclude each other: leave out the second".into()));
        }
        let server = text(cluster, "server").ok_or_else(|| self.wrong("its cluster has no server".into()))?;
        let certificate = self.data(user, "client-certificate")?;
        let key = self.data(user, "client-key")?;
        let certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(self.wrong("client-certificate and client-key go together".into())),
        };
        let token = match (text(user, "tokenFile"), text(user, "token")) {
            (Some(path), _) => Token::File(self.beside(path)),
            (None, Some(token)) => Token::Inline(token.to_owned()),
            (None, None) => Token::None,
        };
        Ok(Kubeconfig {
            server: server.trim_end_matches('/').to_owned(),
            server_name: text(cluster, "tls-server-name").map(str::to_owned),
            authority,
            unverified,
            certificate,
            token,
        })
    }

    fn flag(&self, node: &Node, key: &str) -> Result<bool, KubeconfigError> {
        match node.get(key).map(|n| &n.value) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(set, _)) => Ok(*set),
            Some(other) => Err(self.wrong(format!("`{key}` is true or false, not {}", other.described()))),
        }
    }

    /// `KEY-data`, else what the file under `KEY` holds.
    fn data(&self, node: &Node, key: &str) -> Result<Option<Vec<u8>>, KubeconfigError> {
        let inline = format!("{key}-data");
        if let Some(text) = text(node, &inline) {
            return base64(text).map(Some).ok_or_else(|| self.wrong(format!("`{inline}` is no base64")));
        }
        text(node, key).map(|path| self.bytes(&self.beside(path))).transpose()
    }

    fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn bytes(&self, path: &Path) -> Result<Vec<u8>, KubeconfigError> {
        std::fs::read(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
    }

    /// The `inner` part of the entry of that name.
    fn named<'n>(&self, root: &'n Node, list: &str, name: &str, inner: &str) -> Result<&'n Node, KubeconfigError> {
        let entry = entries(root, list).find(|e| text(e, "name") == Some(name));
        entry.and_then(|e| e.get(inner)).ok_or_else(|| self.wrong(format!("there is no {inner} `{name}` under `{list}`")))
    }

    fn only<'n>(&self, root: &'n Node, list: &str, inner: &str) -> Result<&'n Node, KubeconfigError> {
        let mut all = entries(root, list);
        match (all.next(), all.next()) {
            (Some(entry), None) => entry.get(inner).ok_or_else(|| self.wrong(format!("an entry of `{list}` has no {inner}"))),
            _ => Err(self.wrong(format!("it has no current-context, and not exactly one of `{list}`"))),
        }
    }

    fn wrong(&self, message: String) -> KubeconfigError {
        KubeconfigError::Wrong { path: self.path.to_owned(), message }
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.get(key).and_then(Node::text).filter(|t| !t.is_empty())
}

fn entries<'n>(root: &'n Node, list: &str) -> impl Iterator<Item = &'n Node> {
    match root.get(list).map(|n| &n.value) {
        Some(Value::List(items)) => items.iter(),
        _ => [].iter(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(cluster: &str, user: &str) -> Result<Kubeconfig, String> {
        let dir = std::env::temp_dir().join(format!("plinth-kubeconfig-{}-{:p}", std::process::id(), &cluster));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("ca.pem"), "CA").unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\nclusters: [{{name: k, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
        );
        std::fs::write(dir.join("config"), text).unwrap();
        let read = read(&dir.join("config")).map_err(|e| e.to_string());
        std::fs::remove_dir_all(&dir).unwrap();
        read
    }

    #[test]
    fn data_is_taken_inline_or_from_files_beside() {
        let c =
            config("server: 'https://a:6443/', certificate-authority: ca.pem", "client-certificate-data: Y2VydA==, client-key-data: a2V5");
        let c = c.unwrap();
        assert_eq!(c.server, "https://a:6443");
        assert_eq!(c.authority.unwrap(), b"CA");
        assert_eq!(c.certificate.unwrap(), (b"cert".to_vec(), b"key".to_vec()));
    }

    #[test]
    fn what_is_written_out_as_nothing_is_nothing() {
        let c =
            config("server: 'https://a', proxy-url: '', insecure-skip-tls-verify: false", "token: x, exec: null, username: ''").unwrap();
        assert!(!c.unverified && c.token == Token::Inline("x".into()));
        assert!(config("server: 'https://a', insecure-skip-tls-verify: true", "token: x").unwrap().unverified);
    }

    #[test]
    fn of_several_contexts_the_current_one_counts() {
        let dir = std::env::temp_dir().join(format!("plinth-contexts-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("config");
        let text = |current: &str| {
            format!(
                "{current}contexts: [{{name: one, context: {{cluster: k1, user: u}}}}, {{name: two, context: {{cluster: k2, user: u, namespace: x}}}}]\n\
                 clusters: [{{name: k1, cluster: {{server: 'https://one'}}}}, {{name: k2, cluster: {{server: 'https://two'}}}}]\n\
                 users: [{{name: u, user: {{token: x}}}}]\n"
            )
        };
        let of = |current: &str| {
            std::fs::write(&path, text(current)).unwrap();
            read(&path).map(|c| c.server).map_err(|e| e.to_string())
        };
        assert_eq!(of("current-context: two\n").as_deref(), Ok("https://two"));
        assert_eq!(of("current-context: one\n").as_deref(), Ok("https://one"));
        assert!(of("current-context: three\n").unwrap_err().contains("no context `three`"));
        assert!(of("").unwrap_err().contains("no current-context"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_token_file_wins_over_a_token() {
        let c = config("server: 'https://a'", "token: x, tokenFile: /run/token").unwrap();
        assert_eq!(c.token, Token::File("/run/token".into()));
    }

    #[test]
    fn what_is_not_used_here_is_refused_with_what_to_do() {
        for (cluster, user, word) in [
            ("server: 'https://a'", "exec: {command: aws}", "credential plugins are not run"),
            ("server: 'https://a', insecure-skip-tls-verify: true, certificate-authority: ca.pem", "token: x", "exclude each other"),
            ("server: 'https://a', insecure-skip-tls-verify: 1", "token: x", "true or false"),
            ("server: 'https://a', proxy-url: 'http://p'", "token: x", "proxies"),
            ("server: 'https://a'", "client-certificate-data: Y2VydA==", "go together"),
            ("server: 'https://a', certificate-authority: nope.pem", "token: x", "nope.pem"),
            ("{}", "token: x", ""),
        ] {
            let e = config(cluster, user).unwrap_err();
            assert!(e.contains(word), "{e}");
        }
    }
}
