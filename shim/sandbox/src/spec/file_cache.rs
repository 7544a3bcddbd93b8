//! What a guest keeps of its shares: the host's policy, and what a bundle asks for instead.
//!
//! The annotation's value has policies between commas: one alone is for every share, one after
//! `DESTINATION=` for the mount there, `/` being the container's root.

use crate::spec::annotations;
use crate::spec::error::SpecError;
use crate::spec::{ROOT_SHARE, SharePlan};
use agent_protocol::{MountPlan, MountSource};
use std::path::Path;
use vmm_api::CachePolicy;

/// What a bundle asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CacheWishes {
    /// For every share that has no wish of its own.
    all: Option<CachePolicy>,
    /// Destinations of mounts, without slashes at their end; the root is empty.
    mounts: Vec<(String, CachePolicy)>,
}

/// Reads the annotation's value; the error is what is wrong with it.
pub(super) fn read(value: &str) -> Result<CacheWishes, String> {
    let mut wishes = CacheWishes::default();
    for word in value.split(',') {
        let Some((destination, policy)) = word.rsplit_once('=') else {
            if wishes.all.replace(read_policy(word)?).is_some() {
                return Err("it has two policies for all shares".to_owned());
            }
            continue;
        };
        if !destination.starts_with('/') {
            return Err(format!("{destination:?} is not the absolute destination of a mount"));
        }
        let trimmed = destination.trim_end_matches('/').to_owned();
        if wishes.mounts.iter().any(|(known, _)| *known == trimmed) {
            return Err(format!("it has two policies for {destination:?}"));
        }
        wishes.mounts.push((trimmed, read_policy(policy)?));
    }
    Ok(wishes)
}

fn read_policy(word: &str) -> Result<CachePolicy, String> {
    match word {
        "none" => Ok(CachePolicy::None),
        "auto" => Ok(CachePolicy::Auto),
        "always" => Ok(CachePolicy::Always),
        _ => Err(format!(
            "{word:?} is no policy; they are none, auto and always, alone for every share or as \
             DESTINATION=POLICY for a mount, with commas between them"
        )),
    }
}

/// Gives each share its policy.
pub(super) fn apply(
    wishes: &CacheWishes,
    default: CachePolicy,
    mounts: &[MountPlan],
    shares: &mut [SharePlan],
) -> Result<(), SpecError> {
    for share in shares.iter_mut() {
        // What a cluster's node agent replaces at once must be seen at once.
        let default = if is_replaced_at_once(&share.path) { CachePolicy::None } else { default };
        share.cache = wishes.all.unwrap_or(default);
    }
    for (destination, policy) in &wishes.mounts {
        let names = shares_at(destination, mounts);
        if names.is_empty() {
            return Err(annotations::invalid(
                "file_cache",
                &format!("{destination}={policy:?}").to_lowercase(),
                "no bind mount has this destination".to_owned(),
            ));
        }
        for share in shares.iter_mut().filter(|share| names.contains(&share.name.as_str())) {
            share.cache = *policy;
        }
    }
    Ok(())
}

/// Whether a path is a volume of a pod whose files change by the swap of a symbolic link.
fn is_replaced_at_once(path: &Path) -> bool {
    const KINDS: [&str; 4] = ["configmap", "secret", "projected", "downward-api"];
    path.iter().any(|part| {
        part.to_str()
            .and_then(|part| part.strip_prefix("kubernetes.io~"))
            .is_some_and(|kind| KINDS.contains(&kind))
    })
}

/// The shares that are mounted there, one over the other.
fn shares_at<'m>(destination: &str, mounts: &'m [MountPlan]) -> Vec<&'m str> {
    let mut names = Vec::new();
    if destination.is_empty() {
        names.push(ROOT_SHARE);
    }
    for mount in mounts {
        if let MountSource::Share { name, .. } = &mount.source
            && mount.destination.trim_end_matches('/') == destination
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_that_are_swapped_are_known_by_their_place() {
        let pods = "/var/lib/kubelet/pods/1-2/volumes";
        let is = |name: &str| is_replaced_at_once(Path::new(&format!("{pods}/{name}")));
        assert!(is("kubernetes.io~configmap/c") && is("kubernetes.io~projected/token"));
        assert!(!is("kubernetes.io~empty-dir/d") && !is("configmap"));
    }

    #[test]
    fn policies_are_read_for_all_shares_and_for_one() {
        let wishes = read("always,/data/=none,/a=b=auto,/=none").unwrap();
        assert_eq!(wishes.all, Some(CachePolicy::Always));
        let mounts = [("/data", CachePolicy::None), ("/a=b", CachePolicy::Auto)];
        let mounts = mounts.map(|(destination, policy)| (destination.to_owned(), policy));
        assert_eq!(wishes.mounts[..2], mounts);
        assert_eq!(wishes.mounts[2], (String::new(), CachePolicy::None));
        assert_eq!(read("/x=auto").unwrap().all, None);
    }

    #[test]
    fn what_is_no_policy_is_named() {
        for (value, named) in [
            ("", "\"\""),
            ("None", "\"None\""),
            ("none,", "\"\""),
            ("none,auto", "two policies for all"),
            ("/x=", "\"\""),
            ("x=none", "\"x\""),
            ("=none", "\"\""),
            ("/x=none,/x/=auto", "\"/x/\""),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(named), "{value:?}: {error}");
        }
    }
}
