//! The shares of a pod: each directory or file of the host is shared once, however many containers
//! mount it, so that all of them see the same pages; one that nobody uses any more goes.

use crate::host_files::OpenShare;
use crate::spec::{ROOT_SHARE, SharePlan};
use std::collections::HashMap;
use std::path::PathBuf;
use vmm_api::CachePolicy;

/// Which shares are one and the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    path: PathBuf,
    /// The path can lead to something else later.
    device: u64,
    inode: u64,
    read_only: bool,
    cache: CachePolicy,
}

#[derive(Debug)]
struct Share {
    name: String,
    /// `None` for a container's root, which is nobody else's.
    identity: Option<Identity>,
    users: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shares {
    known: Vec<Share>,
    next_number: u64,
}

/// What a container's shares mean for its pod.
#[derive(Debug)]
pub(super) struct Taken {
    /// Names in the pod by those in the container's plan.
    pub(super) names: HashMap<String, String>,
    /// Those that the machine does not have yet, with their names in the pod.
    pub(super) new: Vec<OpenShare>,
}

impl Shares {
    /// Those of the first container are in its machine from the start, under the names that they have.
    pub(super) fn know_first(&mut self, plans: &[SharePlan], opened: &[OpenShare]) -> Vec<String> {
        for (plan, share) in plans.iter().zip(opened) {
            let identity = identify(plan, share);
            self.known.push(Share { name: plan.name.clone(), identity, users: 1 });
        }
        plans.iter().map(|plan| plan.name.clone()).collect()
    }

    /// Takes the shares of a further container.
    pub(super) fn take(&mut self, plans: &[SharePlan], opened: Vec<OpenShare>) -> Taken {
        let mut taken = Taken { names: HashMap::new(), new: Vec::new() };
        for (plan, mut share) in plans.iter().zip(opened) {
            let identity = identify(plan, &share);
            let known = identity.as_ref().and_then(|identity| {
                self.known.iter_mut().find(|known| known.identity.as_ref() == Some(identity))
            });
            if let Some(known) = known {
                known.users += 1;
                taken.names.insert(plan.name.clone(), known.name.clone());
                continue;
            }
            self.next_number += 1;
            let name = format!("share{}", self.next_number);
            taken.names.insert(plan.name.clone(), name.clone());
            self.known.push(Share { name: name.clone(), identity, users: 1 });
            share.name = name;
            taken.new.push(share);
        }
        taken
    }

    /// A container does not use these any more; returns those that nobody uses.
    pub(super) fn release<'n>(&mut self, names: impl Iterator<Item = &'n String>) -> Vec<String> {
        for name in names {
            if let Some(share) = self.known.iter_mut().find(|share| share.name == *name) {
                share.users = share.users.saturating_sub(1);
            }
        }
        self.known.extract_if(.., |share| share.users == 0).map(|share| share.name).collect()
    }
}

/// `None` for a container's root.
fn identify(plan: &SharePlan, share: &OpenShare) -> Option<Identity> {
    if plan.name == ROOT_SHARE {
        return None;
    }
    let stat = rustix::fs::fstat(&share.descriptor).ok()?;
    Some(Identity {
        path: plan.path.clone(),
        device: stat.st_dev,
        inode: stat.st_ino,
        read_only: plan.read_only,
        cache: plan.cache,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_files::open_shares;

    fn plans(root: &std::path::Path, volume: &std::path::Path) -> Vec<SharePlan> {
        let share = |name: &str, path: &std::path::Path| SharePlan {
            name: name.to_owned(),
            path: path.to_owned(),
            read_only: false,
            cache: CachePolicy::Auto,
            asked_by: "a test".to_owned(),
        };
        vec![share(ROOT_SHARE, root), share("mount3", volume)]
    }

    #[test]
    fn a_volume_is_shared_once_and_a_root_with_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let plans = plans(directory.path(), directory.path());
        let mut shares = Shares::default();
        let first = shares.know_first(&plans, &open_shares(&plans).unwrap());
        assert_eq!(first, ["root", "mount3"]);
        let mut take = || shares.take(&plans, open_shares(&plans).unwrap());
        let second = take();
        assert_eq!(second.names["mount3"], "mount3");
        assert_eq!(second.names[ROOT_SHARE], "share1");
        assert_eq!(second.new.len(), 1);
        let third = take();
        assert_eq!(third.names[ROOT_SHARE], "share2");
        assert_eq!(shares.release(second.names.values()), ["share1"]);
        assert_eq!(shares.release(first.iter()), ["root"]);
        let mut rest = shares.release(third.names.values());
        rest.sort();
        assert_eq!(rest, ["mount3", "share2"]);
        assert!(shares.known.is_empty());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_another_share() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let plans = plans(directory.path(), &volume);
        let mut shares = Shares::default();
        let first = shares.take(&plans, open_shares(&plans).unwrap());
        std::fs::rename(&volume, directory.path().join("old")).unwrap();
        std::fs::create_dir(&volume).unwrap();
        let second = shares.take(&plans, open_shares(&plans).unwrap());
        assert_ne!(first.names["mount3"], second.names["mount3"]);
    }
}
