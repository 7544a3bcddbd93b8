//! The virtual machine of a pod: one task owns it, takes requests to the VMM and sees its end.

use super::error::PodError;
use crate::create::Guest;
use crate::error::{LastWords, SandboxError};
use crate::host_cgroup::HostCgroup;
use crate::limits_change::{Change, ChangeError, HostUndo, apply_on_host};
use crate::network::HostNetwork;
use crate::process::ProcessRef;
use crate::store::StateDir;
use crate::vm_process::{VmEnd, VmError, VmProcess};
use agent_protocol::Statistics;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use vmm_api::Request;

/// Requests that wait for the VMM.
const QUEUE: usize = 64;

/// What the task is asked for.
enum Ask {
    Request {
        name: &'static str,
        request: Request,
        descriptors: Vec<OwnedFd>,
        answer: oneshot::Sender<Result<(), PodError>>,
    },
    /// The host's part of a change of limits.
    Limits {
        change: Change,
        answer: oneshot::Sender<Result<(Change, HostUndo), ChangeError>>,
    },
    Stop,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    asks: mpsc::Sender<Ask>,
    /// Why it has ended, once nothing is left of it; empty if that was asked for.
    ended: watch::Receiver<Option<String>>,
    reference: Option<ProcessRef>,
    /// The cgroup that it is in.
    cgroup: Option<PathBuf>,
    deadline: Duration,
}

/// What ends with the machine, in this order.
struct Owned {
    vm: VmProcess,
    network: Option<HostNetwork>,
    cgroup: Option<HostCgroup>,
    state: StateDir,
    deadline: Duration,
}

impl Machine {
    /// Takes the machine of a guest, and gives back what is not the machine's.
    pub(super) fn own(
        guest: Guest,
    ) -> (Self, agent_client::Client, mpsc::Receiver<agent_protocol::Event>) {
        let Guest { client, events, vm, cgroup, network, state, deadline, .. } = guest;
        let reference = vm.reference();
        let path = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let (asks, queue) = mpsc::channel(QUEUE);
        let (sender, ended) = watch::channel(None);
        let owned = Owned { vm, network, cgroup, state, deadline };
        drop(tokio::spawn(async move {
            let reason = owned.live(queue).await;
            sender.send_replace(Some(reason));
        }));
        (Self { asks, ended, reference, cgroup: path, deadline }, client, events)
    }

    /// What is used in the cgroup that it is in, if it is in one of its own.
    pub(super) fn statistics(&self) -> Option<Statistics> {
        self.cgroup.as_deref().map(HostCgroup::statistics)
    }

    /// Process id of the VMM on the host.
    pub(super) fn pid(&self) -> Option<u32> {
        self.reference.and_then(|reference| u32::try_from(reference.pid).ok())
    }

    /// Asks the VMM. Those who ask one that does not answer wait for their own deadline each, and not for
    /// those of all before them.
    ///
    /// # Errors
    /// [`PodError`].
    pub(super) async fn ask(
        &self,
        name: &'static str,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), PodError> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Request { name, request, descriptors, answer };
        let deadline = self.deadline;
        let exchange = async {
            if self.asks.send(ask).await.is_err() {
                return Err(self.gone().await);
            }
            match answered.await {
                Ok(result) => result,
                Err(_) => Err(self.gone().await),
            }
        };
        let done = tokio::time::timeout(deadline, exchange).await;
        done.unwrap_or_else(|_| Err(SandboxError::MachineHangs { deadline }.into()))
    }

