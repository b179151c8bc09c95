//! Environment and command line: `$(VAR)` expansion, valueFrom, and the merge with the image's configuration.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, FileKeySelector};

use super::{Input, OciError, envfile};
use crate::runtime::downward::{self, Facts};
use crate::runtime::image_config::RunConfig;

/// containerd's default when the image has no PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's own variables in the order written, values final: what `$(VAR)` in command, args and subPathExpr sees.
/// The image's variables and HOSTNAME are not among them, as with the kubelet, which does not know them.
pub fn own(input: &Input<'_>) -> Result<Vec<(String, String)>, OciError> {
    let c = input.container()?;
    for from in c.env_from.iter().flatten() {
        let optional = from.config_map_ref.as_ref().and_then(|r| r.optional).or(from.secret_ref.as_ref().and_then(|r| r.optional));
        if optional != Some(true) {
            return Err(OciError::NeedsApi { container: c.name.clone(), what: "envFrom".into() });
        }
    }
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for var in c.env.iter().flatten() {
        let Some(value) = value_of(input, var, &known)? else { continue };
        if known.insert(var.name.clone(), value).is_none() {
            order.push(var.name.clone());
        }
    }
    Ok(order.into_iter().filter_map(|name| known.remove_entry(&name)).collect())
}

fn value_of(input: &Input<'_>, var: &EnvVar, known: &BTreeMap<String, String>) -> Result<Option<String>, OciError> {
    if let Some(value) = var.value.as_deref().filter(|v| !v.is_empty()) {
        return Ok(Some(expand(value, |name| known.get(name).map(String::as_str))));
    }
    let Some(from) = &var.value_from else { return Ok(Some(String::new())) };
    from_source(input, &var.name, from)
}

fn from_source(input: &Input<'_>, name: &str, from: &EnvVarSource) -> Result<Option<String>, OciError> {
    let c = input.container()?;
    let facts = Facts { pod_ips: input.sandbox.ips.as_slice(), host_ips: input.node.ips.as_slice(), allocatable: &input.node.allocatable };
    let unknown = |what: &str| OciError::Variable { container: c.name.clone(), name: name.to_owned(), what: what.to_owned() };
    if let Some(field) = &from.field_ref {
        let found = downward::field(&input.pod.object, facts, &field.field_path);
        return found.map(Some).ok_or_else(|| unknown(&format!("there is no field `{}`", field.field_path)));
    }
    if let Some(selector) = &from.resource_field_ref {
        let found = downward::resource(&input.pod.object, c, facts, selector);
        return found.map(Some).ok_or_else(|| unknown(&format!("there is no resource `{}`", selector.resource)));
    }
    if let Some(file) = &from.file_key_ref {
        return from_file(input, file).map_err(|what| unknown(&what));
    }
    let optional = from.config_map_key_ref.as_ref().and_then(|r| r.optional).or(from.secret_key_ref.as_ref().and_then(|r| r.optional));
    if optional == Some(true) {
        return Ok(None);
    }
    Err(OciError::NeedsApi { container: c.name.clone(), what: format!("variable `{name}`") })
}

/// `fileKeyRef`: a key of a file an init container left in an emptyDir. An absent optional key leaves the variable out.
fn from_file(input: &Input<'_>, file: &FileKeySelector) -> Result<Option<String>, String> {
    let optional = file.optional.unwrap_or(false);
    let Some(text) = input.env_files.get(&(file.volume_name.clone(), file.path.clone())) else {
        return if optional { Ok(None) } else { Err(format!("there is no file `{}` in volume `{}`", file.path, file.volume_name)) };
    };
    let found = envfile::parse(text).map_err(|e| format!("file `{}` in volume `{}`: {e}", file.path, file.volume_name))?;
    match found.into_iter().rev().find(|(key, _)| *key == file.key) {
        Some((_, value)) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(format!("there is no key `{}` in file `{}` of volume `{}`", file.key, file.path, file.volume_name)),
    }
}

/// The files `fileKeyRef`s of the container ask for, as (volume, path): the caller reads them into `Input::env_files`.
pub fn files_wanted(container: &k8s_openapi::api::core::v1::Container) -> Vec<(String, String)> {
    let refs = container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()?.file_key_ref.as_ref());
    refs.map(|f| (f.volume_name.clone(), f.path.clone())).collect()
}

/// `$(NAME)` replaced where the name is known, `$$` by `$`; everything else stays as written.
pub fn expand<'v>(text: &str, known: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match known(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Looks a name up among `own`.
pub fn lookup<'v>(vars: &'v [(String, String)], name: &str) -> Option<&'v str> {
    vars.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// The argument vector: command replaces ENTRYPOINT and drops CMD, args replaces CMD.
pub fn args(input: &Input<'_>, vars: &[(String, String)]) -> Result<Vec<String>, OciError> {
    let c = input.container()?;
    let image = &input.image.config;
    let expanded =
        |list: Option<&Vec<String>>| -> Vec<String> { list.into_iter().flatten().map(|a| expand(a, |name| lookup(vars, name))).collect() };
    let (mut command, mut args) = (expanded(c.command.as_ref()), expanded(c.args.as_ref()));
    if command.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        let none = matches!(image.entrypoint.as_slice(), [only] if only.is_empty());
        if !none {
            command.clone_from(&image.entrypoint);
        }
    }
    command.append(&mut args);
    if command.is_empty() {
        return Err(OciError::NoCommand { container: c.name.clone() });
    }
    Ok(command)
}

/// The process's environment: PATH, TERM, HOSTNAME, then the image's, then the container's; later ones replace earlier ones in
/// place, and an image entry without `=` removes one, as in containerd.
pub fn process_env(image: &RunConfig, tty: bool, hostname: &str, vars: Vec<(String, String)>) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    env.push(format!("HOSTNAME={hostname}"));
    let own = vars.into_iter().map(|(name, value)| Cow::Owned(format!("{name}={value}")));
    for entry in image.env.iter().map(|e| Cow::Borrowed(e.as_str())).chain(own) {
        let (name, _) = entry.split_once('=').unwrap_or((&entry, ""));
        let at = env.iter().position(|e| e.split('=').next() == Some(name));
        match (at, entry.contains('=')) {
            (Some(i), true) => {
                if let Some(old) = env.get_mut(i) {
                    *old = entry.into_owned();
                }
            }
            (Some(i), false) => drop(env.remove(i)),
            (None, true) => env.push(entry.into_owned()),
            (None, false) => {}
        }
    }
    env
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn expansion_follows_the_kubelets_rules() {
        let known = |name: &str| match name {
            "A" => Some("1"),
            "E" => Some(""),
            "N" => Some("$(A)"),
            _ => None,
        };
        for (from, to) in [
            ("$(A)", "1"),
            ("a-$(A)-$(B)-$$(A)", "a-1-$(B)-$(A)"),
            ("$(E)x", "x"),
            ("$(N)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)$$$$", "$1$$"),
            ("$(A)$(A)", "11"),
            ("$(", "$("),
            ("$()", "$()"),
            ("ä$ö(A)", "ä$ö(A)"),
        ] {
            assert_eq!(expand(from, known), to, "{from}");
        }
    }

    #[test]
    fn later_variables_replace_earlier_ones_in_place() {
        let image = RunConfig { env: vec!["PATH=/bin".into(), "FOO=img".into(), "HOSTNAME".into()], ..RunConfig::default() };
        let env = process_env(&image, true, "h", vec![("FOO".into(), "own".into()), ("B".into(), "x=y".into())]);
        assert_eq!(env, ["PATH=/bin", "TERM=xterm", "FOO=own", "B=x=y"]);
    }
}
