//! The network namespace that an engine has prepared, connected to a guest: each Ethernet interface
//! in it is joined with a tap, whose other end is the guest's interface of the same name.
//!
//! ```text
//!  engine's bridge ── veth | eth0 ⇄ tap | virtio-net ── eth0 of the guest
//!                          '------------'
//!                      network namespace: what comes in on one goes out on the other
//! ```
//!
//! The guest's interface has the address, MTU, addresses, routes and permanent neighbours of the
//! engine's one. The host's own stack in that namespace sees none of the traffic. What is made there
//! is the tap, which goes with its last descriptor, and a queueing discipline on each of the two.

mod late;
mod links;
mod loopback;
mod names;
mod redirect;
mod rules;
mod scan;
mod socket_lookup;
mod tap;

use agent_protocol::InterfacePlan;
pub(crate) use links::Gone;
use links::Links;
pub(crate) use loopback::Loopback;
use names::NameRelay;
pub(crate) use names::NameServer;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use scan::Found;
use serde::{Deserialize, Serialize};
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use vmm_api::MAX_NET_PAIRS;

/// How long the kernel's answers may take in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a guest could not be connected.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace cannot be opened.
    #[error("the network namespace {} cannot be opened", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is this thread's own.
    #[error(
        "the network namespace {} is the host's, which a guest must not have: give the container a \
         namespace of its own",
        path.display()
    )]
    Host {
        /// Its path.
        path: PathBuf,
    },
    /// The bundle has no network of its own, and its caller is an engine.
    #[error(
        "linux.namespaces has no network: the container would have the host's (--network host), which a \
         virtual machine must not have; let the engine give it a network of its own, with published \
         ports, or none"
    )]
    HostAsked,
    /// It belongs to another container.
    #[error(
        "the network namespace {} is of a container in another virtual machine, and cannot be joined: \
         connect both to a network of the engine",
        path.display()
    )]
    Joined {
        /// Its path.
        path: PathBuf,
    },
    /// It was put there after the guest had been connected.
    #[error(
        "the interface {name} has been put into the network namespace {} after the container was created, \
         and cannot be connected any more: put it there before, or by a createRuntime hook",
        path.display()
    )]
    Late {
        /// The interface.
        name: String,
        /// The namespace.
        path: PathBuf,
    },
    /// It was taken away before the container was started.
    #[error(
        "interface {index} of the network namespace {}, which the guest was connected to, is gone",
        path.display()
    )]
    Gone {
        /// Its number.
        index: u32,
        /// The namespace.
        path: PathBuf,
    },
    /// It cannot be entered, or its thread not be started.
    #[error("the network namespace {} cannot be entered", path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{step}")]
    Kernel {
        /// What was asked for.
        step: String,
        /// Its answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A tap cannot be made.
    #[error("{step}")]
    Tap {
        /// What was asked for.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Connections to its loopback addresses cannot be taken.
    #[error(
        "connections to loopback addresses of the network namespace {} cannot be taken: {step}",
        path.display()
    )]
    Loopback {
        /// Its path.
        path: PathBuf,
        /// What was asked for.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel does not answer.
    #[error("the kernel has not answered about the network within {PATIENCE:?}")]
    Silence,
    /// Something in the namespace that a guest cannot have.
    #[error("{what} in the network namespace {}: {remedy}", path.display())]
    Unsupported {
        /// What.
        what: String,
        /// The namespace.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
}

/// An interface of the guest.
#[derive(Debug)]
pub(crate) struct Interface {
    /// The VMM's end.
    pub(crate) backend: InterfaceBackend,
    /// What the guest makes of it.
    pub(crate) plan: InterfacePlan,
    /// Addresses that it may send from.
    pub(crate) sources: Vec<IpAddr>,
}

/// What the VMM sends an interface's frames to.
#[derive(Debug)]
pub(crate) enum InterfaceBackend {
    /// A tap.
    Tap {
        /// Its descriptors, one for each pair of queues of the guest's interface.
        taps: Vec<OwnedFd>,
        /// Segments of UDP are left to its reader, too.
        uso: bool,
    },
    /// A program's stream.
    Stream(OwnedFd),
}

/// The interfaces of a namespace, not connected yet.
#[derive(Debug)]
pub(crate) struct Network {
    path: PathBuf,
    namespace: OwnedFd,
    found: Vec<Found>,
    /// Where the engine has a name server that only this namespace reaches.
    name_server: Option<Ipv4Addr>,
}

/// A network that is connected.
#[derive(Debug)]
pub(crate) struct Connected {
    /// To be held.
    pub(crate) host: HostNetwork,
    /// In the order of the host's.
    pub(crate) interfaces: Vec<Interface>,
    /// The engine's, if it has one that the guest could not reach otherwise.
    pub(crate) name_server: Option<NameServer>,
}

impl Network {
    /// Looks at a namespace: every Ethernet interface that is up will be connected.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn look(path: &Path) -> Result<Self, NetworkError> {
        if is_of_supervisor(path) {
            return Err(NetworkError::Joined { path: path.to_owned() });
        }
        Self::look_at_own(path)
    }

    /// The same for the namespace of this process's first thread.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn look_at_own(path: &Path) -> Result<Self, NetworkError> {
        let namespace = open(path)?;
        let found = inside(path, &namespace, async {
            let handle = redirect::handle()?;
            scan::interfaces(&handle, path).await
        })?;
        Ok(Self { path: path.to_owned(), namespace, found, name_server: None })
    }

    /// Looks for the engine's name server, if the container's `resolv.conf` has one at a loopback
    /// address. For namespaces that are nobody else's: that of the server gets settings of its own.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub(crate) fn look_for_names(&mut self, resolv_conf: &str) -> Result<(), NetworkError> {
        let has_interfaces = !self.found.is_empty();
        self.name_server = inside(&self.path, &self.namespace, async {
            Ok(has_interfaces.then(|| names::find(resolv_conf)).flatten())
        })?;
        Ok(())
    }

    /// What will be changed.
    pub(crate) fn record(&self) -> NetworkRecord {
        let interfaces = self.found.iter().map(|found| found.index).collect();
        NetworkRecord { namespace: self.path.clone(), interfaces }
    }

    /// Connects them, each by as many pairs of queues as a guest with `vcpus` virtual CPUs can use.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left in the namespace.
    pub(crate) fn connect(self, vcpus: u8) -> Result<Connected, NetworkError> {
        let pairs = vcpus.clamp(1, MAX_NET_PAIRS);
        let record = self.record();
        let Self { path, namespace, found, name_server } = self;
        let (links, interfaces, taps) = inside(&path, &namespace, async {
            let links = Links::listen(&found).map_err(|source| NetworkError::Tap {
                step: "listening for interfaces that go".to_owned(),
                source,
            })?;
            let handle = redirect::handle()?;
            let (mut connected, mut joined, mut taps) = (Vec::new(), Vec::new(), Vec::new());
            for found in found {
                let index = found.index;
                match redirect::join(&handle, found, pairs, name_server.is_some()).await {
                    Ok((interface, tap)) => {
                        connected.push(interface);
                        taps.push(tap);
                    }
                    Err(error) => {
                        redirect::leave(&handle, &joined).await;
                        return Err(error);
                    }
                }
                joined.push(index);
            }
            Ok((links, connected, taps))
        })?;
        let mut host = HostNetwork { record, taps, links, names: None };
        let mut asked = None;
        if let Some(address) = name_server {
            inside(&path, &namespace, async {
                names::reserve_ports().map_err(|source| NetworkError::Tap {
                    step: format!("giving the name server at {address} ports of its own"),
                    source,
                })
            })?;
            let (relay, server) = names::relay(address, namespace, &path)?;
            host.names = Some(relay);
            asked = Some(server);
        }
        Ok(Connected { host, interfaces, name_server: asked })
    }
}

