//! POD on a command line to one full name: `name` or `namespace/name`, with or without the node suffix. Pure.

use super::Fail;

/// Namespace and full name.
pub type FullName = (String, String);

/// Finds the one pod meant; the exact full name wins over a name short of its node suffix.
pub fn resolve(asked: &str, node: &str, pods: &[FullName]) -> Result<FullName, Fail> {
    let (namespace, name) = match asked.split_once('/') {
        Some((ns, name)) if !ns.is_empty() && !name.is_empty() && !name.contains('/') => (Some(ns), name),
        Some(_) => return Err(Fail::usage(format!("{asked:?} is no pod name: write NAME or NAMESPACE/NAME"))),
        None => (None, asked),
    };
    let suffixed = format!("{name}-{node}");
    let in_namespace = || pods.iter().filter(|(ns, _)| namespace.is_none_or(|n| n == ns));
    let mut found: Vec<&FullName> = in_namespace().filter(|(_, n)| n == name).collect();
    if found.is_empty() {
        found = in_namespace().filter(|(_, n)| *n == suffixed).collect();
    }
    found.dedup();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(absent(asked, name, pods)),
        many => {
            let names: Vec<String> = many.iter().map(|(ns, n)| format!("{ns}/{n}")).collect();
            Err(Fail::not_there(format!("{asked:?} is ambiguous: say which of {}", names.join(", "))))
        }
    }
}

fn absent(asked: &str, name: &str, pods: &[FullName]) -> Fail {
    if pods.is_empty() {
        return Fail::not_there(format!("find pod {asked:?}: no manifest asks for any pod; see `plinth status` for refused manifests"));
    }
    let close = |full: &str| full.contains(name) || super::args::nearest(name, std::iter::once(full)).is_some();
    let near: Vec<String> = pods.iter().filter(|(_, n)| close(n)).take(5).map(|(ns, n)| format!("{ns}/{n}")).collect();
    let hint =
        if near.is_empty() { "see `plinth status` for what there is".into() } else { format!("did you mean {}?", near.join(" or ")) };
    Fail::not_there(format!("find pod {asked:?}: there is none of that name; {hint}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]
    use super::*;

    fn pods() -> Vec<FullName> {
        [("default", "web-n1"), ("default", "db-n1"), ("kube-system", "web-n1"), ("default", "db"), ("x", "one-n1")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .to_vec()
    }

    #[test]
    fn names_are_found_with_and_without_namespace_and_suffix() {
        for (asked, ns, name) in [
            ("one", "x", "one-n1"),
            ("one-n1", "x", "one-n1"),
            ("x/one", "x", "one-n1"),
            ("kube-system/web", "kube-system", "web-n1"),
            ("default/web-n1", "default", "web-n1"),
            ("db", "default", "db"),
            ("db-n1", "default", "db-n1"),
        ] {
            assert_eq!(resolve(asked, "n1", &pods()).unwrap(), (ns.to_owned(), name.to_owned()), "{asked}");
        }
    }

    #[test]
    fn absent_and_ambiguous_names_say_what_there_is() {
        let fail = |asked: &str| resolve(asked, "n1", &pods()).unwrap_err();
        assert_eq!(
            (fail("web").code, fail("web").text.as_str()),
            (3, "\"web\" is ambiguous: say which of default/web-n1, kube-system/web-n1")
        );
        assert_eq!(fail("onee-n1").text, "find pod \"onee-n1\": there is none of that name; did you mean x/one-n1?");
        assert_eq!(fail("a/b/c").code, 2);
        assert_eq!(fail("y/web").code, 3);
    }
}