    /// Does the host's part of a change of limits; gives the change back, with what undoes it.
    ///
    /// # Errors
    /// [`PodError`]; then nothing is changed. `container` is whose limits they are.
    pub(super) async fn limit(
        &self,
        container: &str,
        change: Change,
    ) -> Result<(Change, HostUndo), PodError> {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Limits { change, answer }).await.is_err() {
            return Err(self.gone().await);
        }
        match answered.await {
            Ok(done) => done.map_err(|error| PodError::Limit {
                id: container.to_owned(),
                problem: crate::text::chain(&error),
            }),
            Err(_) => Err(self.gone().await),
        }
    }

    /// Why it is not there any more.
    async fn gone(&self) -> PodError {
        PodError::MachineEnded { reason: self.ended().await }
    }

    /// Waits until nothing is left of it; returns why it has ended.
    pub(super) async fn ended(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its supervisor's task is gone".to_owned(),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Ends it and waits until nothing is left of it.
    pub(super) async fn stop(&self) {
        // The task is gone only if the machine is.
        let _ = self.asks.send(Ask::Stop).await;
        self.ended().await;
    }
}

impl Owned {
    /// Until the machine ends or is to end. Returns why it ended by itself.
    async fn live(mut self, mut asks: mpsc::Receiver<Ask>) -> String {
        let mut reason = String::new();
        loop {
            tokio::select! {
                biased;
                end = self.vm.ended() => {
                    reason = self.describe(end);
                    break;
                }
                gone = HostNetwork::interface_gone(&mut self.network) => {
                    let request = Request::UnplugNet { index: gone.place };
                    // A machine that cannot be asked ends, and is seen to.
                    let _ = self.exchange("UnplugNet", request, &[]).await;
                }
                ask = asks.recv() => match ask {
                    // Nobody waits for it any more.
                    Some(Ask::Request { answer, .. }) if answer.is_closed() => {}
                    Some(Ask::Request { name, request, descriptors, answer }) => {
                        let done = self.exchange(name, request, &descriptors).await;
                        let ended = match &done {
                            Err(PodError::MachineEnded { reason }) => Some(reason.clone()),
                            _ => None,
                        };
                        // Who has given up asking needs no answer.
                        let _ = answer.send(done);
                        if let Some(ended) = ended {
                            reason = ended;
                            break;
                        }
                    }
                    Some(Ask::Limits { change, answer }) => {
                        let reference = self.vm.reference();
                        let done = apply_on_host(&change, self.cgroup.as_ref(), reference);
                        // Who has given up asking hears of nothing, and undoes it.
                        if let Err(Ok((_, undo))) = answer.send(done.map(|undo| (change, undo))) {
                            undo.run();
                        }
                    }
                    Some(Ask::Stop) | None => break,
                },
            }
        }
        drop(asks);
        let Self { vm, network, cgroup, state, .. } = self;
        vm.kill();
        let network = network.map(HostNetwork::take_apart);
        if let Err(error) = vm.stop().await {
            tracing::warn!("the virtual machine could not be waited for: {error}");
        }
        if let Some(network) = network {
            // It has said what went wrong.
            drop(network.await);
        }
        // What is written down goes after what it speaks of.
        drop(cgroup);
        drop(state);
        reason
    }

    fn describe(&self, end: VmEnd) -> String {
        let console: LastWords = self.state.last_words();
        let host_killed = self.cgroup.as_ref().is_some_and(HostCgroup::oom_killed);
        let error = if host_killed {
            SandboxError::HostOutOfMemory { end, console }
        } else {
            SandboxError::VmDied { end, console }
        };
        crate::text::chain(&error)
    }

    async fn exchange(
        &mut self,
        name: &'static str,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> Result<(), PodError> {
        let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let vm = &mut self.vm;
        let exchange = async {
            let asked = vm.ask(request, &fds).await?;
            vm.answer(asked).await
        };
        match tokio::time::timeout(self.deadline, exchange).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(VmError::Refused(refusal))) => {
                Err(PodError::MachineRefused { request: name, problem: refusal.to_string() })
            }
            Ok(Err(VmError::Ended(end))) => {
                Err(PodError::MachineEnded { reason: self.describe(end) })
            }
            Ok(Err(error)) => Err(SandboxError::Machine(error).into()),
            Err(_) => Err(SandboxError::MachineHangs { deadline: self.deadline }.into()),
        }
    }
}