/// What is written down of a network before it is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// The namespace.
    pub(crate) namespace: PathBuf,
    /// Numbers of the interfaces in it that are changed.
    pub(crate) interfaces: Vec<u32>,
}

/// A connected network, which is taken apart when it is dropped.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    record: NetworkRecord,
    /// Numbers of the taps.
    taps: Vec<u32>,
    links: Links,
    /// Held for its end.
    names: Option<NameRelay>,
}

impl HostNetwork {
    /// Waits for the next interface of the engine's that goes, and says so. For ever, if there is no
    /// network.
    pub(crate) async fn interface_gone(network: &mut Option<Self>) -> Gone {
        let Some(Self { record, links, .. }) = network else { return pending().await };
        match links.gone().await {
            Ok(gone) => {
                let Gone { name, .. } = &gone;
                let path = record.namespace.display();
                tracing::warn!(
                    "the interface {name} of the network namespace {path} is gone: the guest's link is down"
                );
                gone
            }
            Err(error) => {
                links.close();
                tracing::warn!("interfaces that go are not noticed any more: {error}");
                pending().await
            }
        }
    }

    /// Begins to take it apart while the caller ends the machine; to be waited for.
    ///
    /// A tap goes with its last descriptor, but whoever closes that waits until no processor can still see
    /// the tap: for the end of a VMM that would be after its memory is given back.
    pub(crate) fn take_apart(self) -> JoinHandle<()> {
        tokio::task::spawn_blocking(move || drop(self))
    }
}

