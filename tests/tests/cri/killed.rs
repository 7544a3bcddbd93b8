//! Pods whose virtual machine or shim is killed, beside one that goes on.

use integration_tests::host;
use rustix::process::{Signal, kill_process};

use crate::RINGFENCE;
use crate::daemon::{Containerd, wait_until};
use crate::messages::NOT_READY;
use crate::pod::{PATIENCE, Pod, UNTIL_TERM};

/// Their containers have ended and not well, and what is left of them can be removed.
pub(crate) fn killed(containerd: &Containerd) {
    let on = Pod::run(containerd, RINGFENCE, "goes-on");
    let goes_on = on.start(UNTIL_TERM);
    for name in ["machine", "shim"] {
        let pod = Pod::run(containerd, RINGFENCE, name);
        let container = pod.start(UNTIL_TERM);
        container.wait_for_log("stdout F up");
        let shim = pod.shim();
        let victim = if name == "shim" { shim } else { host::vmm_of(shim) };
        kill_process(victim, Signal::KILL).expect("it is there");
        let status = container.exited();
        assert_ne!(status.exit_code, 0, "{name}: {status:?}");
        wait_until("the pod is not ready", PATIENCE, || pod.status().state == NOT_READY);
        assert!(container.try_exec("true").is_err());
        container.remove();
        pod.remove();
        assert_eq!(goes_on.say("echo here"), "here\n");
    }
    on.remove();
}
