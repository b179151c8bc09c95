//! As whom a container runs: numbers from the manifest, or names looked up in the text of the image's /etc/passwd and
//! /etc/group. Pure: who calls has read the two files, or found that there are none.

use k8s_openapi::api::core::v1::Container;

use super::types::User;
use crate::pod::WantedPod;
use crate::runtime::image_config::ImageConfig;

/// Why there is no such user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The name is not in the image.
    #[error("find user `{0}` of the image: its /etc/passwd has none of that name; set runAsUser to a number")]
    NoSuchUser(String),
    /// OCI runtimes take no more.
    #[error("run as user or group {0}: it is out of range (0 to 2147483647)")]
    OutOfRange(i64),
}

/// Resolves user, group and additional groups, as kubelet and containerd do together:
/// the group of the image's USER has no effect; a user without runAsGroup gets the group /etc/passwd gives it, else 0;
/// its groups of /etc/group count (policy Merge) with the manifest's supplementalGroups and fsGroup; sorted, the primary among them.
pub fn resolve(
    pod: &WantedPod,
    container: &Container,
    image: &ImageConfig,
    passwd: Option<&str>,
    group: Option<&str>,
) -> Result<User, UserError> {
    let own = container.security_context.as_ref();
    let pods = pod.object.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let run_as = own.and_then(|s| s.run_as_user).or(pods.and_then(|s| s.run_as_user));
    let run_as_group = own.and_then(|s| s.run_as_group).or(pods.and_then(|s| s.run_as_group));
    let found = match (run_as, image.user_name()) {
        (Some(uid), _) => by_id(id(uid)?, passwd),
        (None, "") => by_id(0, passwd),
        (None, name) => match name.parse::<i64>() {
            Ok(uid) => by_id(id(uid)?, passwd),
            Err(_) => entries(passwd).find(|e| e.name == name).ok_or_else(|| UserError::NoSuchUser(name.to_owned()))?,
        },
    };
    let gid = match run_as_group {
        Some(gid) => id(gid)?,
        None => found.gid,
    };
    let mut gids = vec![gid];
    if pods.and_then(|s| s.supplemental_groups_policy.as_deref()) != Some("Strict") {
        gids.extend(groups_of(found.name, group));
    }
    for extra in pods.and_then(|s| s.supplemental_groups.as_ref()).into_iter().flatten().copied().chain(pods.and_then(|s| s.fs_group)) {
        gids.push(id(extra)?);
    }
    gids.sort_unstable();
    gids.dedup();
    Ok(User { uid: found.uid, gid, additional_gids: gids })
}

/// The two files are needed: not for a numeric user with a group and without names to look up under `Strict`.
/// True for nearly every pod, so the caller may as well always read them.
pub fn needs_files(pod: &WantedPod) -> bool {
    let pods = pod.object.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let strict = pods.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    !(strict && pods.is_some_and(|s| s.run_as_user.is_some() && s.run_as_group.is_some()))
}

fn id(n: i64) -> Result<u32, UserError> {
    i32::try_from(n).ok().and_then(|n| u32::try_from(n).ok()).ok_or(UserError::OutOfRange(n))
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

fn by_id(uid: u32, passwd: Option<&str>) -> Entry<'_> {
    entries(passwd).find(|e| e.uid == uid).unwrap_or(Entry { name: "", uid, gid: 0 })
}

/// Lines of /etc/passwd that make sense; the others count for nothing.
fn entries(passwd: Option<&str>) -> impl Iterator<Item = Entry<'_>> {
    passwd.unwrap_or_default().lines().filter_map(|line| {
        let mut parts = line.trim().split(':');
        let name = parts.next().filter(|n| !n.is_empty() && !n.starts_with('#'))?;
        let _password = parts.next()?;
        Some(Entry { name, uid: parts.next()?.parse().ok()?, gid: parts.next()?.parse().ok()? })
    })
}

/// Groups that list the user, without the one of its own name.
fn groups_of<'a>(user: &'a str, group: Option<&'a str>) -> impl Iterator<Item = u32> + 'a {
    group.unwrap_or_default().lines().filter_map(move |line| {
        let mut parts = line.trim().split(':');
        let name = parts.next()?;
        let _password = parts.next()?;
        let gid: u32 = parts.next()?.parse().ok()?;
        let listed = !user.is_empty() && name != user && parts.next()?.split(',').any(|member| member == user);
        listed.then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pod::Origin;
    use serde_json::json;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no\nbad line\napp:x:1000:1001::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:app\nvideo:x:44:other,app\nadm:x:4:root\n";

    fn run(pod_security: serde_json::Value, own: serde_json::Value, image_user: &str) -> Result<(u32, u32, Vec<u32>), UserError> {
        let object = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"securityContext": pod_security,
            "containers": [{"name": "c", "securityContext": own}]}});
        let pod = WantedPod::from_object(serde_json::from_value(object).unwrap(), Origin::default()).unwrap();
        let mut image = ImageConfig::default();
        image.config.user = image_user.into();
        resolve(&pod, pod.container("c").unwrap(), &image, Some(PASSWD), Some(GROUP)).map(|u| (u.uid, u.gid, u.additional_gids))
    }

    #[test]
    fn silence_is_root_with_roots_groups() {
        assert_eq!(run(json!({}), json!({}), "").unwrap(), (0, 0, vec![0, 4]));
    }

    #[test]
    fn the_images_user_is_looked_up_and_its_group_ignored() {
        assert_eq!(run(json!({}), json!({}), "app:root").unwrap(), (1000, 1001, vec![44, 1001]));
        assert_eq!(run(json!({}), json!({}), "1000:5").unwrap(), (1000, 1001, vec![44, 1001]));
        assert_eq!(run(json!({}), json!({}), "77:5").unwrap(), (77, 0, vec![0]));
        assert_eq!(run(json!({}), json!({}), "nobody"), Err(UserError::NoSuchUser("nobody".into())));
    }

    #[test]
    fn the_containers_numbers_win_over_the_pods_and_the_images() {
        assert_eq!(run(json!({"runAsUser": 5, "runAsGroup": 6}), json!({"runAsUser": 1000}), "x").unwrap(), (1000, 6, vec![6, 44]));
    }

    #[test]
    fn supplemental_groups_and_fs_group_are_added_and_strict_leaves_out_the_images() {
        let pods = json!({"supplementalGroups": [4000], "fsGroup": 2000, "supplementalGroupsPolicy": "Strict"});
        assert_eq!(run(pods, json!({"runAsUser": 1000, "runAsGroup": 3000}), "").unwrap(), (1000, 3000, vec![2000, 3000, 4000]));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(run(json!({"runAsUser": 2_147_483_648_i64}), json!({}), ""), Err(UserError::OutOfRange(2_147_483_648)));
        assert_eq!(run(json!({"runAsGroup": -1}), json!({}), ""), Err(UserError::OutOfRange(-1)));
    }
}