impl Drop for HostNetwork {
    fn drop(&mut self) {
        take_away(&self.record, &self.taps);
    }
}

/// Takes what [`Network::connect`] has made off the engine's interfaces. A namespace that is gone has
/// taken it along.
pub(crate) fn disconnect(record: &NetworkRecord) {
    take_away(record, &[]);
}

fn take_away(NetworkRecord { namespace: path, interfaces }: &NetworkRecord, taps: &[u32]) {
    let outcome = open(path).and_then(|namespace| {
        inside(path, &namespace, async {
            let handle = redirect::handle()?;
            redirect::leave(&handle, interfaces).await;
            for tap in taps {
                // It is gone with its machine: that is what is wanted.
                let _ = handle.link().del(*tap).execute().await;
            }
            Ok(())
        })
    });
    match outcome {
        Ok(()) | Err(NetworkError::Open { .. }) => {}
        Err(error) => tracing::warn!("{}", crate::text::chain(&error)),
    }
}

/// Whether it is named by the process of a container whose supervisor is this program.
fn is_of_supervisor(path: &Path) -> bool {
    let Some(process) = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()) else {
        return false;
    };
    // Of whoever asks, `self` and `thread-self` are no number.
    let is_number = process.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let identity = |process: &Path| {
        let program = rustix::fs::stat(process.join("exe")).ok()?;
        Some((program.st_dev, program.st_ino))
    };
    let theirs = identity(&Path::new("/proc").join(process));
    is_number && theirs.is_some() && theirs == identity(Path::new("/proc/self"))
}

fn open(path: &Path) -> Result<OwnedFd, NetworkError> {
    let open =
        |path: &Path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let failed = |source: rustix::io::Errno| NetworkError::Open {
        path: path.to_owned(),
        source: source.into(),
    };
    let namespace = open(path).map_err(failed)?;
    let own = open(Path::new("/proc/thread-self/ns/net")).map_err(failed)?;
    let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    if identity(&namespace).map_err(failed)? == identity(&own).map_err(failed)? {
        return Err(NetworkError::Host { path: path.to_owned() });
    }
    Ok(namespace)
}

/// Does `work` on a thread that is in the namespace, and nothing else: other threads stay where they
/// are.
fn inside<T: Send>(
    path: &Path,
    namespace: &OwnedFd,
    work: impl Future<Output = Result<T, NetworkError>> + Send,
) -> Result<T, NetworkError> {
    let failed = |source: io::Error| NetworkError::Enter { path: path.to_owned(), source };
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, || {
                enter(namespace).map_err(failed)?;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(failed)?;
                runtime.block_on(async {
                    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(NetworkError::Silence))
                })
            });
        let ended = thread.map_err(failed)?.join();
        ended.unwrap_or_else(|_| Err(failed(io::Error::other("its thread has panicked"))))
    })
}

/// Moves the calling thread into a network namespace.
fn enter(namespace: &OwnedFd) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace.as_fd(), kind).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;
