//! Another machine in the place of one whose container was created and not started.
//!
//! An engine may make the container's network between the two, as buildah does for `RUN`, and a guest's
//! network devices are those that it was booted with. Nothing is lost with the first machine: no program
//! has run in it.

use super::{Booted, Guest, Prepared, connect_network};
use crate::config::{HostConfig, Parts};
use crate::error::SandboxError;
use crate::hooks::ContainerState;
use crate::limits_change::Settings;
use crate::machine::MachineFiles;
use crate::network::{Connected, Network};
use crate::signals::Signals;
use crate::spec::{ContainerSpec, Hooks, VmPlan};
use crate::terminal::HostTerminal;
use crate::timeline::Timeline;
use std::io;
use std::path::PathBuf;

/// What the first machine was made of.
#[derive(Debug)]
pub(crate) struct Blueprint {
    vm: VmPlan,
    files: MachineFiles,
    kernel_path: PathBuf,
    initrd_path: PathBuf,
    container: ContainerSpec,
    config: HostConfig,
    parts: Parts,
}

impl Blueprint {
    /// Whether the container has these limits, which are those that another machine would be made with.
    pub(crate) fn has_limits(&self, settings: &Settings) -> bool {
        Settings::new(self.container.settings()) == *settings
    }
}

/// Another machine that can be booted.
pub(crate) struct Again {
    prepared: Prepared,
    config: HostConfig,
    parts: Parts,
}

impl Prepared {
    /// Interfaces may come into the container's namespace until it is started.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn expect_late_interfaces(
        &mut self,
        config: &HostConfig,
        parts: &Parts,
    ) -> io::Result<()> {
        if self.namespace.is_some() {
            self.blueprint = Some(Box::new(Blueprint {
                vm: self.vm.clone(),
                files: self.files.without_interfaces()?,
                kernel_path: self.kernel_path.clone(),
                initrd_path: self.initrd_path.clone(),
                container: self.container.clone(),
                config: config.clone(),
                parts: parts.clone(),
            }));
        }
        Ok(())
    }
}

impl Guest {
    /// Ends the machine, and prepares another one with what there is in its network namespace now.
    ///
    /// # Errors
    /// [`SandboxError`]; the container has no machine any more.
    pub(crate) async fn prepare_again(
        &mut self,
        hooks: &Hooks,
        hook_state: &ContainerState,
    ) -> Result<Option<Again>, SandboxError> {
        let (Some(blueprint), Some(record)) = (self.blueprint.take(), self.namespace.clone())
        else {
            return Ok(None);
        };
        self.vm.kill();
        drop(self.vm.ended().await);
        // What was joined with the first machine's taps.
        drop(self.network.take());
        let Blueprint { vm, files, kernel_path, initrd_path, container, config, parts } =
            *blueprint;
        let mut prepared = Prepared {
            id: self.id.clone(),
            // It stays where it is.
            cgroup: None,
            network: None,
            namespace: None,
            name_server: None,
            passt: None,
            state: self.state.again(),
            vm,
            files,
            kernel_path,
            initrd_path,
            container,
            blueprint: None,
            hooks: hooks.clone(),
            hook_state: hook_state.clone(),
        };
        if prepared.has_own_network() {
            prepared.connect_own_network(&record.namespace)?;
        } else {
            let network = Network::look(&record.namespace)?;
            prepared.namespace = Some(network.record());
            let vcpus = prepared.vm.vcpus;
            let connected = connect_network(&mut prepared.state, network, true, vcpus)?;
            if let Some(Connected { host, interfaces, .. }) = connected {
                prepared.network = Some(host);
                prepared.files.interfaces = interfaces;
            }
        }
        Ok(Some(Again { prepared, config, parts }))
    }
}

impl Again {
    /// As [`Prepared::boot`].
    ///
    /// # Errors
    /// [`SandboxError`].
    pub(crate) async fn boot(
        self,
        terminal: Option<HostTerminal>,
        signals: &Signals,
        timeline: &mut Timeline,
    ) -> Result<Booted, SandboxError> {
        let Self { prepared, config, parts } = self;
        prepared.boot(&config, &parts, terminal, signals, timeline).await
    }
}
